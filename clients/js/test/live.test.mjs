// `live` and `follow` against a real Sidestream, over connections that break.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { follow, live } from 'sidestream-client';
import { ids, post, relay, stored, until, write } from './stand.mjs';

const byId = (documents) => new Map([...documents].map((each) => [each._id, each.version]));
const quick = { retry: 50, maxRetry: 500 };

// A collection of what a test writes, and the operations that it heard of.
function open(url, t, options = {}) {
  const heard = [];
  const things = live(url, {
    ...quick,
    load: stored,
    schedule: setImmediate,
    onEvent: ({ event, data }) => heard.push([event, data.documentKey?._id]),
    ...options,
  });
  t.after(() => things.close());
  return { things, heard, of: (keys) => heard.filter(([, key]) => keys.includes(key)) };
}

test('the collection is what the database has, through cuts', async (t) => {
  const before = ids(20);
  await write(...before.map((key) => ['insert', key]));
  const { url, state } = await relay({ mode: 'cutting', seed: 7, mean: 3000 });
  const { things, of } = open(url, t);
  await until('the documents of before', () => before.every((key) => things.get(key)));

  const after = ids(150);
  const operations = after.flatMap((key, index) => [
    ['insert', key],
    ...(index % 3 ? [['update', key]] : []),
    ...(index % 5 ? [] : [['delete', key]]),
  ]);
  operations.push(['delete', before[0]]);
  const [sentinel] = ids(1);
  await write(...operations, ['insert', sentinel]);
  await until('the last document', () => things.get(sentinel));

  assert.deepEqual(of([...after, before[0]]), operations, 'each change once, in order');
  await until('the subscribers being told', () => things.documents.some((each) => each._id === sentinel));
  assert.deepEqual(byId(things.documents), byId(await stored()));
  assert.ok((await state()).cuts > 3, 'the relay hardly cut anything');
});

test('an answer that ends an EventSource for good is passed over', async (t) => {
  const way = await relay();
  const { things, of } = open(way.url, t);
  const keys = ids(3);
  await until('the stream', () => things.status === 'live');
  await write(['insert', keys[0]]);
  await until('the first event', () => of(keys).length === 1);

  await way.set({ mode: 'refusing', cut: true });
  await until('several refusals', async () => (await way.state()).connections > 4);
  assert.equal(things.status, 'reconnecting');
  assert.equal(things.error.status, 503);
  await write(['insert', keys[1]], ['update', keys[0]], ['insert', keys[2]]);
  await way.set({ mode: 'plain' });
  await until('all events', () => of(keys).length === 4);
  assert.deepEqual(of(keys), [['insert', keys[0]], ['insert', keys[1]], ['update', keys[0]], ['insert', keys[2]]]);
  assert.equal(things.status, 'live');
  assert.equal(things.error, undefined);
});

test('a restart of the sidecar loses nothing', async (t) => {
  const { url } = await relay();
  const { things, of } = open(url, t);
  const keys = ids(41);
  await until('the stream', () => things.status === 'live');
  for (const [index, signal] of ['TERM', 'KILL'].entries()) {
    const restarted = post('/restart', { signal });
    for (const key of keys.slice(20 * index, 20 * index + 20)) await write(['insert', key]);
    await restarted;
  }
  await write(['insert', keys[40]]);
  await until('the last document', () => things.get(keys[40]));
  assert.deepEqual(of(keys), keys.map((key) => ['insert', key]));
});

test('long polls take over where something holds the stream back', async (t) => {
  const way = await relay({ mode: 'buffering' });
  const { things, of } = open(way.url, t, { openTimeout: 300 });
  const keys = ids(40);
  await until('the collection', () => things.status === 'live');
  for (const key of keys) await write(['insert', key]);
  await until('all events', () => of(keys).length === keys.length);
  assert.deepEqual(of(keys), keys.map((key) => ['insert', key]));
});

test('server-sent events come back once they get through again', async (t) => {
  const way = await relay({ mode: 'buffering' });
  const asked = [];
  const { things, of } = open(way.url, t, {
    openTimeout: 300,
    pollFor: 500,
    fetch: (address, init) => {
      asked.push(init.headers.Accept);
      return fetch(address, init);
    },
  });
  const keys = ids(60);
  await until('long polls', () => things.status === 'live');
  assert.equal(asked.at(-1), 'application/json');
  for (const key of keys.slice(0, 20)) await write(['insert', key]);
  // A poll that waits for news holds the next attempt up: news end it.
  await way.set({ mode: 'plain' });
  const rest = keys.slice(20);
  await until('server-sent events', async () => {
    if (rest.length > 10) await write(['insert', rest.shift()]);
    return asked.at(-1) === 'text/event-stream' && things.status === 'live';
  });
  const { length } = asked;
  for (const key of rest) await write(['insert', key]);
  await until('all events', () => things.get(keys.at(-1)));
  const written = of(keys).map(([, key]) => key);
  assert.deepEqual(written, keys, 'each event once, in order');
  assert.equal(asked.length, length, 'asked again although the stream flows');
});

