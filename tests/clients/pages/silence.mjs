// Pages behind each proxy of docs/in-front.md while nothing happens for SILENCE seconds: no proxy cuts a stream
// that has nothing but heartbeats, and the next event comes through the same connection.

import assert from "node:assert/strict";
import { test } from "node:test";
import { ids, write } from "../../../clients/js/test/stand.mjs";
import { everywhere, openAll } from "./pages.mjs";

const SILENCE = Number(process.env.SILENCE);

test(`${SILENCE} s of silence behind each proxy`, async () => {
  const pages = await openAll();
  const look = () => Promise.all(pages.map((each) => each.sources()));
  const before = await look();
  // The silence itself, and not a wait for something.
  await new Promise((resolve) => setTimeout(resolve, SILENCE * 1000));
  const [key] = ids(1);
  await write(["insert", key]);
  await everywhere(pages, key);
  for (const [index, sources] of (await look()).entries()) {
    const { name } = pages[index];
    assert.deepEqual(sources.map(({ opened }) => opened), before[index].map(({ opened }) => opened),
      `${name}: cut within ${SILENCE} s of silence`);
    for (const { keys } of sources) assert.equal(keys.filter((each) => each === key).length, 1, `${name}: ${keys}`);
  }
});
