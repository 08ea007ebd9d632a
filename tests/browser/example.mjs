// An example of examples/, as its README starts it: the app on a free port, and Sidestream in front
// with the example's own filters and settings. MongoDB is the demo's.

import { execFileSync, spawn } from "node:child_process";
import { cpSync, existsSync, mkdtempSync, openSync, readFileSync, rmSync, symlinkSync } from "node:fs";
import net from "node:net";
import path from "node:path";
import { atEnd, CACHE, ROOT, until } from "./harness.mjs";

const BINARY =
  process.env.SIDESTREAM_BIN ||
  path.join(process.env.CARGO_TARGET_DIR || path.join(CACHE, "target"), "debug", "sidestream");

// What the clean Debian of CI has installed. Elsewhere an example whose language is missing is skipped.
function has(command, ...args) {
  try {
    execFileSync(command, args, { stdio: "ignore" });
    return true;
  } catch (error) {
    if (process.env.CI) throw new Error(`${command} ${args.join(" ")}: ${error.message}`);
    return false;
  }
}

const GO = { ...process.env, GO111MODULE: "off", GOPATH: "/usr/share/gocode", GOCACHE: path.join(CACHE, "go-build") };

// How an app starts in each language, with drivers that are there already: nothing is installed.
const LANGUAGES = {
  node: {
    is_here: () => true,
    prepare: (directory) => symlinkSync(path.join(ROOT, "tests/browser/node_modules"), path.join(directory, "node_modules")),
    command: () => ["node", "server.js"],
  },
  python: {
    is_here: () => true,
    env: () => {
      const find = "import sys; sys.path.insert(0, sys.argv[1]); import devtools; print(devtools.use_pymongo())";
      const found = execFileSync("python3", ["-c", find, path.join(ROOT, "scripts")], { encoding: "utf8" });
      return { PYTHONPATH: found.trim(), PYTHONDONTWRITEBYTECODE: "1" };
    },
    command: () => ["python3", "app.py"],
  },
  php: {
    is_here: () => has("php", "--ri", "mongodb"),
    command: (port) => ["php", "-S", `127.0.0.1:${port}`, "app.php"],
  },
  go: {
    is_here: () => has("go", "version") && existsSync("/usr/share/gocode/src/go.mongodb.org/mongo-driver"),
    prepare: (directory) => execFileSync("go", ["build", "-o", "app", "main.go"], { cwd: directory, env: GO }),
    command: () => ["./app"],
  },
};

async function freePort() {
  const server = net.createServer();
  await new Promise((resolve, reject) => server.once("error", reject).listen(0, "127.0.0.1", resolve));
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return port;
}

// Of Sidestream's settings a child gets those of its test, and none of a developer's.
const clean = () => Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("SIDESTREAM_")));

function start(what, [command, ...args], directory, env) {
  const log = path.join(directory, `${what}.log`);
  const output = openSync(log, "w");
  const child = spawn(command, args, { cwd: directory, env: { ...clean(), ...env }, stdio: ["ignore", output, output] });
  let ended = null;
  const gone = new Promise((resolve) => {
    child.on("exit", (code, signal) => resolve((ended = signal ?? `exit code ${code}`)));
    child.on("error", (error) => resolve((ended = error.message)));
  });
  const stop = async () => {
    if (ended === null) child.kill("SIGTERM");
    // Streams that a page still has open would hold it for `drain`.
    const patience = setTimeout(() => child.kill("SIGKILL"), 2000);
    await gone;
    clearTimeout(patience);
  };
  const check = () => {
    if (ended !== null) throw new Error(`${what} ended (${ended}):\n${readFileSync(log, "utf8")}`);
  };
  return { stop, check };
}

const answers = (url) => fetch(url).then((answer) => answer.ok, () => false);

// Sidestream in front of an app, with the filters and the settings in a directory. Waits until the app
// answers through it, and calls `check` meanwhile.
export async function startSidestream(demo, directory, app, settings = {}, check = () => {}) {
  const [listen, admin] = [await freePort(), await freePort()];
  const sidestream = start("sidestream",
    [BINARY, "run", "--app", app, "--mongodb", demo.mongodb, "--filters", "filters",
      "--listen", `127.0.0.1:${listen}`, "--admin", `127.0.0.1:${admin}`],
    directory, settings);
  atEnd(sidestream.stop);
  for (const url of [`http://127.0.0.1:${admin}/readyz`, `http://127.0.0.1:${listen}/`]) {
    await until(`${url} answering`, () => {
      check();
      sidestream.check();
      return answers(url);
    });
  }
  return { url: `http://127.0.0.1:${listen}`, admin: `http://127.0.0.1:${admin}`, stop: sidestream.stop };
}

// Returns the address to open, or null where the language is not installed; `stop` ends it.
export async function startExample(demo, name, language) {
  const { is_here, prepare, env, command } = LANGUAGES[language];
  if (!is_here()) return null;
  const directory = mkdtempSync(path.join(CACHE, "run", "example-"));
  atEnd(() => rmSync(directory, { recursive: true, force: true }));
  cpSync(path.join(ROOT, "examples", name), directory, { recursive: true });
  prepare?.(directory);

  const port = await freePort();
  const url = `http://127.0.0.1:${port}`;
  const app = start("app", command(port), directory, { MONGODB_URI: demo.mongodb, PORT: String(port), ...env?.() });
  atEnd(app.stop);
  // Only the chat has its sidecar ask the app.
  const settings = name === "chat" ? { SIDESTREAM_AUTH__FORWARD__URL: `${url}/me` } : {};
  const sidestream = await startSidestream(demo, directory, url, settings, app.check);
  const stop = async () => {
    await sidestream.stop();
    await app.stop();
  };
  return { url: sidestream.url, stop };
}
