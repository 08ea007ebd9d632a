// How the tests reach the stand that scripts/clients-test starts for them, and waiting.

export const APP = process.env.APP;

export async function post(path, body) {
  const answer = await fetch(APP + path, { method: 'POST', body: JSON.stringify(body) });
  if (!answer.ok) throw new Error(`${path}: ${answer.status} ${await answer.text()}`);
  return answer.json();
}

export const write = (...operations) => post('/write', { operations });
export const stored = async () => (await fetch(`${APP}/documents`)).json();

// A relay in front of the sidecar, and the stream's URL through it.
export async function relay(settings = {}) {
  const { port } = await post('/relay', settings);
  return {
    port,
    origin: `http://127.0.0.1:${port}`,
    url: `http://127.0.0.1:${port}/_events/things`,
    set: (changes) => post('/relay/set', { port, ...changes }),
    state: async () => (await fetch(`${APP}/relay?port=${port}`)).json(),
  };
}

// Polls until condition() returns something truthy.
export async function until(what, condition, seconds = 20) {
  const deadline = Date.now() + seconds * 1000;
  for (;;) {
    const result = await condition();
    if (result) return result;
    if (Date.now() > deadline) throw new Error(`${what}: not within ${seconds} s`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

// Ids that no other test uses.
let next = 1_000_000 + Math.floor(process.pid) * 10_000;
export const ids = (count) => Array.from({ length: count }, () => next++);
