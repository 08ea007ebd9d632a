"""A chat that knows nothing of Sidestream: rooms with members in MongoDB, a name in a cookie.

A cookie that anyone can write stands for your app's own sessions, which this example leaves out.
"""

import http.server
import json
import os
import pathlib
import urllib.parse

import bson
import pymongo

chat = pymongo.MongoClient(os.environ.get("MONGODB_URI", "mongodb://127.0.0.1:27017/?replicaSet=rs0")).chat
PAGE = pathlib.Path(__file__).parent / "public" / "index.html"


class Handler(http.server.BaseHTTPRequestHandler):
    def name(self):
        cookies = dict(part.strip().partition("=")[::2] for part in self.headers.get("Cookie", "").split(";"))
        return urllib.parse.unquote(cookies.get("name", ""))

    def rooms(self):
        return list(chat.rooms.find({"members": self.name()}))

    def answer(self, body, kind="application/json", status=200):
        data = body if isinstance(body, bytes) else json.dumps(body, default=str).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        if self.path == "/":
            return self.answer(PAGE.read_bytes(), "text/html")
        if not self.name():
            return self.answer({}, status=401)
        if self.path == "/me":
            # What the sidecar asks: who is this, and in which rooms?
            return self.answer({"sub": self.name(), "rooms": [str(room["_id"]) for room in self.rooms()]})
        self.answer({}, status=404)

    def do_POST(self):
        form = dict(urllib.parse.parse_qsl(self.rfile.read(int(self.headers["Content-Length"])).decode()))
        if self.path == "/join":
            room = chat.rooms.find_one_and_update({"name": form["room"]}, {"$addToSet": {"members": self.name()}},
                                                  upsert=True, return_document=pymongo.ReturnDocument.AFTER)
            return self.answer({"id": room["_id"]})
        room = bson.ObjectId(form["room"])
        if any(room == mine["_id"] for mine in self.rooms()):
            chat.messages.insert_one({"room": room, "author": self.name(), "text": form["text"]})
        self.answer({})


http.server.ThreadingHTTPServer(("0.0.0.0", int(os.environ.get("PORT", 3000))), Handler).serve_forever()
