// The thirty lines that people write, done well: one change stream for everybody, one text for each event.
//
//     node ws.mjs PORT MONGODB_URI
import { once } from "node:events";
import { createServer } from "node:http";
import { MongoClient } from "mongodb";
import { WebSocketServer } from "ws";

const [port, uri] = process.argv.slice(2);
const client = await new MongoClient(uri).connect();
const changes = client.db("bench").collection("items").watch([], { fullDocument: "updateLookup" });
const server = new WebSocketServer({ noServer: true, perMessageDeflate: false, clientTracking: true });
changes.on("change", (change) => {
  // Once for all.
  const text = Buffer.from(JSON.stringify({ event: change.operationType, data: change }));
  for (const socket of server.clients) socket.send(text, { binary: false });
});
await once(changes, "resumeTokenChanged");

const http = createServer();
http.on("upgrade", (request, socket, head) => {
  server.handleUpgrade(request, socket, head, (one) => one.send('{"event":"ready"}'));
});
http.listen(Number(port), "127.0.0.1", 4096);
