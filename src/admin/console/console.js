// The console: asks the admin port for JSON, and shows it. Nothing is asked while the page is hidden.
// Everything that is shown goes in as text, never as markup.
"use strict";

const EVERY = 2000; // milliseconds between two looks
const KEPT = 90; // samples of a chart: three minutes
const SVG = "http://www.w3.org/2000/svg";
const samples = []; // of /overview
const sent = new Map(); // by stream: the last two samples of events_sent
const main = document.getElementById("main");
let drawn = ""; // the page that `main` holds
let turn = 0; // counts looks, so that an answer that comes late is dropped

// An element with attributes and children; a child that is no node becomes text.
function el(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}

const number = (value, digits = 0) =>
  value === null || value === undefined ? "–" : value.toLocaleString("en", { maximumFractionDigits: digits });
const perSecond = (value) => (value === null ? "–" : `${number(value, value < 10 ? 1 : 0)}/s`);
const badge = (state) => el("span", { class: "badge", "data-state": state }, state);

function seconds(value) {
  if (value === null) return "unknown";
  if (value < 60) return `${number(value, value < 10 ? 1 : 0)} s`;
  return value < 3600 ? `${number(value / 60, 1)} min` : `${number(value / 3600, 1)} h`;
}

// How long ago, with the time itself for those who point at it.
function when(time) {
  if (!time) return "none yet";
  const past = Math.max(0, (Date.now() - Date.parse(time)) / 1000);
  return el("time", { datetime: time, title: time }, `${seconds(past)} ago`);
}

function bytes(value) {
  for (const unit of ["B", "KiB", "MiB"]) {
    if (value < 1024) return `${number(value, 1)} ${unit}`;
    value /= 1024;
  }
  return `${number(value, 1)} GiB`;
}

// What changes something, by the page's own token.
async function tell(path, body) {
  const token = document.querySelector('meta[name="sidestream-token"]').content;
  return fetch(path, { method: "POST", body, headers: { "sidestream-token": token }, signal: AbortSignal.timeout(10000) });
}

async function ask(path) {
  const answer = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(10000) });
  return { ok: answer.ok, body: await answer.json() };
}

// The rate of a counter, from one sample to the next; null where there is none.
function rates(counter) {
  const found = [];
  for (let i = 1; i < samples.length; i++) {
    const seconds = samples[i].uptime_seconds - samples[i - 1].uptime_seconds;
    const more = counter(samples[i]) - counter(samples[i - 1]);
    found.push(seconds > 0 && more >= 0 ? more / seconds : 0); // below 0: another process
  }
  return found;
}

