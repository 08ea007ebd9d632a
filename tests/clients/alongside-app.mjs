// An app with real-time servers of its own, as people have them: Socket.IO, GraphQL subscriptions
// (Apollo Server with graphql-ws), Faye, server-sent events. It listens on $PORT.

import { createServer } from "node:http";
import { ApolloServer } from "@apollo/server";
import { expressMiddleware } from "@as-integrations/express5";
import { makeExecutableSchema } from "@graphql-tools/schema";
import express from "express";
import faye from "faye";
import { useServer } from "graphql-ws/use/ws";
import { Server as SocketServer } from "socket.io";
import { WebSocketServer } from "ws";

const app = express();
const server = createServer(app);

app.get("/page.html", (_, response) => response.send("<!doctype html><title>page</title>"));

// Ten events at a time; a client that comes back gets what follows its last one.
app.get("/news", (request, response) => {
  response.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-store" });
  const from = Number(request.get("last-event-id") ?? 0) + 1;
  for (let id = from; id < from + 10; id++) response.write(`id: ${id}\ndata: news ${id}\n\n`);
  // Left open: what has been written must not wait for the end.
});

const io = new SocketServer(server);
io.on("connection", (socket) => {
  socket.on("echo", (value, answer) => answer(value));
  socket.on("shout", (value) => io.emit("heard", value));
});

const schema = makeExecutableSchema({
  typeDefs: "type Query { greeting(name: String!): String! } type Subscription { countdown(from: Int!): Int! }",
  resolvers: {
    Query: { greeting: (_, { name }) => `Hello ${name}` },
    Subscription: {
      countdown: {
        async* subscribe(_, { from }) {
          for (let countdown = from; countdown >= 0; countdown--) yield { countdown };
        },
      },
    },
  },
});
const apollo = new ApolloServer({ schema });
await apollo.start();
app.use("/graphql", express.json(), expressMiddleware(apollo));
const subscriptions = new WebSocketServer({ noServer: true });
useServer({ schema }, subscriptions);
server.on("upgrade", (request, socket, head) => {
  if (!request.url.startsWith("/graphql")) return;
  subscriptions.handleUpgrade(request, socket, head, (opened) => subscriptions.emit("connection", opened, request));
});

// Long polls answer within 2 s here, and not within 45.
new faye.NodeAdapter({ mount: "/faye", timeout: 2 }).attach(server);

server.listen(Number(process.env.PORT), "127.0.0.1");
