// The console in a real browser, with a sidecar that has a thousand clients.
//
// SIDESTREAM_PICTURES=DIR keeps pictures of its pages there (scripts/screenshot --console).

import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import { createRequire } from "node:module";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { ARTIFACTS, openPage, startSidecar, until } from "./harness.mjs";
import { startClients } from "./clients.mjs";

const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const PICTURES = process.env.SIDESTREAM_PICTURES || ARTIFACTS;
const CLIENTS = 1000;
const MAX_BYTES = 150 * 1024;

// What may be shown nowhere.
const SECRET = "planted-secret-of-the-issuer-that-is-long-enough";
const SUBJECT = "planted-subject";
const DOCUMENT = "planted-text-of-a-document";
const VALUE = "planted value of a parameter";

const FILTERS = {
  "answers.yaml": `description: What students answer\ncollection: classroom.answers\naccess: public
match: { answer: { $ne: { $param: other } } }\nparams: { other: { type: string, required: false } }\n`,
  "mine.yaml": `description: The answers of the signed-in student\ncollection: classroom.answers
match: { student: { $claim: sub } }\naccess: authenticated\n`,
  "shown.yaml": `description: What students answer, not who\ncollection: classroom.answers\naccess: public
project: { answer: 1 }\nmatch: { answer: { $in: { $param: choices } }, question: { $ne: { $param: not } } }
params: { choices: { type: [string], required: false }, not: { type: string, enum: [a, b], required: false } }\n`,
  "broken.yaml": "collection: classroom.answers\nacess: public\n",
};

function token() {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const signed = `${part({ alg: "HS256", typ: "JWT" })}.${part({ sub: SUBJECT, exp: 4102444800 })}`;
  return `${signed}.${createHmac("sha256", SECRET).update(signed).digest("base64url")}`;
}

async function start(demo, env = {}) {
  const sidecar = await startSidecar(demo, FILTERS, {
    SIDESTREAM_AUTH__JWT__SECRET: SECRET,
    SIDESTREAM_AUTH__JWT__ALGORITHMS: "HS256",
    ...env,
  });
  const open = async (count, target, headers) => (await startClients(sidecar.url, target, count, headers)).ended;
  const bearer = token();
  return { ...sidecar, bearer, open };
}

// A page of the console that notes whom it asks.
async function look(browser, admin, page, options = {}) {
  const opened = await openPage(browser, "about:blank", options);
  opened.asked = [];
  opened.on("request", (request) => opened.asked.push(request.url()));
  await opened.goto(`${admin}/${page}`);
  return opened;
}

async function violations(page) {
  await page.evaluate(AXE);
  const found = await page.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
  assert.ok(found.passes.length > 10, "axe looked at nothing");
  const serious = found.violations.filter((it) => ["serious", "critical"].includes(it.impact));
  return serious.map((it) => `${it.id}: ${it.help}: ${it.nodes.map((node) => node.html).join(" ")}`);
}

async function picture(page, name) {
  mkdirSync(PICTURES, { recursive: true });
  await page.screenshot({ path: path.join(PICTURES, `console-${name}.png`) });
}

const points = (page) => page.locator("svg .plot").first().getAttribute("points");

// Types an event, and waits for what becomes of it. What is typed is judged by itself as well: an answer
// may be that to the text before.
async function tried(page, text, wanted) {
  await page.fill("#event", text);
  await page.getByRole("button", { name: "Try it" }).click();
  const status = page.locator('form + [role="status"]');
  await until(`${wanted} for ${text}`, async () => wanted.test(await status.innerText()));
}

export const tests = [];
const test = (name, body) => tests.push({ name: `the console: ${name}`, body });