function chart(label, points) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${KEPT} 30`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  const most = Math.max(...points, 0);
  const span = Math.round((points.length * EVERY) / 1000);
  svg.setAttribute("aria-label", `${label}, last ${span} seconds: at most ${number(most, 1)}`);
  const line = (kind, coordinates) => {
    const made = document.createElementNS(SVG, "polyline");
    made.setAttribute("class", kind);
    made.setAttribute("points", coordinates);
    svg.append(made);
  };
  line("ground", `0,29 ${KEPT},29`);
  const height = (value) => (most > 0 ? 29 - (27 * value) / most : 29).toFixed(1);
  line("plot", points.map((value, i) => `${KEPT - points.length + i + 1},${height(value)}`).join(" "));
  return svg;
}

const card = (name, value, ...more) =>
  el("li", {}, el("span", { class: "name" }, name), el("span", { class: "value" }, value), ...more);

function live(name, counter) {
  const points = rates(counter);
  return card(name, perSecond(points.at(-1) ?? null), chart(`${name} a second`, points));
}

function overview(now, { upstreams }) {
  const level = (read) => samples.map((sample) => read(sample) ?? 0);
  const fill = now.journal_limit_bytes > 0 ? (100 * now.journal_bytes) / now.journal_limit_bytes : 0;
  return [
    el("h2", {}, "Overview"),
    troubles(now),
    el("ul", { class: "cards" },
      card("Lag behind MongoDB", now.lag_seconds === null ? "–" : `${number(now.lag_seconds, 1)} s`,
        chart("lag in seconds", level((sample) => sample.lag_seconds))),
      card("Connections", number(now.connections), chart("connections", level((sample) => sample.connections))),
      live("Events in", (sample) => sample.events_read),
      live("Events out", (sample) => sample.events_sent),
      card("Oplog reaches back", now.oplog_hours === null ? "unknown" : `${number(now.oplog_hours, 1)} h`),
      card("Change streams", number(now.cursors), el("small", {}, ` and ${number(now.replay_cursors)} for replays`)),
      card("Journal", `${number(fill, 1)} %`,
        el("small", {}, ` ${bytes(now.journal_bytes)} of ${bytes(now.journal_limit_bytes)}`)),
      live("Requests to the app", (sample) => sample.requests)),
    el("h3", {}, "Resets by reason"),
    el("ul", { class: "cards" }, Object.keys(now.resets).map((reason) =>
      card(reason, number(now.resets[reason]),
        chart(`resets a second, ${reason}`, rates((sample) => sample.resets[reason] ?? 0))))),
    el("h3", {}, "Change streams"),
    table("What is read from MongoDB", ["database", "images", "status", "lag#", "routes#", "journal#"],
      upstreams.map((it) => [it.database, it.mode, badge(it.status),
        it.lag_seconds === null ? "–" : `${number(it.lag_seconds, 1)} s`, number(it.routes), bytes(it.journal_bytes)])),
  ];
}

function troubles(now) {
  return now.troubles.map((trouble) => el("p", { class: "trouble" }, trouble));
}

// A heading that ends with # is of a column of numbers.
function table(caption, heads, rows) {
  if (rows.length === 0) return el("p", { class: "dim" }, `${caption}: none`);
  const kind = (i) => (heads[i].endsWith("#") ? { class: "number" } : {});
  return el("div", { class: "wide", tabindex: "0", role: "region", "aria-label": caption }, el("table", {},
    el("caption", {}, caption),
    el("thead", {}, el("tr", {}, heads.map((head, i) => el("th", { scope: "col", ...kind(i) }, head.replace("#", ""))))),
    el("tbody", {}, rows.map((row) => el("tr", {}, row.map((cell, i) => el("td", kind(i), cell)))))));
}

function streamRate(name) {
  const [before, after] = sent.get(name) ?? [];
  if (!after) return null;
  const seconds = after.at - before.at;
  return seconds > 0 && after.count >= before.count ? (after.count - before.count) / seconds : 0;
}

const streamLink = (name) => el("a", { href: `#/stream/${encodeURIComponent(name)}` }, name);
const findings = (diagnostics) => diagnostics.map((it) =>
  el("pre", { role: "region", tabindex: "0", "aria-label": `What is wrong: ${it.message}` }, it.text));

function streams(now, { streams }, { filters, diagnostics }) {
  const troubled = filters.filter((it) => it.diagnostics.length > 0);
  return [
    el("h2", {}, "Streams"),
    troubles(now),
    table("Streams and their files",
      ["stream", "state", "listeners#", "events out#", "so far#", "last event", "values#", "encoded#", "notes"],
      streams.map((it) => [streamLink(it.name), badge(it.state), number(it.subscriptions),
        perSecond(streamRate(it.name)), number(it.events_sent), when(it.last_event), number(it.cost.values),
        bytes(it.cost.delivery_bytes), it.reason ?? ""])),
    troubled.length + diagnostics.length > 0 ? el("h3", {}, "Mistakes in filter files") : null,
    troubled.map((it) => [el("p", {}, streamLink(it.stream)), ...findings(it.diagnostics)]),
    findings(diagnostics),
  ];
}

// Those who listen, the one that lags most first, each with a button that ends its connection.
function listeners(listening) {
  if (!listening) return null;
  const shown = listening.listeners.length;
  const rest = listening.total > shown ? `: ${number(shown)} of ${number(listening.total)}, those that lag most` : "";
  return table(`Listeners${rest}`, ["subject", "transport", "age#", "lag#", "reads from", "end"],
    listening.listeners.map((it) => {
      const subject = it.subject ?? "anybody";
      const end = el("button", { type: "button", "data-key": it.id, "aria-label": `End the connection of ${subject}` }, "End");
      end.addEventListener("click", async () => {
        end.disabled = true;
        const answer = await tell(`/listeners/end?${new URLSearchParams({ id: it.id })}`).catch((error) => error);
        note(answer.ok ? "Ended. The client reconnects by itself." : "Not ended: the client may have left already.");
        look();
      });
      return [subject, it.has_other_streams ? `${it.transport}, with other streams` : it.transport,
        seconds(it.age_seconds), seconds(it.lag_seconds), it.source, end];
    }));
}

