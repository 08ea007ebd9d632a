// Many clients of a stream, which do nothing but listen.

import http from "node:http";
import { atEnd } from "./harness.mjs";

// Opens so many, and counts those that end. Ready when all of them have heard something.
export async function startClients(url, target, count, headers) {
  const ended = { count: 0 };
  const agent = new http.Agent({ keepAlive: false, maxSockets: Infinity });
  const opening = Array.from({ length: count }, () => new Promise((resolve, reject) => {
    const request = http.get(url + target, { agent, headers: { accept: "text/event-stream", ...headers } }, (answer) => {
      if (answer.statusCode !== 200) return reject(new Error(`${target}: ${answer.statusCode}`));
      answer.once("data", resolve);
      answer.resume();
      answer.on("end", () => ended.count++);
      answer.on("error", () => {});
    });
    request.on("error", reject);
    atEnd(() => request.destroy());
  }));
  await Promise.all(opening);
  return { ended };
}
