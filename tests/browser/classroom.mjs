// The classroom demo in a real browser: real MongoDB, real Sidestream, real EventSource.

import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { ARTIFACTS, heard, isLive, openPage, startRelay, until } from "./harness.mjs";

export const tests = [];
const test = (name, body) => tests.push({ name, body });

const rows = (page) => page.locator("#answers li").count();
const count = (page, choice) => page.locator(`#tally [data-choice="${choice}"] .count`).textContent();
const hasRows = (page, wanted) =>
  until(`${wanted} answers on the page`, async () => (await rows(page)) === wanted);

test("a student's form post shows on the teacher's page without a reload", async ({ browser, demo, app }) => {
  const question = await app.ask("What is 6 × 7?", ["41", "42"]);
  const teacher = await openPage(browser, `${demo.url}/teacher`);
  await isLive(teacher);
  assert.equal(await rows(teacher), 0);

  const student = await openPage(browser, demo.url);
  await student.fill("#name", "Grace");
  await student.click("#join button");
  await student.check('input[value="42"]');
  await student.click("#answer-form button");
  assert.equal(await student.textContent("#given strong"), "42");

  await hasRows(teacher, 1);
  assert.equal(await teacher.textContent("#answers .student"), "Grace");
  assert.equal(await count(teacher, "42"), "1");
  assert.equal(await count(teacher, "41"), "0");
  assert.equal(await teacher.textContent("#total"), "1");
  assert.equal(teacher.navigations, 0, "the teacher's page was loaded again");

  // She changes her mind: the same row, another count.
  await student.check('input[value="41"]');
  await student.click("#answer-form button");
  await until("the changed answer", async () => (await count(teacher, "41")) === "1");
  assert.equal(await count(teacher, "42"), "0");
  assert.equal(await rows(teacher), 1);
  assert.deepEqual((await heard(teacher, "answers")).map((event) => event.type), ["insert", "update"]);

  // Answers to another question are not for this page.
  assert.equal(await teacher.getAttribute("#current", "data-question"), question);
});

test("an answer that is removed disappears from another teacher's page", async ({ browser, demo, app }) => {
  const question = await app.ask("Tea or coffee?", ["Tea", "Coffee"]);
  await app.answer(question, "Ada", "Tea");
  await app.answer(question, "Alan", "Coffee");
  const watching = await openPage(browser, `${demo.url}/teacher`);
  await isLive(watching);
  assert.equal(await rows(watching), 2);

  const acting = await openPage(browser, `${demo.url}/teacher`);
  await acting.click("#answers li:first-child button");
  await hasRows(watching, 1);
  assert.equal(await watching.textContent("#answers .student"), "Alan");
  assert.equal(await count(watching, "Tea"), "0");
  assert.equal(watching.navigations, 0);
});

test("a new question reaches students and teachers who are there already", async ({ browser, demo, app }) => {
  await app.ask("The first one?", ["Yes", "No"]);
  const student = await openPage(browser, demo.url);
  await student.fill("#name", "Barbara");
  await student.click("#join button");
  await isLive(student);
  const teacher = await openPage(browser, `${demo.url}/teacher`);
  await isLive(teacher);
  const before = student.navigations;

  const question = await app.ask("The second one?", ["Left", "Right"]);
  for (const page of [student, teacher]) {
    await until("the new question", async () => (await page.textContent("#question")) === "The second one?");
  }
  assert.equal(student.navigations, before);

  // The teacher's page listens to the new question's answers now.
  await app.answer(question, "Edsger", "Left");
  await hasRows(teacher, 1);
  assert.equal(teacher.navigations, 0);

  await app.post("/teacher/close", { question });
  await student.waitForSelector("#closed");
  await teacher.waitForSelector('#state[data-state="closed"]');
});

test("what students write stays text", async ({ browser, demo, app }) => {
  const question = await app.ask("Anything?");
  const teacher = await openPage(browser, `${demo.url}/teacher`);
  await isLive(teacher);
  const nasty = `<img src=x onerror="document.title='owned'">"'&amp;`;
  await app.answer(question, `<b>Bobby</b>`, nasty);
  await hasRows(teacher, 1);
  const seen = async () => [
    await teacher.textContent("#answers .student"),
    await teacher.textContent("#answers .text"),
    await teacher.locator("#answers img, #answers b").count(),
  ];
  assert.deepEqual(await seen(), ["<b>Bobby</b>", nasty, 0], "drawn from the event");
  await teacher.reload();
  assert.deepEqual(await seen(), ["<b>Bobby</b>", nasty, 0], "drawn by the server");
  assert.notEqual(await teacher.title(), "owned");
});

