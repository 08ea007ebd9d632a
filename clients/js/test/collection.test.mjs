// What events make of documents, without a connection: one message after the other.

import assert from 'node:assert/strict';
import { mock, test } from 'node:test';
import { collection } from 'sidestream-client';

const immediately = { schedule: (run) => run() };
const change = (event, key, more = {}) => ({
  event, id: `id-${event}-${key}`, data: { ns: { db: 'd', coll: 'c' }, documentKey: { _id: key }, ...more },
});
const put = (event, document, more) => change(event, document._id, { fullDocument: document, ...more });
const opened = { event: 'open', data: { resumed: false } };
const ready = { event: 'ready', data: {}, id: 'ready' };
const reset = { event: 'reset', data: { reason: 'history-lost' }, id: 'reset' };
const shown = (store) => store.handle().documents;

test('insert, update, replace, delete', () => {
  const store = collection(immediately);
  for (const message of [opened, ready, put('insert', { _id: 1, a: 1 }), put('insert', { _id: 2, a: 1 }),
    put('update', { _id: 1, a: 2 }), put('replace', { _id: 2, b: 1 }), change('delete', 1)]) store.apply(message);
  assert.deepEqual(shown(store), [{ _id: 2, b: 1 }]);
});

test('what enters and leaves the view', () => {
  const store = collection(immediately);
  for (const message of [opened, ready, put('update', { _id: 1 }, { view: 'enter' }), put('update', { _id: 1, a: 2 }, { view: 'stay' }),
    put('insert', { _id: 2 }, { view: 'enter' }), put('update', { _id: 1, a: 3 }, { view: 'leave' }),
    change('update', 2, { view: 'leave', fullDocument: null })]) store.apply(message);
  assert.deepEqual(shown(store), []);
});

test('an update whose document is gone by now changes nothing; its delete will', () => {
  const store = collection(immediately);
  for (const message of [opened, ready, put('insert', { _id: 1 }), change('update', 1, { fullDocument: null })]) store.apply(message);
  assert.deepEqual(shown(store), [{ _id: 1 }]);
});

test('keys: types that JSON lacks, functions, and a delete that brings MongoDB’s key alone', () => {
  const store = collection({ ...immediately, documents: [{ _id: 'aa', a: 0 }] });
  store.apply(put('update', { _id: { $oid: 'aa' }, a: 1 }));
  assert.deepEqual(shown(store), [{ _id: { $oid: 'aa' }, a: 1 }]);
  assert.deepEqual(store.handle().get({ $oid: 'aa' }).a, 1);

  const bySlug = collection({ ...immediately, key: (document) => document.slug });
  bySlug.apply(put('insert', { _id: 1, slug: 'one' }));
  bySlug.apply(put('update', { _id: 1, slug: 'uno' }));
  assert.deepEqual(shown(bySlug), [{ _id: 1, slug: 'uno' }]);
  bySlug.apply(change('delete', 1));
  assert.deepEqual(shown(bySlug), []);
});

test('a snapshot is built beside what is shown, and takes its place when it is complete', () => {
  const store = collection(immediately);
  const snapshot = (reason) => ({ event: 'snapshot', data: { reason } });
  const document = (key) => ({ event: 'document', data: put('', { _id: key }).data });
  for (const message of [opened, snapshot('new'), document(1), document(2), ready]) store.apply(message);
  assert.deepEqual(shown(store), [{ _id: 1 }, { _id: 2 }]);
  for (const message of [snapshot('history-lost'), document(3)]) store.apply(message);
  assert.deepEqual(shown(store), [{ _id: 1 }, { _id: 2 }]);
  // Cut off, and begun again.
  for (const message of [opened, snapshot('new'), document(4), ready, put('insert', { _id: 5 })]) store.apply(message);
  assert.deepEqual(shown(store), [{ _id: 4 }, { _id: 5 }]);
});

