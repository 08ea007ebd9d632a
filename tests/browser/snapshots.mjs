// The pages of docs/snapshots.md, opened while others write: when the writing stops, each shows exactly
// what the database has. Cut, with the oplog rolled over meanwhile, and again.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { createServer } from "node:http";
import { mkdtempSync, readFileSync, rmSync, writeFileSync, mkdirSync } from "node:fs";
import path from "node:path";
import { build } from "esbuild";
import { MongoClient } from "mongodb";
import { atEnd, CACHE, openPage, ROOT, startRelay, until } from "./harness.mjs";
import { startSidestream } from "./example.mjs";

export const tests = [];

const HERE = path.join(ROOT, "tests/browser");
const IDS = 60;
const WRITES = 300;
// So many of the first are changed while the pages are cut off, and never again: of that only a new
// snapshot can tell, while later changes would repair all others.
const UNSEEN = 15;

// The blocks of the document: its filter, and its pages by name.
function documented() {
  const text = readFileSync(path.join(ROOT, "docs/snapshots.md"), "utf8");
  const pages = {};
  for (const [, name, page] of text.matchAll(/^```\w+ page=(\w+)\n(.*?)^```$/gms)) pages[name] = page;
  assert.deepEqual(Object.keys(pages), ["plain", "live", "react"], "the pages of docs/snapshots.md");
  const [, filter] = text.match(/^```yaml\n# filters\/orders.yaml\n(.*?)^```$/ms);
  return { pages, filter };
}

async function bundled(source) {
  const { outputFiles } = await build({
    stdin: { contents: source, loader: "jsx", resolveDir: HERE },
    alias: { "sidestream-client/react": path.join(ROOT, "clients/js/react.js") },
    nodePaths: [path.join(HERE, "node_modules")],
    jsx: "automatic",
    bundle: true,
    write: false,
    define: { "process.env.NODE_ENV": '"development"' },
  });
  return `<!doctype html><meta charset="utf-8"><div id="root"></div><script type="module">${outputFiles[0].text}</script>`;
}

// A MongoDB whose oplog is soon full.
async function startMongodb() {
  const replset = spawn(path.join(ROOT, "scripts/mongo-replset"), ["--port", "0", "--oplog-mb", "8"],
    { stdio: ["ignore", "pipe", "inherit"], detached: true });
  const gone = new Promise((resolve) => replset.on("exit", resolve));
  atEnd(async () => {
    replset.kill("SIGTERM");
    await gone;
  });
  let said = "";
  replset.stdout.on("data", (data) => { said += data; });
  return until("MongoDB's address", () => said.match(/^mongodb:.*$/m)?.[0], 60);
}

// An app that serves the documented pages, and a sidecar in front that keeps next to nothing in memory.
async function startStand() {
  const uri = await startMongodb();
  const { pages, filter } = documented();
  const served = {
    "/plain": ["text/html", pages.plain],
    "/live": ["text/html", pages.live],
    "/react": ["text/html", await bundled(pages.react)],
    "/sidestream-client/live.js": ["text/javascript", readFileSync(path.join(ROOT, "clients/js/live.js"), "utf8")],
    "/": ["text/html", ""],
  };
  const app = createServer((request, response) => {
    const [kind, body] = served[request.url] ?? [];
    if (!kind) return response.writeHead(404).end();
    response.setHeader("Content-Type", kind).end(body);
  });
  await new Promise((resolve) => app.listen(0, "127.0.0.1", resolve));
  atEnd(() => {
    app.closeAllConnections();
    app.close();
  });

  const directory = mkdtempSync(path.join(CACHE, "run", "snapshots-"));
  atEnd(() => rmSync(directory, { recursive: true, force: true }));
  mkdirSync(path.join(directory, "filters"));
  writeFileSync(path.join(directory, "filters", "orders.yaml"), filter);
  const sidestream = await startSidestream({ mongodb: uri }, directory, `http://127.0.0.1:${app.address().port}`, {
    SIDESTREAM_REPLAY__WINDOW: "1s",
    SIDESTREAM_REPLAY__MAX_BYTES: "1MiB",
  });

  const mongodb = await MongoClient.connect(uri);
  atEnd(() => mongodb.close());
  const shop = mongodb.db("shop");
  const images = { enabled: true };
  await shop.createCollection("orders", { changeStreamPreAndPostImages: images });
  // How often a client was told that its position is no longer in the oplog.
  const lost = async () => {
    const metrics = await (await fetch(`${sidestream.admin}/metrics`)).text();
    return Number(metrics.match(/^sidestream_resets_total\{reason="history-lost"\} (\d+)/m)?.[1] ?? 0);
  };
  return { url: sidestream.url, lost, mongodb, orders: shop.collection("orders") };
}

