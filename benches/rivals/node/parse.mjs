// Parse Server with live queries, in one process. They follow what is saved through Parse, not the
// database.
//
//     node parse.mjs PORT MONGODB_URI
import { createServer } from "node:http";
import express from "express";
import { ParseServer } from "parse-server";

const [port, uri] = process.argv.slice(2);
const everybody = { "*": true };
const parse = new ParseServer({
  appId: "bench",
  masterKey: "bench-master",
  databaseURI: uri.replace("/?", `/bench-parse-${port}?`),
  serverURL: `http://127.0.0.1:${port}/parse`,
  liveQuery: { classNames: ["Item"] },
  schema: {
    definitions: [
      {
        className: "Item",
        fields: { seq: { type: "Number" }, pad: { type: "String" } },
        classLevelPermissions: { find: everybody, get: everybody, create: everybody },
      },
    ],
  },
  logLevel: "error",
  silent: true,
});
await parse.start();

const app = express();
app.use("/parse", parse.app);
const server = createServer(app);
await ParseServer.createLiveQueryServer(server, { appId: "bench", logLevel: "error" });
server.listen(Number(port), "127.0.0.1", 4096);
