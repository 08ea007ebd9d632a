"""What the tests of clients stand on: sidecars in front of an app that reads and writes a collection
when it is told to, relays, and the blocks of code that the documentation shows.

The app is the tests' control too: they post to it what is to happen next.

    GET  /documents                       the collection, as an app would give it to its page
    GET  /page.html, /js/…                an empty page; the files of clients/js
    POST /write      {"operations": […]}  [["insert", 7], ["update", 7], ["delete", 7]], in order; ["insert", 8, "…"] with a text
    POST /relay      {"mode": …, …}       a new relay in front of the first sidecar: {"port": …}
    POST /relay/set  {"port": …, "mode": …, "cut": true}
    GET  /relay?port=N                    {"connections": …, "cuts": …}
    POST /restart    {"sidecar": 0, "signal": "TERM"}
    POST /filter     {"name": "other", "more": "project: { text: 0 }"}    a filter file like that of the
                     things, with another line; "more": null removes it
    POST /front/restart                   every proxy in front that starts without refusing, one after the other;
                     {"name": …}          that one alone
"""

import http.client
import json
import os
import pathlib
import re
import signal
import sys
import threading
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import devtools  # noqa: E402
from devtools import Failure, Process, wait_until  # noqa: E402
from relay import Relays  # noqa: E402

# What parsers of lines and of encodings stumble over.
TEXT = "é Å \u0085 \u2028 \u2029 \ufeff 😀 \x1c \"\\ data: x\n\nid: y\r\nevent: z\n\n"
FILTER = """
description: Everything that happens to the things of the tests
collection: {database}.things
access: public
"""
SETTINGS = """
clients: {{ heartbeat: {heartbeat}, retry: 50ms, compression: [{compression}] }}
drain: 200ms
log: {{ level: warn }}
"""


class Sidecar:
    """One real Sidestream, which can be ended and started again on the same ports."""

    def __init__(self, name, directory, app, uri, host, ports, heartbeat, more="", compression="", database="clients"):
        """`more`: further lines of settings."""
        self.directory, self.database = directory / name, database
        (self.directory / "filters").mkdir(parents=True)
        self.write_filter("things", "")
        (self.directory / "sidestream.yaml").write_text(
            SETTINGS.format(heartbeat=heartbeat, compression=compression) + more)
        self.name, self.app, self.uri = name, app, uri
        self.starts = 0
        self.host, (self.port, self.admin) = host, ports
        self.start()

    def address(self):
        return self.host, self.port

    def write_filter(self, name, more):
        file = self.directory / "filters" / f"{name}.yaml"
        if more is None:
            return file.unlink()
        # All at once: half a file would be a mistake that the sidecar tells of.
        (self.directory / "filter").write_text(f"{FILTER.format(database=self.database)}{more}\n")
        (self.directory / "filter").rename(file)

    def start(self):
        self.starts += 1
        self.process = Process(
            self.name,
            [devtools.sidestream_binary(), "run", "--listen", f"{self.host}:{self.port}",
             "--admin", f"{self.host}:{self.admin}", "--app", f"http://127.0.0.1:{self.app}",
             "--mongodb", self.uri],
            self.directory / f"{self.starts}.log", env=devtools.clean_env(), cwd=self.directory)
        wait_until(self.is_ready, f"{self.name} being ready", alive=[self.process])

    def is_ready(self):
        try:
            with urllib.request.urlopen(f"http://{self.host}:{self.admin}/readyz", timeout=2) as answer:
                return answer.status == 200
        except (OSError, http.client.HTTPException):
            return False

    def end(self, number=signal.SIGTERM):
        self.process.child.send_signal(number)
        self.process.child.wait(30)

    def restart(self, number=signal.SIGTERM):
        self.end(number)
        self.start()


