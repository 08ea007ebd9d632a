// The app's own real-time servers, through Sidestream: their own clients against alongside-app.mjs.
// SIDECAR is Sidestream's address, APP the stand's.

import assert from "node:assert/strict";
import { once } from "node:events";
import { test } from "node:test";
import compression from "compression";
import { EventSource } from "eventsource";
import express from "express";
import faye from "faye";
import { createClient } from "graphql-ws";
import { createProxyMiddleware } from "http-proxy-middleware";
import { io } from "socket.io-client";
import WebSocket from "ws";
import { ids, post, until, write } from "../../clients/js/test/stand.mjs";

const SIDECAR = process.env.SIDECAR;
const socketAddress = SIDECAR.replace("http", "ws");

function connect(t, options) {
  const socket = io(SIDECAR, { forceNew: true, reconnectionDelay: 50, ...options });
  t.after(() => socket.close());
  return socket;
}

const transports = { WebSocket: ["websocket"], polling: ["polling"], "polling and then WebSocket": ["polling", "websocket"] };
for (const [name, list] of Object.entries(transports)) {
  test(`Socket.IO by ${name}`, async (t) => {
    const [first, second] = [connect(t, { transports: list }), connect(t, { transports: list })];
    const bytes = Buffer.from(Array.from({ length: 70_000 }, (_, index) => index % 256));
    const [text, echoed] = await Promise.all([
      first.timeout(10_000).emitWithAck("echo", "é 😀"), first.timeout(10_000).emitWithAck("echo", bytes),
    ]);
    assert.equal(text, "é 😀");
    assert.deepEqual(Buffer.from(echoed), bytes);
    if (list.length > 1) {
      await until("the upgrade", () => first.io.engine.transport.name === "websocket");
    }
    const heard = [];
    second.on("heard", (value) => heard.push(value));
    await second.timeout(10_000).emitWithAck("echo", "connected");
    for (let number = 0; number < 50; number++) first.emit("shout", number);
    await until("all that was said", () => heard.length === 50);
    assert.deepEqual(heard, Array.from({ length: 50 }, (_, number) => number));
  });
}

test("GraphQL: queries by Apollo Server, subscriptions by graphql-ws", async (t) => {
  const answer = await fetch(`${SIDECAR}/graphql`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ query: "{ greeting(name: \"Ada\") }" }),
  });
  assert.deepEqual((await answer.json()).data, { greeting: "Hello Ada" });

  const client = createClient({ url: `${socketAddress}/graphql`, webSocketImpl: WebSocket });
  t.after(() => client.dispose());
  const counted = [];
  for await (const { data } of client.iterate({ query: "subscription { countdown(from: 20) }" })) counted.push(data.countdown);
  assert.deepEqual(counted, Array.from({ length: 21 }, (_, index) => 20 - index));
});

// It begins with a long poll, and goes over to a WebSocket where that is possible.
for (const [connection, disabled] of [["websocket", []], ["long-polling", ["websocket"]]]) {
  test(`Faye by ${connection}`, async (t) => {
    const open = () => {
      const client = new faye.Client(`${SIDECAR}/faye`);
      for (const each of [...disabled, "eventsource", "cross-origin-long-polling", "callback-polling"]) client.disable(each);
      t.after(() => client.disconnect());
      return client;
    };
    const [speaker, listener] = [open(), open()];
    const heard = [];
    await listener.subscribe("/chat", ({ text }) => heard.push(text));
    for (let number = 0; number < 20; number++) await speaker.publish("/chat", { text: `é ${number}` });
    await until("all that was said", () => heard.length === 20);
    assert.equal(listener._dispatcher.connectionType, connection);
    assert.deepEqual(heard.sort(), Array.from({ length: 20 }, (_, number) => `é ${number}`).sort());
  });
}

test("the app's own server-sent events, and Sidestream's beside them", async (t) => {
  const news = [];
  const source = new EventSource(`${SIDECAR}/news`);
  t.after(() => source.close());
  source.onmessage = ({ data }) => news.push(data);
  await until("the app's events, while its answer is open", () => news.length === 10);
  assert.deepEqual(news, Array.from({ length: 10 }, (_, index) => `news ${index + 1}`));

  const things = [];
  const stream = new EventSource(`${SIDECAR}/_events/things`);
  t.after(() => stream.close());
  stream.addEventListener("insert", ({ data }) => things.push(JSON.parse(data).documentKey._id));
  await until("an event", async () => {
    await write(["insert", ids(1)[0]]);
    return things.length;
  });
});

// As webpack's development server and others do. It has to pass each event on at once, the head too.
test("a development server that compresses, in front", async (t) => {
  const front = express().use(compression(), createProxyMiddleware({ target: SIDECAR, changeOrigin: true, logger: null }));
  const server = front.listen(0, "127.0.0.1");
  await once(server, "listening");
  t.after(() => server.closeAllConnections());
  t.after(() => server.close());
  const abort = new AbortController();
  t.after(() => abort.abort());
  const answer = await fetch(`http://127.0.0.1:${server.address().port}/_events/things`, {
    headers: { accept: "text/event-stream", "accept-encoding": "gzip, br" },
    signal: AbortSignal.any([abort.signal, AbortSignal.timeout(10_000)]),
  });
  assert.equal(answer.headers.get("content-encoding"), null);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  const [id] = ids(1);
  let isWritten = false;
  while (!text.includes("event: insert") || !text.includes(`"_id":${id}`)) {
    const { value, done } = await reader.read();
    assert.equal(done, false);
    text += value;
    if (!isWritten && text.includes("event: ready")) {
      isWritten = true;
      await write(["insert", id]);
    }
  }
});

test("what the app has open comes back by itself after a restart of the sidecar", async (t) => {
  const socket = connect(t, { transports: ["websocket"] });
  await socket.timeout(10_000).emitWithAck("echo", "before");
  const before = socket.id;
  const news = [];
  const source = new EventSource(`${SIDECAR}/news`);
  t.after(() => source.close());
  source.onmessage = ({ data }) => news.push(data);
  await until("the app's events", () => news.length >= 10);

  await post("/restart", {});
  await until("a new connection", () => socket.connected && socket.id !== before);
  assert.equal(await socket.timeout(10_000).emitWithAck("echo", "behind"), "behind");
  await until("the next events", () => news.includes("news 11"));
  assert.deepEqual(news.slice(0, 20), Array.from({ length: 20 }, (_, index) => `news ${index + 1}`));
});
