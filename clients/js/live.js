// A collection of documents that follows a Sidestream stream: `live`. Beneath it: `follow`, a stream
// that reconnects and resumes, and `collection`, what events make of documents.

const FINAL = ['unauthorized', 'filter-changed'];

/** Opens `url` and keeps a collection of its documents. */
export function live(url, options = {}) {
  const store = collection(options);
  const stream = follow(url, { ...options, onEvent: store.apply, onStatus: store.setStatus });
  return store.handle(() => {
    stream.close();
    store.setStatus('closed');
  });
}

/** Follows `url`: server-sent events, or long polls where those do not get through. */
export function follow(url, {
  onEvent, onStatus = () => {}, lastEventId = '', transport = 'auto', headers, credentials = 'same-origin',
  fetch = globalThis.fetch.bind(globalThis), retry = 2000, maxRetry = 60_000, openTimeout = 10_000,
  silence = 45_000, pollFor = 600_000,
}) {
  let id = lastEventId;
  let isClosed = false;
  let isPolling = transport === 'poll';
  let pollUntil = Infinity;
  let isLive = false;
  let failures = 0;
  let request, wake, timer;

  // Whatever hangs is given up after so long.
  const expectWithin = (ms) => {
    clearTimeout(timer);
    timer = setTimeout(() => request.abort(new Error(`nothing came for ${ms} ms`)), ms);
  };

  const emit = (message) => {
    if (isClosed) return;
    // A position from before a snapshot is of no use when half of that has come: begin it anew.
    id = message.event === 'snapshot' ? '' : message.id || id;
    if (!isLive) {
      failures = 0;
      isLive = true;
    }
    if (message.event !== 'position') onEvent(message);
    const isReady = message.event ? message.event !== 'snapshot' && message.event !== 'document' : id;
    if (message.event === 'end' && FINAL.includes(message.data.reason)) close('ended', new Error(message.data.reason));
    else if (isReady && !isClosed) onStatus('live');
  };

  async function ask(accept) {
    request = new AbortController();
    expectWithin(accept === 'application/json' ? silence : openTimeout);
    onEvent({ event: 'open', data: { resumed: id !== '' } });
    const answer = await fetch(new URL(url, globalThis.location?.href), {
      headers: { ...headers, Accept: accept, ...(id && { 'Last-Event-ID': id }) },
      credentials,
      cache: 'no-store',
      signal: request.signal,
    });
    if (answer.ok && answer.headers.get('content-type')?.startsWith(accept)) return answer;
    const problem = await answer.json().catch(() => ({}));
    const error = new Error(problem.detail || problem.title || `answered ${answer.status}`);
    throw Object.assign(error, { problem, status: answer.status, after: 1000 * answer.headers.get('retry-after') });
  }

  async function stream(flow) {
    const reader = (await ask('text/event-stream')).body.getReader();
    const decoder = new TextDecoder();
    let rest = '';
    let block = {};
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      flow.has = true;
      expectWithin(silence);
      rest += decoder.decode(value, { stream: true });
      if (!value.includes(10)) continue;
      const lines = rest.split('\n');
      rest = lines.pop();
      for (const line of lines) {
        const [, field, text] = /^([^:]*):? ?(.*)/s.exec(line);
        if (field === 'retry') retry = +text;
        else if (field === 'data' && block.data) block.data += `\n${text}`;
        else if (line) block[field] = text;
        else {
          // Only now is the block complete, and only now does its id count.
          if (block.data) emit({ event: block.event, data: JSON.parse(block.data), id: block.id });
          else if (block.id) emit({ id: block.id });
          block = {};
        }
        if (isClosed) return;
      }
    }
  }

  async function poll() {
    for (let isReady = false; !isClosed && Date.now() < pollUntil;) {
      const [before, asked] = [id, Date.now()];
      const { events, resume } = await (await ask('application/json')).json();
      events.forEach(emit);
      if (resume) emit(isReady ? { id: resume } : { event: 'ready', data: {}, id: resume });
      isReady ||= Boolean(resume);
      // Nothing, and at once: about to go. Asking again at once would be a storm.
      if (!events.length && id === before && Date.now() - asked < 1000) return;
    }
  }

  async function run() {
    while (!isClosed) {
      const flow = {};
      let error;
      isLive = false;
      try {
        await (isPolling ? poll() : stream(flow));
      } catch (failure) {
        error = request.signal.aborted ? request.signal.reason : failure;
      }
      clearTimeout(timer);
      if (isClosed) return;
      if (isPolling) isPolling = transport === 'poll';
      else if (transport === 'auto' && request.signal.aborted && !flow.has) {
        // It was opened, or seems to be, and nothing flows: something holds events back.
        isPolling = true;
        pollUntil = Date.now() + pollFor;
        continue;
      }
      onStatus('reconnecting', error);
      if (!isLive) failures++;
      const backoff = Math.min(maxRetry, retry * 2 ** failures) * (0.5 + Math.random() / 2);
      await new Promise((resolve) => {
        wake = resolve;
        timer = setTimeout(resolve, Math.max(retry, backoff, error?.after || 0));
      });
      clearTimeout(timer);
    }
  }

  const online = () => wake?.();
  function close(status, error) {
    if (isClosed) return;
    isClosed = true;
    clearTimeout(timer);
    globalThis.removeEventListener?.('online', online);
    if (status) onStatus(status, error);
    request?.abort();
    wake?.();
  }

  globalThis.addEventListener?.('online', online);
  onStatus('connecting');
  run();
  return { close: () => close(), get lastEventId() { return id; } };
}