test("each page with a thousand clients, for everybody, and asking nobody else", async ({ browser, demo, app }) => {
  const { admin, url, bearer, open } = await start(demo);
  const bytes = (await (await fetch(admin)).arrayBuffer()).byteLength;
  assert.ok(bytes < MAX_BYTES, `the page has ${bytes} bytes`);

  await open(CLIENTS - 20, `/_events/answers?other=${encodeURIComponent(VALUE)}`, {});
  await open(20, "/_events/mine", { authorization: `Bearer ${bearer}` });
  const question = await app.ask("What does a console show?");
  const writing = { goes: true };
  const written = (async () => {
    for (let i = 0; writing.goes; i++) await app.answer(question, `${SUBJECT}-${i % 7}`, `${DOCUMENT} ${i}`);
  })().catch(() => {}); // the demo ends with a test that failed

  const looks = [
    ["light", { colorScheme: "light" }],
    ["dark", { colorScheme: "dark" }],
    ["phone", { viewport: { width: 390, height: 844 }, colorScheme: "light" }],
  ];
  const shown = [];
  for (const [look_, options] of looks) {
    for (const [name, hash] of [["overview", "#/"], ["streams", "#/streams"], ["stream", "#/stream/answers"]]) {
      const page = await look(browser, admin, hash, { ...options, deviceScaleFactor: 2 });
      await page.waitForSelector('#state [data-state="waiting"]:has-text("broken file")');
      if (name === "overview") {
        const seen = () => page.locator(".cards li", { hasText: "Connections" }).locator(".value").textContent();
        await until("a thousand connections", async () => (await seen()) === "1,000");
        const wanted = look_ === "light" ? 10 : 2;
        await until("some history", async () => (await points(page)).split(" ").length >= wanted, 60);
      }
      if (name === "stream") await page.waitForSelector("text=those that lag most");
      assert.deepEqual(await violations(page), [], `${name}, ${look_}`);
      const wide = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
      assert.ok(wide <= 0, `${name}, ${look_}: ${wide} pixels too wide`);
      await picture(page, `${name}-${look_}`);
      shown.push(await page.content());
      const elsewhere = page.asked.filter((asked) => !asked.startsWith(`${admin}/`) && !asked.startsWith("data:"));
      assert.deepEqual(elsewhere, []);
      assert.ok(page.asked.length >= 4);
      await page.close();
    }
  }
  writing.goes = false;
  await written;

  for (const json of ["overview", "streams", "filters", "listeners?stream=answers", "listeners?stream=mine",
    "explain?stream=answers", "metrics"]) {
    shown.push(await (await fetch(`${admin}/${json}`)).text());
  }
  assert.ok(shown.some((text) => text.includes("answers")));
  for (const planted of [SECRET, SUBJECT, DOCUMENT, VALUE, encodeURIComponent(VALUE), bearer, bearer.split(".")[2]]) {
    assert.ok(!shown.some((text) => text.includes(planted)), `${planted} is shown`);
  }
  assert.ok((await (await fetch(url)).text()).length > 0, "the app is served all the while");
});

test("a listener is ended by a button, and its client comes back", async ({ browser, demo }) => {
  const { admin, bearer, open } = await start(demo);
  const ended = await open(1, "/_events/answers", {});
  const other = await open(1, "/_events/mine", { authorization: `Bearer ${bearer}` });
  const page = await look(browser, admin, "#/stream/answers");
  const button = page.getByRole("button", { name: "End the connection of anybody" });
  await button.focus();
  await page.keyboard.press("Enter");
  await page.waitForSelector("#note:has-text('Ended')");
  await until("the client noticed", async () => ended.count === 1);
  await until("it has gone from the list", async () => (await button.count()) === 0);

  // A page of another origin does nothing, and reads nothing, also if it knows whom to name.
  const { listeners } = await (await fetch(`${admin}/listeners?stream=mine`)).json();
  const foreign = await openPage(browser, demo.url);
  const read = await foreign.evaluate(async ([target, id]) => {
    const ask = (path, options) => fetch(target + path, options).then((answer) => answer.type, () => "nothing");
    return [
      await ask(`/listeners/end?id=${id}`, { method: "POST", mode: "no-cors" }),
      await ask(`/listeners/end?id=${id}`, { method: "POST", headers: { "sidestream-token": "0" } }),
      await ask("/listeners?stream=mine", {}),
      await ask("/", { mode: "no-cors" }),
    ];
  }, [admin, listeners[0].id]);
  assert.deepEqual(read, ["nothing", "nothing", "nothing", "nothing"]);
  assert.equal((await (await fetch(`${admin}/listeners?stream=mine`)).json()).total, 1);
  assert.equal(other.count, 0);
});

test("an event is tried, and the condition that decided is named", async ({ browser, demo }) => {
  const { admin } = await start(demo);
  const page = await look(browser, admin, "#/stream/mine");
  await page.getByLabel("sub claim, text or JSON").fill("ada");
  await tried(page, '{ "_id": 1, "student": "ada", "answer": "B" }', /^sent\s+as insert/);
  await tried(page, '{ "_id": 1, "student": "bob", "answer": "B" }', /^not sent[^]*student/);
  await tried(page, "{ nothing", /^error/);
  assert.deepEqual(await violations(page), []);

  // What is typed is judged by itself.
  await page.fill("#event", '{ "_id": 1, "student": "ada" }');
  const verdict = page.locator('form + [role="status"] .badge');
  await until("it is sent", async () => (await verdict.textContent()) === "sent");
  await page.getByLabel("sub claim, text or JSON").fill("bob builder");
  await until("it is not sent to another", async () => (await verdict.textContent()) === "not sent");
  await until("the explanation follows", async () =>
    (await page.locator("#explanation").textContent()).includes("bob builder"));
});

