"""A shop's back office that knows nothing of Sidestream: stock, open orders, alerts, in MongoDB."""

import http.server
import os
import pathlib
import urllib.parse

import bson
import pymongo
import pymongo.errors

shop = pymongo.MongoClient(os.environ.get("MONGODB_URI", "mongodb://127.0.0.1:27017/?replicaSet=rs0")).dashboard
PAGE = pathlib.Path(__file__).parent / "index.html"


def prepare():
    """Once: so that orders that are shipped can be told from those that are not, and some stock."""
    try:
        shop.create_collection("orders", changeStreamPreAndPostImages={"enabled": True})
    except pymongo.errors.CollectionInvalid:
        pass
    for article in ("tea", "coffee"):
        shop.stock.update_one({"_id": article}, {"$setOnInsert": {"left": 5}}, upsert=True)


def order(article):
    stock = shop.stock.find_one_and_update({"_id": article, "left": {"$gt": 0}}, {"$inc": {"left": -1}},
                                           return_document=pymongo.ReturnDocument.AFTER)
    if stock:
        shop.orders.insert_one({"article": article, "status": "open"})
        if stock["left"] < 3:
            shop.alerts.insert_one({"text": f"only {stock['left']} {article} left"})


class Handler(http.server.BaseHTTPRequestHandler):
    def answer(self, status, body=b""):
        self.send_response(status)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.answer(200, PAGE.read_bytes())

    def do_POST(self):
        form = dict(urllib.parse.parse_qsl(self.rfile.read(int(self.headers["Content-Length"])).decode()))
        if self.path == "/order":
            order(form["article"])
        elif self.path == "/ship":
            shop.orders.update_one({"_id": bson.ObjectId(form["id"])}, {"$set": {"status": "shipped"}})
        self.answer(204)


prepare()
http.server.ThreadingHTTPServer(("0.0.0.0", int(os.environ.get("PORT", 3000))), Handler).serve_forever()
