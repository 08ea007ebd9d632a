// The thirty lines that people write, done well: one change stream for everybody, one channel.
//
//     node shared.mjs PORT MONGODB_URI
import { once } from "node:events";
import { createServer } from "node:http";
import { createChannel, createSession } from "better-sse";
import { MongoClient } from "mongodb";

const [port, uri] = process.argv.slice(2);
const client = await new MongoClient(uri).connect();
const channel = createChannel();
const changes = client.db("bench").collection("items").watch([], { fullDocument: "updateLookup" });
changes.on("change", (change) => channel.broadcast(change, change.operationType));
await once(changes, "resumeTokenChanged");

createServer(async (request, response) => {
  channel.register(await createSession(request, response));
}).listen(Number(port), "127.0.0.1", 4096);
