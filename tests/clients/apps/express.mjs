// An Express app that says what it takes a request for: node express.mjs LINES PORT. LINES is a file with what
// docs/in-front.md tells Express.

import { readFileSync } from "node:fs";
import express from "express";

const [lines, port] = process.argv.slice(2);
const app = express();
new Function("app", readFileSync(lines, "utf8"))(app);
app.get("/who", (request, response) => response.json({ address: request.ip, scheme: request.protocol, host: request.host }));
app.listen(Number(port), "127.0.0.1");