const soon = (run) => (globalThis.document?.visibilityState === 'visible'
  ? requestAnimationFrame(run) : setTimeout(run, 16));

/** Documents by key, and what a stream's events make of them. */
export function collection({ key = '_id', documents = [], load, schedule = soon, onEvent, mirror } = {}) {
  let all = new Map();
  // A delete brings the document's key in MongoDB alone, which need not be ours.
  let keys = new Map();
  let pending = null;
  let isStale = true;
  let missed = null;
  let waiting;
  let generation = 0;
  let brake = 0;
  let lastLoad = -Infinity;
  let shown = [];
  let status = 'connecting';
  let error;
  let isScheduled = false;
  const listeners = new Set();

  const plain = (value) => (value && typeof value === 'object'
    ? value.$oid ?? value.$uuid ?? JSON.stringify(value) : value);
  const keyOf = (document) => plain(typeof key === 'function' ? key(document) : document?.[key]);

  function changed() {
    if (isScheduled) return;
    isScheduled = true;
    schedule(show);
  }

  function show() {
    isScheduled = false;
    shown = [...all.values()];
    for (const listener of [...listeners]) listener(shown);
  }

  function put(map, index, data) {
    const name = keyOf(data.fullDocument);
    if (data.documentKey) {
      const place = JSON.stringify(data.documentKey);
      if (index.has(place) && index.get(place) !== name) map.delete(index.get(place));
      index.set(place, name);
    }
    map.set(name, data.fullDocument);
  }

  function change(message) {
    const { event, data } = message;
    if (event === 'delete' || event === 'leave' || data.view === 'leave') {
      const place = JSON.stringify(data.documentKey);
      const last = data.fullDocumentBeforeChange ?? data.documentKey;
      if (last) all.delete(keys.get(place) ?? keyOf(last));
      keys.delete(place);
    } else if (data.fullDocument) put(all, keys, data);
    // An update without its document: gone by now, which its delete will say; or the filter asks for none.
    else if (data.fullDocument === undefined) reload();
  }

  // `late`: what came meanwhile. It may be older than what was loaded; what follows brings it up to date.
  function replace(map, index, late = []) {
    [all, keys, pending, missed, isStale, error] = [map, index, null, null, false, undefined];
    late.forEach(change);
    mirror?.({ state: state() });
    changed();
  }

  function forget() {
    clearTimeout(waiting);
    [waiting, missed] = [undefined, null];
    generation++;
  }

  // Loads again, at once when that is rare, and less and less often when it is not.
  function reload() {
    isStale = true;
    if (!load) return;
    mirror?.({ state: state() });
    if (waiting) return;
    const mine = ++generation;
    const now = Date.now();
    if (now - lastLoad > 60_000) brake = 0;
    const wait = brake * (0.5 + Math.random() / 2);
    brake = Math.min(60_000, 2 * brake || 1000);
    lastLoad = now + wait;
    missed ??= [];
    waiting = setTimeout(async () => {
      waiting = undefined;
      missed = [];
      try {
        const list = await load();
        if (mine !== generation) return;
        replace(new Map(list.map((document) => [keyOf(document), document])), new Map(), missed);
      } catch (failure) {
        if (mine !== generation) return;
        error = failure;
        changed();
        reload();
      }
    }, wait);
  }

  function apply(message) {
    const { event, data } = message;
    if (event === 'open') {
      pending = null;
      // What was loaded on a stream whose place is lost may lack what came in between.
      if (!data.resumed) {
        isStale = true;
        forget();
      }
      return;
    }
    if (event === 'snapshot') pending = [new Map(), new Map()];
    else if (event === 'document') pending && put(...pending, data);
    else if (event === 'ready') {
      if (pending) replace(...pending);
      else if (isStale && !missed) reload();
    } else if (event === 'reset') reload();
    else if (event !== 'end') {
      if (event) {
        change(message);
        missed?.push(message);
      }
      mirror?.({ message });
    }
    if (event) onEvent?.(message);
    if (event && !pending) changed();
  }

  for (const document of documents) all.set(keyOf(document), document);
  shown = [...all.values()];
  const state = () => ({ all, keys, isStale });
  const handle = (close) => ({
    get documents() { return shown; },
    get status() { return status; },
    get error() { return error; },
    get: (name) => all.get(plain(name)),
    subscribe(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    close,
  });
  function setStatus(next, failure) {
    if (next === status && failure === error) return;
    [status, error] = [next, failure];
    mirror?.({ status, error });
    changed();
  }
  // For tabs.js: what another tab's collection holds takes the place of ours.
  function adopt(other) {
    ({ all, keys, isStale } = other);
    pending = null;
    forget();
    changed();
  }
  return { apply, setStatus, handle, state, adopt };
}
