// In Chromium: a page with EventSource and the lines of docs/clients.md, clients/js in six tabs with one
// connection over HTTP/1.1, and the React hook. RECIPES holds the documented lines as modules.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { after, before, test } from "node:test";
import { build } from "esbuild";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";
import { ids, post, relay, stored, until, write } from "../../clients/js/test/stand.mjs";

const TABS = 6;
const here = path.dirname(fileURLToPath(import.meta.url));
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

// The requests for streams that are under way in any tab.
function openStreams(context) {
  const streams = new Set();
  context.on("request", (request) => {
    if (!request.url().includes("/_events/")) return;
    streams.add(request);
    // The requests of a page that is closed are not told of.
    request.frame().page().once("close", () => streams.delete(request));
  });
  for (const ended of ["requestfinished", "requestfailed"]) context.on(ended, (request) => streams.delete(request));
  return streams;
}

async function openTab(context, origin, script) {
  const page = await context.newPage();
  page.on("pageerror", (error) => console.error(`in a page: ${error}`));
  await page.goto(`${origin}/page.html`);
  await page.evaluate(script);
  return page;
}

const FOLLOW = `(async () => {
  const { shared } = await import('/js/tabs.js');
  window.heard = [];
  window.things = shared('/_events/things', {
    load: async () => (await fetch('/documents')).json(),
    onEvent: ({ event, data }) => data.documentKey && heard.push([event, data.documentKey._id]),
    retry: 50,
  });
})()`;

const heard = (page, keys) => page.evaluate((wanted) => heard.filter(([, key]) => wanted.includes(key)), keys);
const has = (page, key) => page.evaluate((wanted) => Boolean(things.get(wanted)), key);
const documents = async (page) => page.evaluate(() => things.documents.map((each) => [each._id, each.version]).sort());
const inDatabase = async () => (await stored()).map((each) => [each._id, each.version]).sort();

async function all(pages, what, condition) {
  for (const [index, page] of pages.entries()) await until(`tab ${index}: ${what}`, () => condition(page));
}

test("a page with the documented lines loses nothing, through cuts and through what ends an EventSource", async (t) => {
  const context = await browser.newContext();
  t.after(() => context.close());
  const way = await relay({ seed: 5, mean: 8000 });
  const lines = readFileSync(path.join(process.env.RECIPES, "page.mjs"), "utf8");
  const page = await openTab(context, way.origin, `(async () => {
    const url = URL.createObjectURL(new Blob([${JSON.stringify(lines)}], { type: 'text/javascript' }));
    const { follow } = await import(url);
    window.heard = [];
    follow('/_events/things', (type, data) => data.documentKey && heard.push([type, data.documentKey._id]));
  })()`);
  // What is written before the stream is open is not for it.
  await until("the first event", async () => {
    await write(["insert", ids(1)[0]]);
    return page.evaluate(() => heard.length);
  });

  const keys = ids(400);
  await way.set({ mode: "cutting", cut: true });
  for (let start = 0; start < 300; start += 50) await write(...keys.slice(start, start + 50).map((key) => ["insert", key]));
  await until("the last event", () => page.evaluate((key) => heard.at(-1)?.[1] === key, keys[299]));
  assert.ok((await way.state()).cuts > 5);

  const before = (await way.state()).connections;
  await way.set({ mode: "refusing", cut: true });
  await until("two refusals", async () => (await way.state()).connections >= before + 2);
  await write(...keys.slice(300).map((key) => ["insert", key]));
  await way.set({ mode: "plain" });
  await until("the last event", () => page.evaluate((key) => heard.at(-1)?.[1] === key, keys[399]));
  assert.deepEqual(await heard(page, keys), keys.map((key) => ["insert", key]));
});

test("six tabs have one connection, and lose nothing when the one that holds it is closed", async (t) => {
  const context = await browser.newContext();
  t.after(() => context.close());
  const way = await relay();
  const streams = openStreams(context);
  const tabs = [];
  for (let index = 0; index < TABS; index++) tabs.push(await openTab(context, way.origin, FOLLOW));
  await all(tabs, "being live", (page) => page.evaluate(() => window.things?.status === "live"));
  assert.equal(streams.size, 1);

  const keys = ids(60);
  await write(...keys.slice(0, 20).map((key) => ["insert", key]));
  await all(tabs, "the first events", (page) => has(page, keys[19]));

  // Events come before, while and after the holder goes.
  const [holder] = tabs.splice(tabs.findIndex((page) => page === [...streams][0].frame().page()), 1);
  const writing = (async () => {
    for (const key of keys.slice(20, 50)) await write(["insert", key], ["update", key]);
  })();
  await all(tabs.slice(0, 1), "some of them", (page) => has(page, keys[25]));
  await holder.close();
  await writing;
  await write(...keys.slice(50).map((key) => ["insert", key]));
  await all(tabs, "the last event", (page) => has(page, keys[59]));
  assert.equal(streams.size, 1);

  const wanted = keys.flatMap((key, index) => (index < 20 || index >= 50
    ? [["insert", key]] : [["insert", key], ["update", key]]));
  for (const page of tabs) assert.deepEqual(await heard(page, keys), wanted);

  // A tab that comes later has it all, and the six still have one connection.
  tabs.push(await openTab(context, way.origin, FOLLOW));
  await all(tabs.slice(-1), "what was before it came", (page) => has(page, keys[0]));
  assert.equal(streams.size, 1);
  const stand = await inDatabase();
  await all(tabs, "the same documents as the database", async (page) =>
    JSON.stringify(await documents(page)) === JSON.stringify(stand));
});

test("the React hook renders what the database has, and closes the stream with the last component", async (t) => {
  const context = await browser.newContext();
  t.after(() => context.close());
  const way = await relay();
  const streams = openStreams(context);
  const { outputFiles } = await build({
    stdin: {
      resolveDir: here,
      contents: `
        import { createElement, StrictMode, useState } from 'react';
        import { createRoot } from 'react-dom/client';
        import { useLive } from '../../clients/js/react.js';
        const load = async () => (await fetch('/documents')).json();
        function Things() {
          const { documents, status } = useLive('/_events/things', { load, retry: 50 });
          return createElement('p', { id: 'things' }, status + ' ' + documents.map((each) => each._id).join(' '));
        }
        function Page() {
          const [isShown, setIsShown] = useState(true);
          window.hide = () => setIsShown(false);
          return isShown ? createElement(Things) : null;
        }
        createRoot(document.getElementById('root')).render(createElement(StrictMode, null, createElement(Page)));
      `,
    },
    bundle: true,
    write: false,
    nodePaths: [path.join(here, "node_modules")],
    define: { "process.env.NODE_ENV": '"development"' },
  });
  const page = await openTab(context, way.origin, outputFiles[0].text);
  const [key] = ids(1);
  const text = () => page.locator("#things").textContent();
  await until("the stream", async () => (await text()).startsWith("live"));
  await write(["insert", key]);
  await until("the document", async () => (await text()).split(" ").includes(String(key)));
  await write(["delete", key]);
  await until("its end", async () => !(await text()).split(" ").includes(String(key)));
  await page.evaluate(() => window.hide());
  await until("the stream being closed", () => streams.size === 0);
});
