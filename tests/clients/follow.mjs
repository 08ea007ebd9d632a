// Runs one block of docs/clients.md: node follow.mjs MODULE URL. A line of JSON for each event.

import { pathToFileURL } from "node:url";

const [module, url] = process.argv.slice(2);
if (module.includes("fetch-event-source")) {
  // It is made for browsers.
  globalThis.window = globalThis;
  globalThis.document = { hidden: false, addEventListener() {}, removeEventListener() {} };
}
const { follow } = await import(pathToFileURL(module));
follow(url, (type, data) => {
  console.log(JSON.stringify([type, data.documentKey?._id, data.fullDocument?.text]));
});
