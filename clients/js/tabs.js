// One connection for all tabs: the tab that holds a Web Lock follows the stream and tells the others
// over a BroadcastChannel. When it goes, the next one goes on from the position that came with the
// documents that it has: nothing is lost, nothing comes twice.

import { collection, follow, live } from './live.js';

/** As `live`; tabs of the same origin that share `name` (by default the URL) share one connection. */
export function shared(url, { name = `sidestream:${new URL(url, location.href)}`, ...options } = {}) {
  if (!globalThis.navigator?.locks || !globalThis.BroadcastChannel) return live(url, options);
  const channel = new BroadcastChannel(name);
  const stop = new AbortController();
  let id = '';
  let stream, release;

  // A tab that takes over may be behind the last one by an event, and tells it again.
  const heard = new Set();
  function onEvent(message) {
    if (heard.has(message.id)) return;
    if (message.id) heard.add(message.id);
    if (heard.size > 1000) heard.delete(heard.values().next().value);
    options.onEvent?.(message);
  }

  const store = collection({
    ...options,
    onEvent,
    // Only one tab loads; the others are told.
    load: options.load && (() => (release ? options.load() : new Promise(() => {}))),
    mirror: (what) => release && channel.postMessage({ id, ...what }),
  });
  let state = { status: 'connecting' };
  const setStatus = (status, error) => store.setStatus(...Object.values(state = { status, error }));
  const tellAll = () => channel.postMessage({ id, state: store.state(), ...state });

  channel.onmessage = ({ data }) => {
    // Whoever holds the lock listens to the stream alone: what a predecessor still says comes again.
    if (release) return data.hello && tellAll();
    if (data.hello) return undefined;
    // Without the state that events build on, they mean nothing.
    if (data.state) store.adopt(data.state);
    else if (!id) return undefined;
    if (data.id) id = data.id;
    if (data.message) store.apply(data.message);
    if (data.status) setStatus(data.status, data.error);
    return undefined;
  };

  navigator.locks.request(name, { signal: stop.signal }, () => new Promise((done) => {
    release = done;
    tellAll();
    stream = follow(url, {
      ...options,
      lastEventId: id,
      onEvent(message) {
        id = message.id || id;
        store.apply(message);
      },
      onStatus: setStatus,
    });
  })).catch(() => {});
  channel.postMessage({ hello: true });

  return store.handle(() => {
    stream?.close();
    stop.abort();
    release?.();
    channel.close();
    release = undefined;
    setStatus('closed');
  });
}
