// The format rules of https://html.spec.whatwg.org/multipage/server-sent-events.html as rows (format.json): each
// row's text is written to the collection, and npm's eventsource-parser, two clients of Python's and Chromium
// have to read it as it was written, with the same event and the same id.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import path from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { createParser } from "eventsource-parser";
import puppeteer from "puppeteer-core";
import { ids, relay, until, write } from "../../clients/js/test/stand.mjs";

const here = path.dirname(fileURLToPath(import.meta.url));
const ROWS = JSON.parse(readFileSync(path.join(here, "format.json"), "utf8"))
  .map(({ rule, text, times = 1 }) => ({ rule, text: text.repeat(times) }));
const keys = ids(ROWS.length);
const [last] = ids(1);
// By reader: everything that has fired, as [event, id, data].
const heard = { "eventsource-parser": [], "httpx-sse": [], "sseclient-py": [], Chromium: [] };
let raw = "";
const undo = [];

async function parse(url) {
  const abort = new AbortController();
  undo.push(() => abort.abort());
  const answer = await fetch(url, { headers: { Accept: "text/event-stream" }, signal: abort.signal });
  const parser = createParser({ onEvent: ({ event, id, data }) => heard["eventsource-parser"].push([event, id, data]) });
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  (async () => {
    for await (const chunk of answer.body) {
      const text = decoder.decode(chunk, { stream: true });
      raw += text;
      // In pieces of any size.
      for (let at = 0, size = 1; at < text.length; at += size, size = (size % 97) + 1) parser.feed(text.slice(at, at + size));
    }
  })().catch(() => {});
}

function runPython(url, reader) {
  // One more than the rows: see below.
  const child = spawn("python3", [path.join(here, "format.py"), url, reader, String(ROWS.length + 1)],
    { stdio: ["ignore", "pipe", "inherit"] });
  undo.push(() => child.kill());
  let rest = "";
  child.stdout.setEncoding("utf8").on("data", (text) => {
    const lines = (rest + text).split("\n");
    rest = lines.pop();
    heard[reader].push(...lines.map((line) => JSON.parse(line)));
  });
}

async function browse(origin) {
  const browser = await puppeteer.launch({ browser: "chrome", headless: true,
    executablePath: process.env.CHROMIUM || "/usr/bin/chromium",
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
      "--disable-component-update", "--disable-sync"] });
  undo.push(() => browser.close());
  const page = await browser.newPage();
  await page.goto(`${origin}/page.html`);
  await page.exposeFunction("tell", (event) => heard.Chromium.push(event));
  await page.evaluate(() => {
    const source = new EventSource("/_events/things");
    for (const event of ["message", "ready", "insert", "update", "delete", "reset"]) {
      source.addEventListener(event, ({ lastEventId, data }) => window.tell([event, lastEventId, data]));
    }
  });
}

const inserts = (reader) => heard[reader].filter(([event]) => event === "insert");

before(async () => {
  const { url, origin } = await relay();
  await parse(url);
  runPython(url, "httpx-sse");
  runPython(url, "sseclient-py");
  await browse(origin);
  for (const reader of Object.keys(heard)) await until(`${reader} listens`, () => heard[reader].length > 0);
  for (const [index, { text }] of ROWS.entries()) await write(["insert", keys[index], text]);
  for (const reader of Object.keys(heard)) {
    await until(`${reader} has everything`, () => inserts(reader).length >= ROWS.length);
  }
});
after(async () => {
  for (const action of undo.reverse()) await action();
});

for (const [index, { rule, text }] of ROWS.entries()) {
  test(rule, () => {
    const told = Object.keys(heard).map((reader) => inserts(reader)[index]);
    for (const [at, [, , data]] of told.entries()) {
      const { documentKey, fullDocument } = JSON.parse(data);
      assert.equal(documentKey._id, keys[index], Object.keys(heard)[at]);
      assert.equal(fullDocument.text, text, Object.keys(heard)[at]);
    }
    for (const other of told) assert.deepEqual(other, told[0]);
  });
}

test("Nothing else fires: comments, ids alone and `retry` are no events", async () => {
  // Two signs of life more than there were; and an event behind them, which shows what they were.
  const count = () => raw.split("\n").filter((line) => line.startsWith(":") || line.startsWith("id")).length;
  const before = count();
  await until("signs of life", () => count() >= before + 2);
  await write(["insert", last, "the last"]);
  for (const [reader, events] of Object.entries(heard)) {
    await until(`${reader} has the last one`, () => events.some(([event, , data]) =>
      event === "insert" && JSON.parse(data).documentKey._id === last));
    assert.deepEqual(events.map(([event]) => event), ["ready", ...ROWS.map(() => "insert"), "insert"], reader);
  }
});

test("The bytes themselves: no byte order mark, no carriage return, `retry` first, an id last and never empty", () => {
  assert.match(raw, /^retry: \d+\n(?!\n)/);
  assert.ok(!raw.includes("\r") && !raw.startsWith("\ufeff"));
  const whole = raw.slice(0, raw.lastIndexOf("\n\n") + 2).replace(/^(retry: \d+|:)\n/gm, "");
  const blocks = whole.split("\n\n").filter(Boolean);
  for (const block of blocks) {
    const names = block.split("\n").map((line) => line.slice(0, line.indexOf(": ")));
    assert.ok(["event,data,id", "event,data", "id"].includes(names.join()), block.slice(0, 200));
    assert.ok(!/^id: ?$/m.test(block), block.slice(0, 200));
  }
  assert.ok(blocks.some((block) => block.startsWith("id: ")), "no position of a quiet stream");
});

// None of the readers above splits there; Python's `splitlines` does, and with it readers such as `sseclient`.
test("The bytes themselves: nothing that is the end of a line to anybody, but line feeds", () => {
  const found = raw.match(/.{0,40}[\u000b\u000c\u001c-\u001e\u0085\u2028\u2029].{0,40}/s);
  assert.equal(found, null, JSON.stringify(found?.[0]));
});
