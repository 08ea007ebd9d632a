// What pages do that have no snapshots: a request of their own for what is there now, a `find` for each.
//
//     node lists.mjs PORT MONGODB_URI
import { createServer } from "node:http";
import { MongoClient } from "mongodb";

const [port, uri] = process.argv.slice(2);
const client = await new MongoClient(uri).connect();
const lists = client.db("bench").collection("lists");

createServer(async (request, response) => {
  const key = Number(new URL(request.url, "http://localhost").searchParams.get("key"));
  const found = await lists.find({ key }, { projection: { pad: 1, seq: 1 } }).toArray();
  const body = Buffer.from(JSON.stringify(found));
  response.writeHead(200, { "Content-Type": "application/json", "Content-Length": body.length });
  response.end(body);
}).listen(Number(port), "127.0.0.1", 4096);