// Gives answers while `page` cannot hear, and checks that it hears each of them once, in order.
async function missNothing({ page, app, question, interrupt, restore, heardBefore = 1 }) {
  if (heardBefore) await app.answer(question, "early", "A");
  await hasRows(page, heardBefore);

  await interrupt();
  await page.waitForSelector('#connection[data-state="reconnecting"]');
  const students = Array.from({ length: 40 }, (_, index) => `student ${index}`);
  for (const student of students) await app.answer(question, student, "A");
  // Every fourth changes the answer.
  const changed = students.filter((_, index) => index % 4 === 0);
  for (const student of changed) await app.answer(question, student, "B");
  assert.equal(await rows(page), heardBefore, "the page heard something through a cut connection");

  await restore();
  await isLive(page);
  // Events keep their order: once this one is heard, none of the others can still be under way.
  await app.answer(question, "late", "B");
  const late = page.locator("#answers li", { hasText: "late" });
  const key = await late.getAttribute("data-id");
  const events = await until("the last answer's event", async () => {
    const all = await heard(page, "answers");
    return all.some((event) => event.key === key) && all;
  });

  const given = heardBefore + students.length + 1;
  assert.equal(new Set(events.map((event) => event.id)).size, events.length, "an event came twice");
  assert.equal(events.filter((event) => event.type === "insert").length, given);
  assert.equal(events.filter((event) => event.type === "update").length, changed.length);
  assert.equal(events.length, given + changed.length);
  assert.deepEqual(events.map((event) => event.id), events.map((event) => event.id).sort(), "out of order");

  await hasRows(page, given);
  assert.equal(await count(page, "B"), String(changed.length + 1));
  assert.equal(await page.textContent("#total"), String(given));
  assert.equal(page.navigations, 0);
}

test("answers given while the connection is cut are each heard once", async ({ browser, demo, app }) => {
  const relay = await startRelay(demo.url);
  const question = await app.ask("While you were away?", ["A", "B"]);
  const page = await openPage(browser, `${relay.url}/teacher`);
  await isLive(page);
  await missNothing({ page, app, question, interrupt: relay.cut, restore: relay.restore });
  await page.screenshot({ path: path.join(ARTIFACTS, "after-reconnect.png"), fullPage: true });
});

test("none is missing when the page had heard nothing before the cut", async ({ browser, demo, app }) => {
  const relay = await startRelay(demo.url);
  const question = await app.ask("Have we met?", ["A", "B"]);
  const page = await openPage(browser, `${relay.url}/teacher`);
  await isLive(page);
  await missNothing({ page, app, question, interrupt: relay.cut, restore: relay.restore, heardBefore: 0 });
});

test("the page goes on after an error that makes a browser's EventSource give up", async ({ browser, demo, app }) => {
  const relay = await startRelay(demo.url);
  const question = await app.ask("Is anybody there?", ["A", "B"]);
  const page = await openPage(browser, `${relay.url}/teacher`);
  await isLive(page);
  const refusal = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
  await missNothing({ page, app, question, interrupt: () => relay.answer(refusal), restore: relay.restore });
});

test("a new snapshot takes the place of what the page shows", async ({ browser, demo, app }) => {
  const question = await app.ask("Still there?", ["Yes", "No"]);
  await app.answer(question, "Ada", "Yes");
  const page = await openPage(browser, `${demo.url}/teacher`);
  await isLive(page);
  await app.answer(question, "Alan", "Yes");
  await hasRows(page, 2);
  // A page that has gone wrong for whatever reason.
  await page.evaluate(() => document.querySelectorAll("#answers li").forEach((row) => row.remove()));

  // A changed filter begins the streams that use it anew.
  const file = path.join(demo.filters, "answers.yaml");
  writeFileSync(file, readFileSync(file, "utf8").replace("project: { student: 1,", "project: { question: 1, student: 1,"));
  await hasRows(page, 2);
  assert.equal(page.navigations, 0);
  const reasons = async () =>
    (await page.evaluate(() => window.snapshots)).filter((it) => it.stream === "answers").map((it) => it.reason);
  await until("the snapshot", async () => (await reasons()).length === 2);

  await app.answer(question, "Grace", "No");
  await hasRows(page, 3);
  assert.deepEqual(await reasons(), ["new", "filter-changed"]);
});

test("without JavaScript everything works with a reload", async ({ browser, demo, app }) => {
  const question = await app.ask("Plain?", ["Yes", "No"]);
  const teacher = await openPage(browser, `${demo.url}/teacher`, { javaScriptEnabled: false });
  await app.answer(question, "Ada", "Yes");
  assert.equal(await rows(teacher), 0);
  await teacher.reload();
  assert.equal(await rows(teacher), 1);
  assert.equal(await count(teacher, "Yes"), "1");
});
