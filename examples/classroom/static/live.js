// Live updates for pages that work without them. The app knows nothing of this: the events come from
// Sidestream, on the same origin, as plain Server-Sent Events.
//
// Two ways to use an event, both here on purpose:
//   - `answers` come with a snapshot: first those that are there, then every change, drawn from the
//     event itself and keyed by the document's _id. The page asks the app for nothing.
//   - `questions` are only a nudge: the page asks the app again and swaps the parts marked
//     `data-live`. Slower, but the server's templates stay the only ones.

"use strict";

const STREAMS = "/_events";
const RETRY_MS = 2000;

// ---------------------------------------------------------------------------------------------
// Listening to one stream, for as long as the page needs it. Returns a function that ends it.
// `change` gets each event; `replace` all documents, of a stream that has a snapshot.

function follow(stream, params, change, replace) {
  let source = null;
  let lastId = "";
  let gathered = null; // The documents of a snapshot that is not complete yet.
  let timer = 0;
  let stopped = false;

  function connect() {
    const query = new URLSearchParams(params);
    // The browser resumes by itself as long as it keeps this EventSource; a new one must be told.
    if (lastId) query.set("lastEventId", lastId);
    source = new EventSource(`${STREAMS}/${stream}?${query}`);

    source.addEventListener("snapshot", () => { gathered = []; });
    source.addEventListener("document", (message) => gathered.push(JSON.parse(message.data)));

    // From here on, the stream tells everything. Without a snapshot it does not tell what changed
    // between loading the page and this moment: so the page is loaded once more, unless the stream
    // went on where it was.
    source.addEventListener("ready", (message) => {
      indicate(stream, "live");
      const documents = gathered;
      gathered = null;
      if (documents) afterLoading(() => stopped || replace(documents));
      else if (!lastId) reload();
      lastId = message.lastEventId;
    });

    source.onerror = () => {
      indicate(stream, "reconnecting");
      if (gathered) {
        // Half a snapshot is of no use, and a position from before it neither.
        gathered = null;
        lastId = "";
        source.close();
      }
      // CLOSED: the browser has given up, as it does on any status but 200. Sidestream gives none for
      // trouble that will pass, but what stands in front of it may.
      if (source.readyState === EventSource.CLOSED) {
        timer = setTimeout(connect, RETRY_MS * (1 + Math.random()));
      }
    };

    for (const type of ["insert", "update", "replace", "delete"]) {
      source.addEventListener(type, (message) => {
        lastId = message.lastEventId;
        const event = JSON.parse(message.data);
        afterLoading(() => stopped || change(event));
      });
    }

    // What was missed cannot be told any more: start over from the app's own page.
    source.addEventListener("reset", (message) => {
      lastId = message.lastEventId;
      reload();
    });

    // The right to listen has ended.
    source.addEventListener("end", () => {
      stop();
      indicate(stream, "ended");
    });
  }

  function stop() {
    stopped = true;
    clearTimeout(timer);
    source.close();
    indicate(stream, null);
  }

  indicate(stream, "connecting");
  connect();
  return stop;
}

// ---------------------------------------------------------------------------------------------
// Loading the page's state again, without leaving the page.

let held = null; // While loading: what to do afterwards.
let isStale = false;

// An event that arrives while the state is on its way may be newer than that state. It waits, and is
// drawn on top.
function afterLoading(action) {
  if (held) held.push(action);
  else action();
}

async function reload() {
  isStale = true;
  if (held) return; // The loop below sees it.
  held = [];
  while (isStale) {
    isStale = false;
    try {
      await swapParts();
    } catch {
      // The app is away for a moment. Giving up would leave the page wrong, and quietly.
      isStale = true;
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    }
  }
  const actions = held;
  held = null;
  actions.forEach((action) => action());
}

async function swapParts() {
  const response = await fetch(location.href);
  if (!response.ok) throw new Error(`the app answered ${response.status}`);
  const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
  for (const old of document.querySelectorAll("[data-live]")) {
    const part = fresh.getElementById(old.id);
    // Untouched where nothing changed: someone may be filling in a form there.
    if (part && part.outerHTML !== old.outerHTML) old.replaceWith(part);
  }
  followAnswers();
}

// ---------------------------------------------------------------------------------------------
// The indicator, which shows the worst of the streams.

const states = new Map();

function indicate(stream, state) {
  if (state) states.set(stream, state);
  else states.delete(stream);
  const all = [...states.values()];
  const worst = ["ended", "reconnecting", "connecting", "live"].find((each) => all.includes(each));
  const element = document.getElementById("connection");
  element.hidden = !worst;
  element.dataset.state = worst ?? "off";
  element.textContent = worst ?? "";
}

// ---------------------------------------------------------------------------------------------
// The teacher's page: answers.

function drawAnswer(event) {
  const list = document.getElementById("answers");
  if (!list) return;
  const key = event.documentKey._id.$oid;
  const answer = event.fullDocument;
  let row = list.querySelector(`[data-id="${CSS.escape(key)}"]`);

  // "leave": it is no longer an answer to this question. No document: it is gone already.
  if (event.operationType === "delete" || event.view === "leave" || !answer) {
    row?.remove();
    drawTally();
    return;
  }

  if (!row) {
    row = document.getElementById("answer-row").content.firstElementChild.cloneNode(true);
    row.dataset.id = key;
    row.querySelector("input").value = key;
    row.classList.add("new");
    list.append(row);
  }
  // textContent, never innerHTML: what students write stays text.
  row.dataset.answer = answer.answer;
  row.querySelector(".student").textContent = answer.student;
  row.querySelector(".text").textContent = answer.answer;
  // UTC, as on the server, lest a row change its time when the page is loaded again.
  row.querySelector("time").textContent = new Date(answer.time.$date).toISOString().slice(11, 19);
  drawTally();
}

// Those that are there, and no others; in the order in which the server lists them.
function drawAnswers(documents) {
  document.getElementById("answers")?.replaceChildren();
  const time = ({ fullDocument }) => new Date(fullDocument.time.$date);
  documents.sort((one, other) => time(one) - time(other)).forEach(drawAnswer);
  for (const row of document.querySelectorAll("#answers li")) row.classList.remove("new");
  drawTally();
}

// Counted from the rows, not added up from events: an event that comes twice counts once.
function drawTally() {
  const answers = [...document.querySelectorAll("#answers li")].map((row) => row.dataset.answer);
  for (const row of document.querySelectorAll("#tally li")) {
    const count = answers.filter((answer) => answer === row.dataset.choice).length;
    row.querySelector(".count").textContent = count;
    row.querySelector("progress").max = Math.max(answers.length, 1);
    row.querySelector("progress").value = count;
  }
  document.getElementById("total").textContent = answers.length;
}

const following = { question: undefined, stop: null };

// The question on the page may be another one now; then so are the answers to listen to.
function followAnswers() {
  const question = document.getElementById("current").dataset.question;
  if (role !== "teacher" || question === following.question) return;
  following.stop?.();
  following.question = question;
  following.stop = question ? follow("answers", { question }, drawAnswer, drawAnswers) : null;
}

// ---------------------------------------------------------------------------------------------

const role = document.body.dataset.page;

if (role === "student" || role === "teacher") {
  follow("questions", {}, reload);
  followAnswers();
}
