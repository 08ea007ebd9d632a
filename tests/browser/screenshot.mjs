// A picture of the demo: the teacher's page, some answers on it, one just arriving.

import path from "node:path";
import { App, cleanUp, isLive, openPage, startBrowser, startDemo, until } from "./harness.mjs";

const file = path.resolve(process.argv[2] ?? "demo.png");
const CLASS = ["Ada", "Alan", "Barbara", "Donald", "Edsger", "Frances", "Grace", "Ken", "Katherine"];
const ANSWERS = ["Saturn", "Jupiter", "Saturn", "Saturn", "Neptune", "Saturn", "Jupiter", "Saturn", "Saturn"];

let status = 0;
try {
  const demo = await startDemo();
  const browser = await startBrowser();
  const app = new App(demo.url);
  const page = await openPage(browser, `${demo.url}/teacher`, {
    viewport: { width: 1080, height: 770 },
    deviceScaleFactor: 2,
    reducedMotion: "reduce",
  });
  await isLive(page);
  for (const [index, student] of CLASS.entries()) await app.answer(demo.question, student, ANSWERS[index]);
  await until("all answers", async () => (await page.textContent("#total")) === String(CLASS.length));
  await page.screenshot({ path: file });
  console.log(file);
} catch (error) {
  console.error(error.stack);
  status = 1;
}
await cleanUp();
process.exit(status);
