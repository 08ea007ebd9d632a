// What the browser tests stand on: the demo as a child process, a relay that can be cut, a page that
// counts what it hears, and waiting for conditions.

import { spawn } from "node:child_process";
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import net from "node:net";
import { homedir } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";

export const ROOT = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "../..");
export const CACHE =
  process.env.SIDESTREAM_CACHE ||
  path.join(process.env.XDG_CACHE_HOME || path.join(homedir(), ".cache"), "sidestream");
export const ARTIFACTS = process.env.SIDESTREAM_ARTIFACTS || path.join(CACHE, "artifacts");
mkdirSync(ARTIFACTS, { recursive: true });

// Everything that has to be undone, last first; also when a test fails or someone presses Ctrl-C.
const undo = [];
export const atEnd = (action) => undo.push(action);

// Called at the end and by signals, perhaps both: whoever calls waits for the same clean-up.
let cleaning = null;
export function cleanUp() {
  cleaning ??= (async () => {
    while (undo.length) {
      try {
        await undo.pop()();
      } catch (error) {
        console.error(`cleaning up: ${error.message}`);
      }
    }
  })();
  return cleaning;
}

for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) {
  process.on(signal, async () => {
    await cleanUp();
    process.exit(130);
  });
}

// Polls until condition() returns something truthy.
export async function until(what, condition, seconds = 30) {
  const deadline = Date.now() + seconds * 1000;
  for (;;) {
    const result = await condition();
    if (result) return result;
    if (Date.now() > deadline) throw new Error(`${what}: not within ${seconds} s`);
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
}

// The demo, on free ports and with a copy of the filter files, so that tests may change them and a
// demo that runs already is not disturbed. Returns its addresses.
export async function startDemo() {
  mkdirSync(path.join(CACHE, "run"), { recursive: true });
  const directory = mkdtempSync(path.join(CACHE, "run", "browser-"));
  atEnd(() => rmSync(directory, { recursive: true, force: true }));
  const filters = path.join(directory, "filters");
  cpSync(path.join(ROOT, "filters"), filters, { recursive: true });
  const ready = path.join(directory, "ready.json");

  const ports = ["--port", "--admin-port", "--app-port", "--mongodb-port"].flatMap((flag) => [flag, "0"]);
  const demo = spawn(
    path.join(ROOT, "scripts", "demo"),
    ["--no-build", "--filters", filters, "--ready-file", ready, ...ports],
    // A session of its own: Ctrl-C reaches us first, and we stop it in order.
    { stdio: ["ignore", "ignore", "inherit"], detached: true },
  );
  let ended = null;
  const gone = new Promise((resolve) =>
    demo.on("exit", (code, signal) => resolve((ended = signal ?? `exit code ${code}`))),
  );
  demo.on("error", (error) => (ended = error.message));
  atEnd(async () => {
    if (ended === null) demo.kill("SIGTERM");
    await gone;
  });

  await until(
    "the demo being ready",
    () => {
      if (ended !== null) throw new Error(`the demo ended (${ended}), see above`);
      return existsSync(ready);
    },
    180,
  );
  return JSON.parse(readFileSync(ready, "utf8"));
}

// A sidecar of its own beside the demo's, before the same app and MongoDB: with these filter files, and
// these variables. Returns its addresses.
export async function startSidecar(demo, files, env) {
  const directory = mkdtempSync(path.join(CACHE, "run", "browser-"));
  atEnd(() => rmSync(directory, { recursive: true, force: true }));
  for (const [name, text] of Object.entries(files)) writeFileSync(path.join(directory, name), text);
  const target = process.env.CARGO_TARGET_DIR || path.join(CACHE, "target");
  const binary = process.env.SIDESTREAM_BIN || path.join(target, "debug", "sidestream");
  const clean = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("SIDESTREAM_")));
  const sidecar = spawn(
    binary,
    ["run", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--app", demo.app, "--mongodb", demo.mongodb,
      "--filters", directory],
    { stdio: ["ignore", "ignore", "pipe"], cwd: directory, env: { ...clean, SIDESTREAM_LOG__FORMAT: "json", ...env } },
  );
  const gone = new Promise((resolve) => sidecar.on("exit", resolve));
  atEnd(async () => {
    sidecar.kill("SIGKILL");
    await gone;
  });
  let log = "";
  sidecar.stderr.on("data", (bytes) => (log += bytes));
  const fields = await until("the sidecar listening", () => {
    if (sidecar.exitCode !== null) throw new Error(`the sidecar ended:\n${log}`);
    const lines = log.split("\n").slice(0, -1).map((line) => JSON.parse(line).fields);
    return lines.find((line) => line?.listen && line.admin);
  });
  const admin = `http://${fields.admin}`;
  await until("the sidecar being ready", async () => (await fetch(`${admin}/readyz`)).status === 200);
  return { url: `http://${fields.listen}`, admin, log: () => log };
}