// One stream is drawn once, and then only its numbers: what is typed into its form stays.
function stream(name, { streams }, { filters }, listening) {
  const found = filters.find((it) => it.stream === name);
  if (!found) return [el("h2", {}, name), el("p", {}, "There is no file for this stream.")];
  const numbers = streams.find((it) => it.name === name);
  const said = found.declared;
  const cost = numbers?.cost;
  const facts = el("div", { id: "facts" },
    el("p", {}, badge(found.state), found.reason ? ` ${found.reason}` : ""),
    said?.description ? el("p", {}, said.description) : null,
    el("ul", { class: "cards" },
      card("Listeners", number(numbers?.subscriptions)),
      card("Events out", perSecond(streamRate(name))),
      card("Last event", when(numbers?.last_event)),
      card("Encoded so far", bytes(cost?.delivery_bytes ?? 0),
        el("small", {}, ` in ${number(cost?.deliveries)} events, for ${number(cost?.values)} different values`)),
      card("Collection", said ? `${said.database}.${said.collection ?? "*"}` : "–"),
      card("Who may listen", said?.access ?? "–"),
      card("Begins with", said?.snapshot ? "what matches now" : "the next change")),
    findings(found.diagnostics),
    listeners(listening));
  const old = document.getElementById("facts");
  const shape = JSON.stringify([said?.params, said?.claims]);
  if (old && drawn === location.hash && old.dataset.shape === shape) {
    const at = focusPath(old);
    facts.dataset.shape = shape;
    old.replaceWith(facts);
    at(facts);
    return null;
  }
  facts.dataset.shape = shape;
  const result = el("pre", { id: "explanation", role: "region", tabindex: "0", "aria-label": "Explanation" });
  const fields = [
    ...Object.entries(said?.params ?? {}).map(([param, it]) => paramField(param, it)),
    ...(said?.claims ?? []).map((claim) => claimField(claim)),
  ];
  const asked = () => {
    const query = new URLSearchParams({ stream: name });
    for (const { key, named, values } of fields) for (const value of values()) query.append(key, `${named}=${value}`);
    return query;
  };
  const explain = latest(() => ask(`/explain?${asked()}`), (answer, error) => {
    if (error) result.textContent = `The sidecar does not answer: ${error.message}`;
    else result.textContent = answer.ok ? JSON.stringify(answer.body, null, 2) : answer.body.detail;
  });
  const { elements, judge } = trial(asked);
  const form = el("form", { "aria-label": "Values" }, fields.map(({ element }) => element));
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", () => { explain(); judge(); });
  explain();
  const hint = fields.length > 0
    ? "As `sidestream explain` shows it, for a client with these parameters and claims:"
    : "As `sidestream explain` shows it. Its clients have no parameters, and no claim of theirs is compared.";
  return [el("h2", {}, name), facts, el("h3", {}, "What the filter becomes"), el("p", { class: "dim" }, hint),
    fields.length > 0 ? form : null, result, ...elements, ...tap(name)];
}

// As one would write it in a query; numbers that a browser would round come as text.
const valueText = (value) => (typeof value === "object" ? value.$numberLong ?? value.join(",") : String(value));

