"""The app: it keeps notes in MongoDB, and knows nothing of Sidestream."""

import http.server
import os
import pathlib
import urllib.parse

import pymongo

uri = os.environ.get("MONGODB_URI", "mongodb://127.0.0.1:27017/?replicaSet=rs0")
notes = pymongo.MongoClient(uri).quickstart.notes


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(pathlib.Path("index.html").read_bytes())

    def do_POST(self):
        form = urllib.parse.parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        notes.insert_one({"text": form["text"][0]})
        self.send_response(303)
        self.send_header("Location", "/")
        self.end_headers()


http.server.ThreadingHTTPServer(("0.0.0.0", int(os.environ.get("PORT", 3000))), Handler).serve_forever()
