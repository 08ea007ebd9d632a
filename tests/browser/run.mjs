// Runs the browser tests: real MongoDB, real Sidestream, real EventSource. An argument, a part of a
// test's name, runs only the tests that have it.

import assert from "node:assert/strict";
import path from "node:path";
import { App, ARTIFACTS, cleanUp, startBrowser, startDemo } from "./harness.mjs";
import { tests as classroom } from "./classroom.mjs";
import { tests as ofConsole } from "./console.mjs";
import { tests as examples } from "./examples.mjs";
import { tests as snapshots } from "./snapshots.mjs";

const tests = [...classroom, ...ofConsole, ...examples, ...snapshots];

let passed = 0;
let failed = 0;
const only = process.argv[2];
try {
  const demo = await startDemo();
  const browser = await startBrowser();
  const app = new App(demo.url);
  for (const { name, body } of tests) {
    if (only && !name.includes(only)) continue;
    const begun = Date.now();
    const pages = [];
    // The pages of a test, for its screenshots when it fails.
    const watched = { newContext: async (options) => {
      const context = await browser.newContext(options);
      context.on("page", (page) => pages.push(page));
      return context;
    } };
    try {
      await body({ browser: watched, demo, app });
      const errors = pages.flatMap((page) => page.errors ?? []);
      assert.deepEqual(errors, [], "errors in the page");
      passed++;
      console.log(`ok      ${name} (${Date.now() - begun} ms)`);
    } catch (error) {
      failed++;
      console.log(`FAILED  ${name}\n${error.stack}`);
      for (const [index, page] of pages.entries()) {
        const file = path.join(ARTIFACTS, `failed-${failed}-${index}.png`);
        await page.screenshot({ path: file, fullPage: true }).catch(() => {});
        console.log(`        what page ${index} showed: ${file}`);
      }
    }
    for (const page of pages) await page.context().close();
  }
} catch (error) {
  failed++;
  console.log(`FAILED  ${error.stack}`);
}
await cleanUp();
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed || !passed ? 1 : 0);
