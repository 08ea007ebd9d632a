// The examples in examples/, each started as its README says, and clicked.

import assert from "node:assert/strict";
import { openPage, until } from "./harness.mjs";
import { startExample } from "./example.mjs";

export const tests = [];

// The example runs as long as its test.
function example(name, language, body) {
  tests.push({
    name: `example ${name}`,
    body: async ({ browser, demo }) => {
      const started = await startExample(demo, name, language);
      if (!started) return console.log(`SKIPPED: example ${name}: ${language} and its MongoDB driver are not installed`);
      try {
        await body({ open: (options) => openPage(browser, started.url, options) });
      } finally {
        await started.stop();
      }
    },
  });
}

const shows = (page, selector, wanted) =>
  until(`${wanted} in ${selector}`, async () => {
    const lines = await page.locator(selector).allTextContents();
    return lines.filter((line) => line.includes(wanted)).length === 1;
  });

for (const language of ["node", "python", "php", "go"]) {
  example(`quickstart/${language}`, language, async ({ open }) => {
    const [watching, writing] = [await open(), await open()];
    for (const text of ["first", "<b>second</b>"]) {
      const note = `${text} of ${language}`;
      await writing.fill("input", note);
      await writing.click("button");
      await shows(watching, "li", note);
    }
    assert.equal(watching.navigations, 0, "the page was loaded again");
    // Who comes later sees them too, each once.
    const late = await open();
    await shows(late, "li", `first of ${language}`);
    assert.equal(await late.locator("li b").count(), 0);
  });
}

example("orders", "node", async ({ open }) => {
  const signIn = async (page, name) => {
    await page.fill("#login input", name);
    // An order that is faster than the sign-in would be refused.
    const answered = page.waitForResponse((answer) => answer.url().endsWith("/login"));
    await page.click("#login button");
    assert.ok((await answered).ok());
  };
  const order = async (page, item) => {
    await page.fill("#order input", item);
    await page.click("#order button");
  };
  const [ada, alan] = [await open(), await open()];
  await signIn(ada, "Ada");
  await signIn(alan, "Alan");
  await order(ada, "tea");
  await shows(ada, "#orders li", "tea: new");
  await order(alan, "coffee");
  await shows(alan, "#orders li", "coffee: new");
  assert.deepEqual(await ada.locator("#orders li").count(), 1, "she sees an order of his");

  // Another page of hers has it too, and sees it go.
  const again = await ada.context().newPage();
  await again.goto(ada.url());
  await shows(again, "#orders li", "tea: new");
  await ada.click("#orders li button");
  for (const page of [ada, again]) {
    await until("the order is gone", async () => (await page.locator("#orders li").count()) === 0);
  }
  assert.equal(await alan.locator("#orders li").count(), 1);
});

example("chat", "python", async ({ open }) => {
  const join = async (page, name, room) => {
    await page.fill("#join input[name=name]", name);
    await page.fill("#join input[name=room]", room);
    await page.click("#join button");
    await page.waitForSelector("#say:not([hidden])");
  };
  const say = async (page, text) => {
    await page.fill("#say input", text);
    await page.click("#say button");
  };
  const [ada, alan, eve] = [await open(), await open(), await open()];
  await join(ada, "Ada", "engines");
  await join(alan, "Alan", "engines");
  await join(eve, "Eve", "gardens");
  await say(ada, "hello");
  for (const page of [ada, alan]) await shows(page, "#messages li", "Ada: hello");
  await say(alan, "hello yourself");
  await shows(ada, "#messages li", "Alan: hello yourself");
  await say(eve, "roses");
  await shows(eve, "#messages li", "Eve: roses");
  assert.equal(await eve.locator("#messages li").count(), 1);
  assert.equal(await ada.locator("#messages li").count(), 2);
});

example("dashboard", "python", async ({ open }) => {
  const [watching, acting] = [await open(), await open()];
  await shows(watching, "#stock li", "tea: 5");
  for (let left = 4; left >= 1; left--) {
    await acting.click("#stock li:has-text('tea') button");
    await shows(watching, "#stock li", `tea: ${left}`);
  }
  await until("the open orders", async () => (await watching.locator("#orders li").count()) === 4);
  await shows(watching, "#alerts li", "only 2 tea left");
  await acting.click("#orders li:first-child button");
  await until("it was shipped", async () => (await watching.locator("#orders li").count()) === 3);
  const connections = await watching.evaluate(() =>
    performance.getEntriesByType("resource").filter((entry) => entry.name.includes("/_events")).length);
  assert.ok(connections <= 1, `${connections} streams were opened`);
});
