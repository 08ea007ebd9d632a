// clients/js, told what to use: node ours.mjs sse|poll URL. A line of JSON for each event.

import { follow } from "../../clients/js/live.js";

const [transport, url] = process.argv.slice(2);
follow(url, {
  transport,
  // A long poll says nothing of when to come back.
  retry: 50,
  maxRetry: 500,
  onEvent: ({ event, data }) => {
    if (event && event !== "open") console.log(JSON.stringify([event, data.documentKey?._id, data.fullDocument?.text]));
  },
});