// A TCP relay to `target`. cut() drops every connection and refuses new ones; answer(text) takes
// connections and answers each with that text; restore() is the plain relay again.
export async function startRelay(target) {
  const { hostname, port } = new URL(target);
  const open = new Set();
  let canned = null;

  const server = net.createServer((near) => {
    open.add(near);
    near.on("close", () => open.delete(near));
    near.on("error", () => near.destroy());
    if (canned !== null) {
      near.once("data", () => near.end(canned));
      return;
    }
    const far = net.connect(Number(port), hostname);
    far.on("error", () => near.destroy());
    far.on("close", () => near.destroy());
    near.on("close", () => far.destroy());
    near.pipe(far).pipe(near);
  });
  const listen = (on) =>
    new Promise((resolve, reject) => server.once("error", reject).listen(on, "127.0.0.1", resolve));
  await listen(0);
  const own = server.address().port;

  const close = async () => {
    if (!server.listening) return;
    const closed = new Promise((resolve) => server.close(resolve));
    for (const socket of open) socket.destroy();
    await closed;
  };
  atEnd(close);
  return {
    url: `http://127.0.0.1:${own}`,
    cut: close,
    async answer(text) {
      await close();
      canned = text;
      await listen(own);
    },
    async restore() {
      await close();
      canned = null;
      await listen(own);
    },
  };
}

export async function startBrowser() {
  const executablePath = process.env.CHROMIUM || "/usr/bin/chromium";
  if (!existsSync(executablePath)) {
    throw new Error(`there is no ${executablePath}: install chromium, or set CHROMIUM to its path`);
  }
  const browser = await chromium.launch({
    executablePath,
    // No sandbox: CI runs as root, where Chromium refuses to have one. It only sees our own pages.
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
      "--disable-background-networking", "--disable-component-update", "--disable-sync"],
  });
  atEnd(() => browser.close());
  return browser;
}

// A page in a browser profile of its own, which records every event that any EventSource fires and
// every navigation after the first.
export async function openPage(browser, url, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1100, height: 760 }, ...options });
  atEnd(() => context.close());
  await context.addInitScript(() => {
    const Plain = window.EventSource;
    window.heard = [];
    window.snapshots = [];
    window.EventSource = class extends Plain {
      constructor(address, init) {
        super(address, init);
        const stream = new URL(address, location.href).pathname.split("/").pop();
        // The reasons: "new", or what another stream would have been reset for.
        this.addEventListener("snapshot", ({ data }) => window.snapshots.push({ stream, ...JSON.parse(data) }));
        for (const type of ["insert", "update", "replace", "delete", "reset", "end"]) {
          this.addEventListener(type, (message) => {
            const key = JSON.parse(message.data).documentKey?._id?.$oid;
            window.heard.push({ stream, type, id: message.lastEventId, key });
          });
        }
      }
    };
  });
  const page = await context.newPage();
  page.errors = [];
  page.on("pageerror", (error) => page.errors.push(String(error)));
  await page.goto(url);
  page.navigations = 0;
  page.on("framenavigated", () => page.navigations++);
  return page;
}

export const heard = (page, stream) =>
  page.evaluate((name) => window.heard.filter((event) => event.stream === name), stream);

export const isLive = (page) => page.waitForSelector('#connection[data-state="live"]');

// The app's forms, posted as a browser posts them.
export class App {
  constructor(url) {
    this.url = url;
  }

  async post(where, fields, student) {
    const response = await fetch(this.url + where, {
      method: "POST",
      body: new URLSearchParams(fields),
      headers: student ? { cookie: `student=${encodeURIComponent(student)}` } : {},
      redirect: "manual",
    });
    if (response.status !== 303) throw new Error(`POST ${where} answered ${response.status}`);
  }

  // Returns the question's id.
  async ask(text, choices = []) {
    await this.post("/teacher/ask", { text, choices: choices.join("\n") });
    const page = await (await fetch(`${this.url}/teacher`)).text();
    return page.match(/data-question="([0-9a-f]{24})"/)[1];
  }

  async answer(question, student, answer) {
    await this.post("/answer", { question, answer }, student);
  }
}
