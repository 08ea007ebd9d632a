// Pages behind each proxy of docs/in-front.md, while it and the sidecars are restarted: see pages.mjs.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { ids, post, until, write } from "../../../clients/js/test/stand.mjs";
import { everywhere, FRONTS, openAll, openEmpty } from "./pages.mjs";

// HAProxy holds events back for 200 ms if nobody tells it not to; an idle machine needs 5 ms.
const AT_ONCE_MS = 150;

test("pages behind each proxy", async () => {
  const pages = await openAll();
  const wanted = [];
  const add = async (key) => {
    await write(["insert", key]);
    wanted.push(key);
  };

  const delays = Object.fromEntries(pages.map(({ name }) => [name, []]));
  for (const key of ids(7)) {
    const begun = Date.now();
    await add(key);
    await everywhere(pages, key);
    for (const each of pages) delays[each.name].push(Math.max(...(await each.sources()).map(({ times }) => times.at(-1) - begun)));
  }
  console.log(`# delays in ms: ${JSON.stringify(delays)}`);
  // The quickest round: a proxy that holds events back does so each time, a busy machine does not.
  for (const { name } of pages) assert.ok(Math.min(...delays[name]) < AT_ONCE_MS, `${name}: ${delays[name]} ms`);

  // While `change` runs, an event every 20 ms or so.
  async function meanwhile(change) {
    let isOver = false;
    const changing = change().finally(() => { isOver = true; });
    while (!isOver) {
      await add(ids(1)[0]);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    await changing;
    const [key] = ids(1);
    await add(key);
    await everywhere(pages, key);
  }

  await meanwhile(() => post("/front/restart", {}));
  for (const sidecar of [0, 1]) await meanwhile(() => post("/restart", { sidecar }));
  await meanwhile(() => post("/restart", { sidecar: 0, signal: "KILL" }));

  for (const { name, sources } of pages) {
    for (const { keys, state } of await sources()) {
      assert.notEqual(state, 2, `${name}: a page is dead`);
      const told = keys.filter((key) => wanted.includes(key));
      assert.deepEqual(wanted.filter((key) => !told.includes(key)), [], `${name}: lost`);
      assert.deepEqual(told, wanted, `${name}: twice, or out of order`);
    }
  }
  console.log(`# ${wanted.length} events`);
});

// Traefik answers with 404 until it has read its routes, which ends an EventSource: docs/in-front.md.
test("a page with the documented lines, and Traefik restarted", { skip: !FRONTS.traefik }, async () => {
  const page = await openEmpty("traefik");
  const lines = readFileSync(path.join(process.env.RECIPES, "page.mjs"), "utf8");
  await page.evaluate(`(async () => {
    const url = URL.createObjectURL(new Blob([${JSON.stringify(lines)}], { type: 'text/javascript' }));
    const { follow } = await import(url);
    window.heard = [];
    follow('/_events/things', (type, data) => type === 'insert' && heard.push(data.documentKey._id));
  })()`);
  await until("the first event", async () => {
    await write(["insert", ids(1)[0]]);
    return page.evaluate(() => heard.length);
  });
  const wanted = [];
  const add = async () => {
    wanted.push(...ids(1));
    await write(["insert", wanted.at(-1)]);
  };
  for (let round = 0; round < 3; round++) {
    const restarted = post("/front/restart", { name: "traefik" });
    for (let event = 0; event < 10; event++) await add();
    await restarted;
    await add();
    await until("the last event", () => page.evaluate((key) => heard.at(-1) === key, wanted.at(-1)), 60);
  }
  const told = await page.evaluate((keys) => heard.filter((key) => keys.includes(key)), wanted);
  assert.deepEqual(told, wanted);
});
