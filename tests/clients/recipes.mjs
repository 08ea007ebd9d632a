// The recipes of docs/clients.md, which $RECIPES holds as modules: Vue, Svelte, TanStack DB.

import path from "node:path";
import { test } from "node:test";
import { pathToFileURL } from "node:url";
import { ids, relay, stored, until, write } from "../../clients/js/test/stand.mjs";

const recipe = (name) => import(pathToFileURL(path.join(process.env.RECIPES, `${name}.mjs`)));
const options = { load: stored, retry: 50 };

// What every recipe has to show: `documents()` follows what is written, and `close()` ends the stream.
async function follows(documents, way, close) {
  const [first, second] = ids(2);
  const versions = () => Object.fromEntries([...documents()].map((each) => [each._id, each.version]));
  const show = (wanted) => until(`${JSON.stringify(wanted)}`, () => [first, second].every((key) => versions()[key] === wanted[key]));
  await until("the stream", async () => {
    await write(["insert", ids(1)[0]]);
    return [...documents()].length;
  });
  await write(["insert", first], ["insert", second]);
  await show({ [first]: 1, [second]: 1 });
  await write(["update", first], ["delete", second]);
  await show({ [first]: 2 });
  close();
  await until("the stream being closed", async () => (await way.state()).open === 0);
}

test("Vue", async () => {
  const { effectScope } = await import("vue");
  const { useLive } = await recipe("vue");
  const way = await relay();
  const scope = effectScope();
  const { documents, status } = scope.run(() => useLive(way.url, options));
  await follows(() => documents.value, way, () => scope.stop());
  await until("the status", () => status.value === "closed");
});

test("Svelte", async () => {
  const { liveStore } = await recipe("svelte");
  const way = await relay();
  let shown = [];
  const stop = liveStore(way.url, options).subscribe((documents) => { shown = documents; });
  await follows(() => shown, way, stop);
});

test("TanStack DB", async () => {
  const { liveCollection } = await recipe("tanstack");
  const way = await relay();
  const collection = liveCollection(way.url, options);
  const subscription = collection.subscribeChanges(() => {});
  await follows(() => collection.values(), way, () => {
    subscription.unsubscribe();
    collection.cleanup();
  });
});