// A field of the form: `values` are those that a client would give, none where it is left empty.
function paramField(name, param) {
  const isArray = Array.isArray(param.type);
  const kind = isArray ? `${param.type[0]}, commas between several` : param.type;
  const rest = param.required ? "required" : param.default === undefined ? "optional" : `default ${valueText(param.default)}`;
  const bounds = ["min", "max", "maxLength", "pattern"].filter((key) => key in param).map((key) => `${key} ${valueText(param[key])}`);
  const choices = isArray ? null : param.enum ?? (param.type === "bool" ? [true, false] : null);
  const id = `param-${name}`;
  const input = choices
    ? el("select", { id }, el("option", { value: "" }, "–"), choices.map(valueText).map((it) => el("option", { value: it }, it)))
    : el("input", { id, autocomplete: "off", spellcheck: "false" });
  const values = () => (isArray ? input.value.split(",").map((it) => it.trim()) : [input.value]).filter((it) => it !== "");
  const label = el("label", { for: id }, name, el("small", {}, ` ${[kind, rest, ...bounds].join(", ")}`));
  return { key: "param", named: name, values, element: el("div", {}, label, input) };
}

function claimField(path) {
  const id = `claim-${path}`;
  const input = el("input", { id, autocomplete: "off", spellcheck: "false" });
  const label = el("label", { for: id }, path, el("small", {}, " claim, text or JSON"));
  return { key: "claim", named: path, values: () => [input.value].filter((it) => it !== ""), element: el("div", {}, label, input) };
}

// Asks a moment after the last call, and shows the answer unless it was asked again meanwhile.
function latest(asks, shows) {
  let last = 0;
  return async () => {
    const mine = ++last;
    await new Promise((resolve) => setTimeout(resolve, 150));
    if (mine !== last) return;
    const [answer, error] = await asks().then((answer) => [answer, null], (error) => [null, error]);
    if (mine === last) shows(answer, error);
  };
}

// One event or document: sent or not, and which condition decided, with the values of the form above.
function trial(asked) {
  const event = el("textarea", { id: "event", rows: "8", spellcheck: "false", autocomplete: "off",
    placeholder: '{ "_id": 1, "status": "paid" }' });
  const verdict = el("div", { role: "status" });
  const form = el("form", {}, el("div", { class: "whole" }, el("label", { for: "event" },
    "A document, or a change event as MongoDB or `sidestream tail` shows it"), event), el("button", {}, "Try it"));
  const tries = async () => (await tell(`/try?${asked()}`, event.value)).json();
  const judged = latest(tries, (said, error) => {
    if (error) return verdict.replaceChildren(`The sidecar does not answer: ${error.message}`);
    const data = said.sent ? JSON.stringify(said.data, null, 2) : said.condition;
    verdict.replaceChildren(
      el("p", {}, badge(said.sent ? "sent" : said.detail ? "error" : "not sent"),
        said.sent ? ` as ${said.event}${said.view ? `, view ${said.view}` : ""}` : ` ${said.reason ?? said.detail}`),
      ...(data ? [el("pre", { role: "region", tabindex: "0", "aria-label": "What decided" },
        typeof data === "string" ? data : JSON.stringify(data, null, 2))] : []));
  });
  // Nothing is judged before there is something.
  const judge = () => { if (event.value.trim()) judged(); };
  form.addEventListener("submit", (submitted) => { submitted.preventDefault(); judged(); });
  event.addEventListener("input", judge);
  return { elements: [el("h3", {}, "Try it"), form, verdict], judge };
}

// What the stream sends now, as long as somebody looks.
function tap(name) {
  if (document.querySelector('meta[name="sidestream-tap"]').content !== "on") return [];
  const list = el("pre", { id: "tap", role: "log", tabindex: "0", "aria-label": "Events" });
  const status = el("p", { class: "dim", role: "status" });
  const button = el("button", { type: "button", "aria-pressed": "false" }, "Show events");
  let next = null;
  let timer = null;
  const stop = () => {
    clearInterval(timer);
    timer = null;
    button.setAttribute("aria-pressed", "false");
  };
  const look = async () => {
    if (!list.isConnected) return stop();
    try {
      const query = new URLSearchParams({ stream: name });
      if (next !== null) query.set("after", next);
      const answer = await tell(`/tap?${query}`);
      const body = await answer.json();
      if (answer.status === 429) return; // another page asks too
      if (!answer.ok) throw new Error(body.detail);
      next = body.next;
      for (const { event, bytes: size, data } of body.events) {
        list.append(`${event} ${data === null ? `(${bytes(size)})` : JSON.stringify(data)}\n`);
      }
      while (list.childNodes.length > 50) list.firstChild.remove();
      status.textContent = "The newest events, at most twenty at a time; the log says who looked.";
    } catch (error) {
      stop();
      status.textContent = error.message;
    }
  };
  button.addEventListener("click", () => {
    if (timer !== null) return stop();
    button.setAttribute("aria-pressed", "true");
    timer = setInterval(look, 1000);
    look();
  });
  return [el("h3", {}, "What it sends"), button, status, list];
}

