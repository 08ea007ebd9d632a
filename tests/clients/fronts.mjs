// Pages in Chromium behind each proxy of docs/in-front.md, while it and the sidecars are restarted. The pages
// have nothing but EventSource: they do not reopen what a browser gives up.
//
// APP is the stand's address, FRONTS those of the proxies by name, SILENCE seconds in which nothing happens.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { chromium } from "playwright-core";
import { ids, post, until, write } from "../../clients/js/test/stand.mjs";

const SOURCES = 3;
const FRONTS = JSON.parse(process.env.FRONTS);
const SILENCE = Number(process.env.SILENCE);
// HAProxy holds events back for 200 ms if nobody tells it not to; an idle machine needs 5 ms.
const AT_ONCE_MS = 150;

let browser;
before(async () => {
  browser = await chromium.launch({
    executablePath: process.env.CHROMIUM || "/usr/bin/chromium",
    // No sandbox: CI runs as root, where Chromium refuses to have one. It only sees our own pages.
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
      "--disable-background-networking", "--disable-component-update", "--disable-sync"],
  });
});
after(() => browser?.close());

const OPEN = `
  window.sources = Array.from({ length: ${SOURCES} }, () => {
    const all = { source: new EventSource('/_events/things'), heard: [], opened: 0 };
    all.source.onopen = () => all.opened++;
    all.source.addEventListener('insert', (event) =>
      all.heard.push([JSON.parse(event.data).documentKey._id, Date.now()]));
    return all;
  });
  0`;

async function openPage(name) {
  const context = await browser.newContext();
  const page = await context.newPage();
  await page.goto(`http://127.0.0.1:${FRONTS[name]}/page.html`);
  await page.evaluate(OPEN);
  const sources = () => page.evaluate(() => sources.map(({ source, heard, opened }) => (
    { state: source.readyState, keys: heard.map(([key]) => key), times: heard.map(([, at]) => at), opened })));
  return { name, page, sources };
}

const everywhere = (pages, key) => Promise.all(pages.map(({ name, page, sources }) => until(`${name}: event ${key}`, async () => {
  if (await page.evaluate((wanted) => sources.every(({ heard }) => heard.at(-1)?.[0] === wanted), key)) return true;
  const states = (await sources()).map(({ state }) => state);
  assert.ok(!states.includes(2), `${name}: a page is dead: ${states}`);
  return false;
}, 60)));

test("pages behind each proxy", async () => {
  const pages = await Promise.all(Object.keys(FRONTS).map(openPage));
  // Until all have heard something: what came before they were open is not for them.
  for (let isOpen = false; !isOpen;) {
    await write(["insert", ids(1)[0]]);
    const all = await Promise.all(pages.map((each) => each.sources()));
    isOpen = all.flat().every(({ keys }) => keys.length > 0);
  }

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

  if (SILENCE) {
    const before = await Promise.all(pages.map((each) => each.sources()));
    await new Promise((resolve) => setTimeout(resolve, SILENCE * 1000));
    const behind = await Promise.all(pages.map((each) => each.sources()));
    for (const [index, { name }] of pages.entries()) {
      assert.deepEqual(behind[index].map((each) => each.opened), before[index].map((each) => each.opened),
        `${name}: cut within ${SILENCE} s of silence`);
    }
    const [key] = ids(1);
    await add(key);
    await everywhere(pages, key);
  }

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
