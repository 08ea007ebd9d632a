// The thirty lines that people write first: a filtered change stream for each client.
//
//     node per-client.mjs PORT MONGODB_URI
import { createServer } from "node:http";
import { createSession } from "better-sse";
import { MongoClient } from "mongodb";

const [port, uri] = process.argv.slice(2);
// Each change stream keeps a connection busy.
const client = await new MongoClient(uri, { maxPoolSize: 2000 }).connect();
const items = client.db("bench").collection("items");

createServer(async (request, response) => {
  const key = Number(new URL(request.url, "http://localhost").searchParams.get("key") ?? -1);
  const pipeline = [{ $match: { "fullDocument.key": key } }];
  const changes = items.watch(pipeline, { fullDocument: "updateLookup" });
  const session = await createSession(request, response);
  changes.on("change", (change) => session.push(change, change.operationType));
  session.on("disconnected", () => changes.close());
}).listen(Number(port), "127.0.0.1", 4096);
