// Pages in Chromium behind each proxy of docs/in-front.md. They have nothing but EventSource: they do not reopen
// what a browser gives up. APP is the stand's address, FRONTS those of the proxies by name.

import assert from "node:assert/strict";
import { after, before } from "node:test";
import { chromium } from "playwright-core";
import { ids, until, write } from "../../../clients/js/test/stand.mjs";

const SOURCES = 3;
export const FRONTS = JSON.parse(process.env.FRONTS);

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

export async function openEmpty(name) {
  const context = await browser.newContext();
  const page = await context.newPage();
  await page.goto(`http://127.0.0.1:${FRONTS[name]}/page.html`);
  return page;
}

async function openPage(name) {
  const page = await openEmpty(name);
  await page.evaluate(OPEN);
  const sources = () => page.evaluate(() => sources.map(({ source, heard, opened }) => (
    { state: source.readyState, keys: heard.map(([key]) => key), times: heard.map(([, at]) => at), opened })));
  return { name, page, sources };
}

export const everywhere = (pages, key) => Promise.all(pages.map(({ name, page, sources }) => until(`${name}: event ${key}`, async () => {
  if (await page.evaluate((wanted) => sources.every(({ heard }) => heard.at(-1)?.[0] === wanted), key)) return true;
  const states = (await sources()).map(({ state }) => state);
  assert.ok(!states.includes(2), `${name}: a page is dead: ${states}`);
  return false;
}, 60)));

// A page behind each, all of which have heard something: what came before they were open is not for them.
export async function openAll() {
  const pages = await Promise.all(Object.keys(FRONTS).map(openPage));
  for (let isOpen = false; !isOpen;) {
    await write(["insert", ids(1)[0]]);
    const all = await Promise.all(pages.map((each) => each.sources()));
    isOpen = all.flat().every(({ keys }) => keys.length > 0);
  }
  return pages;
}
