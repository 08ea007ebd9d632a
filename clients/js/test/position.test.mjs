// What `follow` brings when it comes back.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { follow } from 'sidestream-client';

// Answers each request with the next of these bodies, and tells what was brought as a position.
function served(t, bodies) {
  const brought = [];
  const fetch = async (url, { headers, signal }) => {
    brought.push(headers['Last-Event-ID'] ?? '');
    const body = bodies[brought.length - 1];
    if (body === undefined) return new Promise((_, reject) => signal.addEventListener('abort', reject));
    return new Response(body, { headers: { 'Content-Type': 'text/event-stream' } });
  };
  const done = new Promise((resolve) => {
    const stream = follow('http://127.0.0.1/_events/things', {
      fetch, retry: 1, maxRetry: 1, onEvent: () => brought.length > bodies.length && resolve(),
    });
    t.after(() => stream.close());
  });
  return { brought, done };
}

test('a snapshot that is cut in the middle begins anew, whatever was known before it', async (t) => {
  const { brought, done } = served(t, [
    'event: snapshot\ndata: {"reason":"new"}\n\nevent: ready\ndata: {"documents":0}\nid: A\n\n',
    'event: snapshot\ndata: {"reason":"filter-changed"}\n\nevent: document\ndata: {}\n\n',
    'event: snapshot\ndata: {"reason":"new"}\n\nevent: ready\ndata: {"documents":0}\nid: B\n\n',
  ]);
  await done;
  assert.deepEqual(brought.slice(0, 4), ['', 'A', '', 'B']);
});
