// Three ways to listen, in Chromium and in Firefox, over HTTP/1.1 and over HTTP/2 with TLS: ten streams
// in each of six tabs, cut and resumed, compressed where the server offers it. WAYS holds the sidecars,
// as [{ name, sidecar, protocol, coding, hasWebSocket }], and relays are in front of them.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import puppeteer from "puppeteer-core";
import { ids, post, until, write } from "../../clients/js/test/stand.mjs";

const TABS = 6;
const STREAMS = 10;
const WAYS = JSON.parse(process.env.WAYS);
// No sandbox: CI runs as root, where browsers refuse to have one. They only see our own pages.
const BROWSERS = {
  chromium: { browser: "chrome", executablePath: process.env.CHROMIUM,
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
      "--disable-component-update", "--disable-sync"] },
  firefox: { browser: "firefox", executablePath: process.env.FIREFOX },
};

// What runs in the page: listens as `kind` says, comes back by itself where the browser does not, and notes
// in window.heard what each of the streams has heard.
function listen(kind, names, isShared) {
  window.heard = Object.fromEntries(names.map((name) => [name, []]));
  window.ready = new Set();
  window.codings = new Set();
  const note = (name, event, data) => {
    if (event === "ready") window.ready.add(name);
    else if (data.documentKey) window.heard[name].push([event, data.documentKey._id]);
  };
  const query = names.map((name) => `stream=${name}:things`).join("&");
  const pause = () => new Promise((resolve) => setTimeout(resolve, 50));

  if (kind === "EventSource") {
    const follow = (url, nameOf) => {
      const source = new EventSource(url);
      for (const event of ["ready", "insert", "update", "delete"]) {
        source.addEventListener(event, (message) => {
          const data = JSON.parse(message.data);
          note(nameOf(data), event, data);
        });
      }
    };
    if (isShared) follow(`/_events?${query}`, (data) => data.as);
    else for (const name of names) follow("/_events/things", () => name);
    return;
  }

  const fetching = async (url, nameOf) => {
    let id = "";
    for (;;) {
      try {
        // Firefox lets a second request for the same address wait for the first one's end, as it might be
        // answered from the cache.
        const headers = { Accept: "application/x-ndjson" };
        const answer = await fetch(`${url}lastEventId=${id}`, { headers, cache: "no-store" });
        window.codings.add(answer.headers.get("content-encoding") ?? "none");
        let text = "";
        const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
        for (;;) {
          const { value, done } = await reader.read();
          if (done) break;
          text += value;
          const lines = text.split("\n");
          text = lines.pop();
          for (const line of lines) {
            const envelope = JSON.parse(line);
            if (envelope.event) note(nameOf(envelope), envelope.event, envelope.data);
            id = envelope.id ?? id;
          }
        }
      } catch {
        // Cut: back again.
      }
      await pause();
    }
  };
  if (kind === "fetch") {
    if (isShared) fetching(`/_events?${query}&`, (envelope) => envelope.as);
    else for (const name of names) fetching("/_events/things?", () => name);
    return;
  }

  const last = {};
  const open = () => {
    const socket = new WebSocket("/_events");
    socket.onopen = () => {
      for (const name of names) socket.send(JSON.stringify({ subscribe: "things", as: name, resume: last[name] }));
    };
    socket.onmessage = ({ data }) => {
      const envelope = JSON.parse(data);
      if (envelope.event) note(envelope.as, envelope.event, envelope.data);
      if (envelope.id) last[envelope.as] = envelope.id;
    };
    socket.onclose = async () => {
      await pause();
      open();
    };
  };
  open();
}

for (const [name, options] of Object.entries(BROWSERS)) {
  let browser;
  before(async () => {
    if (options.executablePath) browser = await puppeteer.launch({ headless: true, acceptInsecureCerts: true, ...options });
  });
  after(() => browser?.close());

  for (const way of WAYS) {
    for (const kind of ["EventSource", "fetch", "WebSocket"]) {
      // Not compressed, and over HTTP/1.1 in any case.
      if (kind === "WebSocket" && !way.hasWebSocket) continue;
      test(`${name}, ${way.name}: ten streams in six tabs by ${kind}`, { timeout: 120_000 }, async (t) => {
        if (!browser) return t.skip("there is no such browser here");
        const { port } = await post("/relay", { sidecar: way.sidecar });
        // Six connections are all that a browser opens to a host over HTTP/1.1.
        const isShared = way.protocol !== "h2";
        const origin = `${way.protocol === "h2" ? "https" : "http"}://127.0.0.1:${port}`;
        const names = Array.from({ length: STREAMS }, (_, at) => `s${at}`);
        const pages = [];
        t.after(() => Promise.all(pages.map((page) => page.close())));
        for (let tab = 0; tab < TABS; tab++) {
          const page = await browser.newPage();
          pages.push(page);
          await page.goto(`${origin}/page.html`);
          const protocol = await page.evaluate(() => performance.getEntriesByType("navigation")[0].nextHopProtocol);
          assert.equal(protocol, way.protocol);
          await page.evaluate(listen, kind, names, isShared);
          await until(`tab ${tab} listens`, () => page.evaluate((count) => ready.size === count, STREAMS));
        }

        const [keep, ...rest] = ids(21);
        const operations = [keep, ...rest].map((key) => ["insert", key]);
        await write(...operations.slice(0, 7));
        await until("the first ones", () => pages[0].evaluate((key) => heard.s0.some(([, it]) => it === key), rest[5]));
        await post("/relay/set", { port, cut: true });
        await write(...operations.slice(7), ["update", keep], ["delete", rest[0]]);
        const expected = [...operations, ["update", keep], ["delete", rest[0]]];
        for (const [tab, page] of pages.entries()) {
          for (const stream of names) {
            const seen = () => page.evaluate((one, keys) => heard[one].filter(([, key]) => keys.includes(key)), stream,
              [keep, ...rest]);
            await until(`tab ${tab} stream ${stream}: everything`, async () => (await seen()).length >= expected.length);
            assert.deepEqual(await seen(), expected, `tab ${tab} stream ${stream}`);
          }
          if (kind === "fetch") assert.deepEqual(await page.evaluate(() => [...codings]), [way.coding]);
        }
      });
    }
  }
}