// Lets promises settle while timers are mocked.
const settle = () => new Promise((resolve) => { setImmediate(resolve); });

test('what comes while documents load is kept, and goes on top of them', async (t) => {
  t.after(() => mock.timers.reset());
  mock.timers.enable({ apis: ['setTimeout', 'Date'] });
  /** @type {(documents: object[]) => void} */
  let answer;
  const store = collection({ ...immediately, load: () => new Promise((resolve) => { answer = resolve; }) });
  store.apply(opened);
  store.apply(ready);
  mock.timers.tick(1);
  store.apply(put('insert', { _id: 1, a: 'new' }));
  assert.deepEqual(shown(store), [{ _id: 1, a: 'new' }], 'shown at once');
  store.apply(change('delete', 2));
  answer([{ _id: 1, a: 'old' }, { _id: 2 }, { _id: 3 }]);
  await settle();
  assert.deepEqual(shown(store), [{ _id: 1, a: 'new' }, { _id: 3 }]);
});

test('documents are loaded again after a reset, less and less often', async (t) => {
  t.after(() => mock.timers.reset());
  mock.timers.enable({ apis: ['setTimeout', 'Date'] });
  let loads = 0;
  const store = collection({ ...immediately, load: async () => [{ _id: ++loads }] });
  store.apply(opened);
  store.apply(ready);
  mock.timers.tick(1);
  await settle();
  assert.equal(loads, 1, 'at once');
  for (let second = 0; second < 60; second++) {
    store.apply(reset);
    mock.timers.tick(1000);
    await settle();
  }
  assert.ok(loads >= 4 && loads <= 9, `${loads} loads in a minute of resets`);
  mock.timers.tick(60_000);
  await settle();
  assert.deepEqual(shown(store), [{ _id: loads }]);
});

test('a stream that begins anew without a position loads anew, and drops what an older load brings', async (t) => {
  t.after(() => mock.timers.reset());
  mock.timers.enable({ apis: ['setTimeout', 'Date'] });
  const answers = [];
  const store = collection({ ...immediately, load: () => new Promise((resolve) => { answers.push(resolve); }) });
  for (const message of [opened, { event: 'reset', data: { reason: 'started' } }]) store.apply(message);
  mock.timers.tick(2000);
  for (const message of [opened, ready]) store.apply(message);
  mock.timers.tick(2000);
  assert.equal(answers.length, 2);
  answers[1]([{ _id: 'new' }]);
  await settle();
  answers[0]([{ _id: 'old' }]);
  await settle();
  assert.deepEqual(shown(store), [{ _id: 'new' }]);
});

test('a load that fails is tried again', async (t) => {
  t.after(() => mock.timers.reset());
  mock.timers.enable({ apis: ['setTimeout', 'Date'] });
  let loads = 0;
  const store = collection({
    ...immediately,
    load: async () => {
      if (++loads === 1) throw new Error('no');
      return [{ _id: 1 }];
    },
  });
  store.apply(opened);
  store.apply(ready);
  mock.timers.tick(1);
  await settle();
  assert.equal(store.handle().error.message, 'no');
  mock.timers.tick(2000);
  await settle();
  assert.deepEqual(shown(store), [{ _id: 1 }]);
  assert.equal(store.handle().error, undefined);
});

test('subscribers are called once for many changes, and see the same array until then', async () => {
  const scheduled = [];
  const store = collection({ schedule: (run) => scheduled.push(run) });
  const { subscribe } = store.handle();
  let calls = 0;
  const stop = subscribe(() => calls++);
  const before = shown(store);
  for (let key = 0; key < 1000; key++) store.apply(put('insert', { _id: key }));
  assert.equal(scheduled.length, 1);
  assert.equal(shown(store), before);
  scheduled.pop()();
  assert.equal(calls, 1);
  assert.equal(shown(store).length, 1000);
  stop();
  store.apply(put('insert', { _id: -1 }));
  scheduled.pop()();
  assert.equal(calls, 1);
});