// Documents enter, change, leave and go, one by one and in transactions, until `stop`: all but so many
// of the first.
function startWriting({ mongodb, orders }, spared = 0) {
  let isOver = false;
  let count = 0;
  const some = (list) => list[Math.floor(Math.random() * list.length)];
  const status = () => some(["open", "open", "shipped"]);
  const write = async (session) => {
    const _id = `order ${spared + Math.floor(Math.random() * (IDS - spared))}`;
    const item = `${_id}, version ${count++}`;
    const change = some([
      () => orders.updateOne({ _id }, { $set: { item, status: status() } }, { upsert: true, session }),
      () => orders.updateOne({ _id }, { $set: { item } }, { session }),
      () => orders.replaceOne({ _id }, { item, status: status() }, { session }),
      () => orders.deleteOne({ _id }, { session }),
    ]);
    await change();
  };
  // The pages draw every change, on the same two cores.
  const breath = () => new Promise((resolve) => setTimeout(resolve, 10));
  const one = async () => {
    while (!isOver) {
      await write();
      await breath();
    }
  };
  // Of two writers to the same document one is told to try again, which withTransaction does.
  const several = async () => {
    while (!isOver) {
      await mongodb.withSession((session) => session.withTransaction(async () => {
        for (let each = 0; each < 5; each++) await write(session);
      }));
      await breath();
    }
  };
  const writing = Promise.all([one(), one(), several()]);
  return {
    atLeast: (wanted) => until(`${wanted} writes`, () => count >= wanted),
    async stop() {
      isOver = true;
      await writing;
    },
  };
}

const shown = async (page) => (await page.locator("li").allTextContents()).sort();
const inDatabase = async ({ orders }) =>
  (await orders.find({ status: "open" }).toArray()).map((order) => `${order.item}: open`).sort();

async function showsTheDatabase(page, stand, when) {
  const wanted = JSON.stringify(await inDatabase(stand));
  assert.ok(wanted.length > 100, "hardly anything is in the database");
  await until(`the page shows the database ${when}`, async () => JSON.stringify(await shown(page)) === wanted)
    .catch(async (error) => {
      const diff = { page: await shown(page), database: JSON.parse(wanted) };
      throw new Error(`${error.message}\n${JSON.stringify(diff, null, 1)}`);
    });
}

const unseen = Array.from({ length: UNSEEN }, (_, number) => `order ${number}`);

const openUnseen = ({ orders }) => Promise.all(unseen.map((_id) =>
  orders.replaceOne({ _id }, { item: `${_id}, as it was`, status: "open" }, { upsert: true })));

// A third goes, a third leaves, and a third changes.
const changeUnseen = ({ orders }) => Promise.all(unseen.map((_id, number) => [
  () => orders.deleteOne({ _id }),
  () => orders.updateOne({ _id }, { $set: { status: "shipped" } }),
  () => orders.updateOne({ _id }, { $set: { item: `${_id}, as it is` } }),
][number % 3]()));

// Writes to another collection until nothing from before is left in the oplog.
async function rollOver({ mongodb }) {
  const oplog = mongodb.db("local").collection("oplog.rs");
  const [{ ts: now }] = await oplog.find().sort({ $natural: -1 }).limit(1).toArray();
  const filler = mongodb.db("filler").collection("filler");
  const text = "x".repeat(1024 * 1024);
  await until("the oplog has rolled over", async () => {
    await filler.insertMany(Array.from({ length: 4 }, () => ({ text })));
    const [{ ts: first }] = await oplog.find().sort({ $natural: 1 }).limit(1).toArray();
    return first.greaterThan(now);
  }, 60);
  await filler.drop();
}

tests.push({
  name: "snapshot: the documented pages show the database, also when the oplog has rolled over",
  body: async ({ browser }) => {
    const stand = await startStand();
    const relay = await startRelay(stand.url);
    let writers = startWriting(stand);
    await writers.atLeast(WRITES / 3);
    const pages = [];
    for (const name of ["plain", "live", "react"]) pages.push(await openPage(browser, `${relay.url}/${name}`));
    await writers.atLeast(WRITES);
    await writers.stop();
    await openUnseen(stand);
    for (const page of pages) await showsTheDatabase(page, stand, "when the writing has stopped");

    await relay.cut();
    await changeUnseen(stand);
    writers = startWriting(stand, UNSEEN);
    await writers.atLeast(WRITES);
    await rollOver(stand);
    const before = await stand.lost();
    await relay.restore();
    await until("all positions being lost", async () => {
      // The client library waits longer and longer; this is how it hears that it need not.
      for (const page of pages) await page.evaluate(() => window.dispatchEvent(new Event("online")));
      return (await stand.lost()) >= before + pages.length;
    });
    await writers.atLeast(2 * WRITES);
    await writers.stop();
    for (const page of pages) {
      await showsTheDatabase(page, stand, "behind a lost position");
      assert.equal(page.navigations, 0, "the page was loaded again");
    }
  },
});