function show(page, content) {
  if (content !== null) {
    // What was scrolled and focused stays so where the page is the same.
    const at = drawn === page ? focusPath(main) : null;
    main.replaceChildren(...content.flat(3).filter(Boolean));
    at?.(main);
  }
  for (const link of document.querySelectorAll("nav a")) {
    const is = link.dataset.page === (page.startsWith("#/stream") ? "streams" : "overview");
    if (is) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  drawn = page;
}

// Remembers which link, button or region of an element has the focus: by what it names, else by its place.
function focusPath(from) {
  const all = (element) => [...element.querySelectorAll("a, button, [tabindex]")];
  const at = all(from).indexOf(document.activeElement);
  const key = at >= 0 ? document.activeElement.dataset.key : undefined;
  const scrolled = [...from.querySelectorAll(".wide")].map((it) => it.scrollLeft);
  return (to) => {
    const found = key === undefined ? all(to)[at] : all(to).find((it) => it.dataset.key === key);
    if (at >= 0) (found ?? main).focus({ preventScroll: true });
    to.querySelectorAll(".wide").forEach((it, i) => (it.scrollLeft = scrolled[i] ?? 0));
  };
}

// Said only when it changes, since a screen reader reads it out.
function say(state, text) {
  const line = document.getElementById("state");
  if (line.textContent !== text) line.replaceChildren(el("span", { class: "badge", "data-state": state }, text));
}

// Said once, below the state of the whole.
function note(text) {
  document.getElementById("note").textContent = text;
}

async function look() {
  const mine = ++turn;
  try {
    const page = location.hash || "#/";
    const name = page.startsWith("#/stream/") ? decodeURIComponent(page.slice("#/stream/".length)) : null;
    // The files are on the other pages.
    const isOverview = !page.startsWith("#/stream");
    const asked = [ask("/overview"), ask("/streams"), isOverview ? { body: null } : ask("/filters")];
    if (name !== null) asked.push(ask(`/listeners?${new URLSearchParams({ stream: name })}`));
    const answers = await Promise.all(asked);
    const [now, open, files] = answers.map((answer) => answer.body);
    const listening = answers[3]?.ok ? answers[3].body : null;
    if (mine !== turn) return;
    samples.push(now);
    if (samples.length > KEPT) samples.shift();
    for (const { name, events_sent: count } of open.streams) {
      const last = sent.get(name)?.at(-1);
      const next = { at: now.uptime_seconds, count };
      sent.set(name, last ? [last, next] : [next]);
    }
    document.getElementById("version").textContent = now.version;
    const broken = open.streams.filter((it) => it.state === "broken").length;
    if (!now.ready) say("away", now.leaving ? "leaving" : "not ready");
    else if (now.troubles.length > 0) say("waiting", "ready, MongoDB is unavailable");
    else if (broken > 0) say("waiting", `ready, ${broken} broken ${broken === 1 ? "file" : "files"}`);
    else say("ready", "ready");
    if (page !== (location.hash || "#/")) return look();
    if (name !== null) show(page, stream(name, open, files, listening));
    else if (page === "#/streams") show(page, streams(now, open, files));
    else show(page, overview(now, open));
  } catch (error) {
    if (mine === turn) say("away", `the sidecar does not answer: ${error.message}`);
  }
}

let timer = null;
function wake() {
  clearInterval(timer);
  timer = null;
  if (document.visibilityState === "hidden") return;
  timer = setInterval(look, EVERY);
  look();
}

addEventListener("hashchange", () => look().then(() => main.focus()));
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the fragment names the page
  main.focus();
});
document.addEventListener("visibilitychange", wake);
wake();