class Stand:
    def __init__(self, directory, hosts=("127.0.0.1",), heartbeat="500ms", app=None, database="clients"):
        """`app`: a command that serves $PORT, and stands behind the sidecars in place of ours."""
        devtools.use_pymongo()
        import pymongo
        self.directory = directory
        self.uri = os.environ["MONGODB_URI"]
        self.things = pymongo.MongoClient(self.uri)[database].things
        self.things.delete_many({})
        # So that the collection is there when the sidecar first looks.
        self.things.insert_one({"_id": 0})
        self.relays = Relays()
        self.app = ThreadingHTTPServer(("127.0.0.1", 0), App)
        self.app.daemon_threads = True
        self.app.stand = self
        threading.Thread(target=self.app.serve_forever, daemon=True).start()
        self.sidecars, self.others, self.fronts = [], [], []
        # A child dies with the thread that started it, and those of the app end with their connections.
        self.restarter = ThreadPoolExecutor(max_workers=1)
        with devtools.picking_ports():
            behind = self.start_app(app) if app else self.app.server_port
            # The same on each host, as in a deployment.
            ports = devtools.pick_port(None), devtools.pick_port(None)
            for index, host in enumerate(hosts):
                self.sidecars.append(Sidecar(
                    f"sidecar-{index + 1}", directory, behind, self.uri, host, ports, heartbeat, database=database))

    def close(self):
        self.app.shutdown()
        for process in [each.process for each in self.fronts + self.sidecars] + self.others:
            process.stop()

    def add_sidecar(self, more, compression="", app=None):
        """Another one, with further settings, in front of this port; its number."""
        with devtools.picking_ports():
            ports = devtools.pick_port(None), devtools.pick_port(None)
            self.sidecars.append(Sidecar(
                f"sidecar-{len(self.sidecars) + 1}", self.directory, app or self.app.server_port, self.uri, "127.0.0.1",
                ports, "500ms", more, compression))
        return len(self.sidecars) - 1

    def start_app(self, command):
        port = devtools.pick_port(None)
        process = Process("the app", command, self.directory / "app.log", env={**os.environ, "PORT": str(port)})
        self.others.append(process)

        def serves():
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/page.html", timeout=2):
                    return True
            except (OSError, http.client.HTTPException):
                return False

        wait_until(serves, "the app answering", alive=[process])
        return port

    def relay(self, sidecar=0, **settings):
        return self.relays.open(self.sidecars[sidecar].address(), **settings)

    def write(self, operations):
        """Does what is listed, in order, and returns when a majority has it."""
        import pymongo
        bulk = []
        for what, key, *text in operations:
            if what == "insert":
                bulk.append(pymongo.InsertOne({"_id": key, "text": (text or [TEXT])[0], "version": 1}))
            elif what == "update":
                bulk.append(pymongo.UpdateOne({"_id": key}, {"$inc": {"version": 1}}))
            else:
                bulk.append(pymongo.DeleteOne({"_id": key}))
        self.things.bulk_write(bulk, ordered=True)


class App(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    @property
    def stand(self):
        return self.server.stand

    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        if url.path == "/documents":
            self.answer(sorted(self.stand.things.find({"_id": {"$ne": 0}}), key=lambda each: str(each["_id"])))
        elif url.path == "/relay":
            relay = self.stand.relays.all[int(query["port"])]
            self.answer({"connections": relay.connections, "cuts": relay.cuts, "open": len(relay.clients)})
        elif url.path == "/page.html":
            self.send("text/html", b"<!doctype html><meta charset=utf-8><title>page</title><div id=root></div>")
        else:
            self.file(url.path)

    def file(self, path):
        directory = ROOT / "clients" / "js"
        file = (directory / path.removeprefix("/js/")).resolve()
        if path.startswith("/js/") and file.is_relative_to(directory) and file.is_file():
            return self.send("text/javascript", file.read_bytes())
        self.send("text/plain", b"nothing here", 404)

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}")
        stand = self.stand
        if self.path == "/write":
            stand.write(body["operations"])
            self.answer({})
        elif self.path == "/relay":
            self.answer({"port": stand.relay(**body).port})
        elif self.path == "/relay/set":
            stand.relays.change(body.pop("port"), **body)
            self.answer({})
        elif self.path == "/restart":
            number = signal.Signals[f"SIG{body.get('signal', 'TERM')}"]
            stand.restarter.submit(stand.sidecars[body.get("sidecar", 0)].restart, number).result()
            # As a rolling restart does, which goes on when the load balancers know of the last one.
            for front in stand.fronts:
                wait_until(front.knows_all, f"{front.name} taking all sidecars for healthy")
            self.answer({})
        elif self.path == "/filter":
            for sidecar in stand.sidecars:
                sidecar.write_filter(body["name"], body["more"])
            self.answer({})
        elif self.path == "/front/restart":
            name = body.get("name")
            for front in [each for each in stand.fronts if (each.name == name if name else each.is_restarted)]:
                stand.restarter.submit(front.restart).result()
            self.answer({})
        else:
            self.send("text/plain", b"nothing here", 404)

    def answer(self, value):
        self.send("application/json", json.dumps(value).encode())

    def send(self, kind, body, status=200):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def blocks(document, mark):
    """The blocks of a document that are marked `MARK=NAME`, by name."""
    text = (ROOT / "docs" / document).read_text()
    found = {name: code for name, code in
             re.findall(rf"^```\w+ {mark}=(\S+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)}
    if not found:
        raise Failure(f"docs/{document} has no block marked {mark}=NAME")
    return found