test('attempts get rarer, and end when the collection is closed', async (t) => {
  const way = await relay({ mode: 'down' });
  const begun = performance.now();
  const stream = follow(way.url, { retry: 10, maxRetry: 1000, onEvent() {} });
  t.after(() => stream.close());
  await until('six attempts', async () => (await way.state()).connections >= 6);
  // After the first: at least half of 20, 40, 80, 160 and 320 ms.
  assert.ok(performance.now() - begun >= 310, `only ${performance.now() - begun} ms`);
  stream.close();
});

test('nothing is lost when the stream breaks before it had a position', async (t) => {
  // The first connections end within the head or the first block.
  const way = await relay({ mode: 'cutting', seed: 3, mean: 150 });
  const { things } = open(way.url, t);
  const keys = ids(30);
  for (const key of keys) await write(['insert', key]);
  await way.set({ mode: 'plain', cut: true });
  const [sentinel] = ids(1);
  await until('the stream', () => things.status === 'live');
  await write(['insert', sentinel]);
  await until('the last document', () => things.get(sentinel));
  assert.deepEqual(keys.filter((key) => !things.get(key)), []);
});

// A stream of its own, so that editing its filter disturbs nobody.
async function openOwn(name, t, options) {
  const way = await relay();
  const url = way.url.replace('things', name);
  await post('/filter', { name, more: '' });
  await until('the new stream', async () => {
    const answer = await fetch(url);
    await answer.body.cancel();
    return answer.ok;
  });
  return { way, ...open(url, t, options) };
}

test('a reset loads the documents again', async (t) => {
  let loads = 0;
  // Counted when it has read: what is written after that comes by the stream alone.
  const load = async () => {
    const found = await stored();
    loads++;
    return found;
  };
  const { things, heard } = await openOwn('edited', t, { load });
  await until('the stream', () => things.status === 'live' && loads === 1);
  await post('/filter', { name: 'edited', more: 'project: { text: 0 }' });
  await until('the reset', () => heard.some(([event]) => event === 'reset'));
  await until('the second load', () => loads === 2);
  const [key] = ids(1);
  await write(['insert', key]);
  await until('the next document', () => things.get(key));
  assert.equal(things.get(key).text, undefined);
});

// Each edit of the filter brings another snapshot, and a cut within one means that it begins again.
test('a collection from snapshots is what the database has, through cuts within them', async (t) => {
  const name = 'begins';
  const keys = ids(200);
  // The one that the filter no longer matches is told by nothing but the snapshot.
  const show = (count) => post('/filter', {
    name, more: `match: { _id: { $gte: ${keys[count - 100]}, $lt: ${keys[count]} } }\nsnapshot: true`,
  });
  await write(...keys.slice(0, 100).map((key) => ['insert', key]));
  t.after(() => post('/filter', { name, more: null }));
  await show(100);
  const { origin, state } = await relay({ mode: 'cutting', seed: 11, mean: 30_000 });
  let [begun, complete, shown] = [0, 0, 100];
  const things = live(`${origin}/_events/${name}`, {
    ...quick,
    schedule: setImmediate,
    onEvent({ event, data }) {
      if (event === 'snapshot') begun++;
      if (event === 'ready' && 'documents' in data) complete++;
    },
  });
  t.after(() => things.close());
  await until('the first documents', () => things.get(keys[shown - 1]));
  while (shown < 199 && begun - complete < 5) {
    await write(['update', keys[shown - 50]], ['delete', keys[shown - 30]], ['insert', keys[shown]]);
    shown++;
    await show(shown);
    // The filter of before does not match it.
    await until('what the filter shows now', () => things.get(keys[shown - 1]));
  }
  assert.ok(begun - complete >= 5, `${begun} snapshots, ${complete} complete, ${(await state()).cuts} cuts`);
  const found = (await stored()).filter(({ _id }) => _id >= keys[shown - 100] && _id < keys[shown]);
  assert.ok(found.length > 50);
  await until('the subscribers being told', () => things.documents.some((each) => each._id === keys[shown - 1]));
  assert.deepEqual(byId(things.documents), byId(found));
});

test('a stream that has ended for good is not asked for again', async (t) => {
  const { things, way } = await openOwn('removed', t);
  await until('the stream', () => things.status === 'live');
  await post('/filter', { name: 'removed', more: null });
  await until('the end', () => things.status === 'ended');
  assert.equal(things.error.message, 'filter-changed');
  const { connections } = await way.state();
  // Another stream that reconnects as eagerly has come back by now, several times.
  const other = await relay({ mode: 'down' });
  const eager = follow(other.url, { ...quick, onEvent() {} });
  t.after(() => eager.close());
  await until('six attempts', async () => (await other.state()).connections >= 6);
  assert.equal((await way.state()).connections, connections);
});