test("the form has a field for each parameter, and explains as one types", async ({ browser, demo }) => {
  const { admin } = await start(demo);
  const page = await look(browser, admin, "#/stream/shown");
  const explanation = page.locator("#explanation");
  await until("an explanation", async () => (await explanation.textContent()).includes('"choices": null'));
  await page.getByLabel("choices").fill("A, B");
  await page.locator("#param-not").selectOption("b");
  await until("both values are in it", async () => {
    const { values } = JSON.parse(await explanation.textContent()).sidecar;
    return JSON.stringify(values) === '{"choices":["A","B"],"not":"b"}';
  });
  assert.deepEqual(await violations(page), []);
});

test("events are shown where the settings say so, as clients see them, and the log says who looked", async ({ browser, demo, app }) => {
  const { admin, log, open } = await start(demo, { SIDESTREAM_CONSOLE__TAP: "true" });
  await open(1, "/_events/shown", {});
  const page = await look(browser, admin, "#/stream/shown");
  const button = page.getByRole("button", { name: "Show events" });
  await button.focus();
  await page.keyboard.press("Enter");
  await page.waitForSelector("text=the log says who looked");
  const question = await app.ask("What does a tap show?");
  await app.answer(question, SUBJECT, "shown to all");
  const events = page.getByRole("log");
  await until("the event", async () => (await events.textContent()).includes("shown to all"));
  assert.equal(await button.getAttribute("aria-pressed"), "true");
  assert.ok(!(await page.content()).includes(SUBJECT), "project hides who answered");
  assert.deepEqual(await violations(page), []);
  await until("the log", () => log().includes("the events of a stream are shown in the console"));
  assert.ok(!log().includes("shown to all") && !log().includes(SUBJECT));
  await button.click();
  assert.equal(await button.getAttribute("aria-pressed"), "false");

  // Elsewhere there is no such button.
  const other = await start(demo);
  const without = await look(browser, other.admin, "#/stream/shown");
  await without.waitForSelector("text=What the filter becomes");
  assert.equal(await without.getByRole("button", { name: "Show events" }).count(), 0);
});

test("everything is reached and read with the keyboard alone", async ({ browser, demo }) => {
  const { admin, bearer, open } = await start(demo);
  await open(1, "/_events/mine", { authorization: `Bearer ${bearer}` });
  const page = await look(browser, admin, "#/");
  await page.waitForSelector("text=Lag behind MongoDB");
  const focused = () => page.evaluate(() => {
    const { tagName, textContent, id, ariaLabel } = document.activeElement;
    return `${tagName} ${id || ariaLabel || textContent.trim()}`;
  });
  // Tabs until something has the focus; what comes first is the way past the navigation.
  const tab = async (wanted) => {
    for (let i = 0; i < 60; i++) {
      await page.keyboard.press("Tab");
      if ((await focused()) === wanted) return;
    }
    throw new Error(`${wanted} is not reached`);
  };
  await page.keyboard.press("Tab");
  assert.equal(await focused(), "A Skip to content");
  await page.keyboard.press("Enter");
  assert.equal(await focused(), "MAIN main");
  await page.goto(`${admin}/#/`);
  await tab("A Streams");
  await page.keyboard.press("Enter");
  await page.waitForSelector("text=Streams and their files");
  await until("the page has the focus", async () => (await focused()) === "MAIN main");
  await tab("A mine");
  await page.keyboard.press("Enter");
  await page.waitForSelector("text=What the filter becomes");
  await tab("INPUT claim-sub");
  await page.keyboard.type("ada");
  await tab("TEXTAREA event");
  await page.keyboard.type('{ "_id": 1, "student": "ada" }');
  await page.waitForSelector('form + [role="status"] .badge:text-is("sent")');
  // The page draws itself again all the while, and the focus stays.
  await page.waitForResponse((answer) => answer.url().includes("/listeners?"));
  await page.waitForResponse((answer) => answer.url().includes("/listeners?"));
  assert.equal(await focused(), "TEXTAREA event");
});
