// Socket.IO with its MongoDB adapter, done well: one change stream for everybody, sent to all through
// the adapter, so that clients of other servers get it too.
//
//     node socketio.mjs PORT MONGODB_URI
import { once } from "node:events";
import { createServer } from "node:http";
import { createAdapter } from "@socket.io/mongo-adapter";
import { MongoClient } from "mongodb";
import { Server } from "socket.io";

const [port, uri] = process.argv.slice(2);
const client = await new MongoClient(uri).connect();
// One collection, of its own, for each run: as its manual advises, capped.
const name = `socketio-${port}`;
const messages = await client
  .db("bench-socketio")
  .createCollection(name, { capped: true, size: 1 << 24 });

const server = createServer();
const io = new Server(server, { transports: ["websocket"], serveClient: false });
io.adapter(createAdapter(messages));

const changes = client.db("bench").collection("items").watch([], { fullDocument: "updateLookup" });
changes.on("change", (change) => io.emit("change", change));
await once(changes, "resumeTokenChanged");
server.listen(Number(port), "127.0.0.1", 4096);
