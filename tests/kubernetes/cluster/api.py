"""The Kubernetes API over HTTPS: JSON in, JSON and warnings out. Only the standard library."""

import http.client
import json
import ssl
import threading
import urllib.parse


class Answer:
    """What the server said. `warnings` are the texts of its Warning headers."""

    def __init__(self, status, body, headers):
        self.status = status
        self.body = body
        # `299 - "text"`
        self.warnings = [text.split('"', 1)[1].rsplit('"', 1)[0].replace('\\"', '"')
                         for text in headers.get_all("Warning") or []]

    @property
    def is_success(self):
        return 200 <= self.status < 300

    @property
    def message(self):
        return self.body.get("message", "")


class Refused(Exception):
    pass


class Api:
    """A client with one account. Threads may share it."""

    def __init__(self, server, authority, token):
        self.server = server
        self.authority = authority
        self.token = token
        self.address = urllib.parse.urlsplit(server)
        self.tls = ssl.create_default_context(cafile=str(authority))
        self.local = threading.local()

    def as_account(self, token):
        return Api(self.server, self.authority, token)

    def call(self, method, path, body=None, content="application/json"):
        for attempt in (1, 2):
            connection = self.connection()
            try:
                connection.request(method, path, None if body is None else json.dumps(body), {
                    "Authorization": f"Bearer {self.token}",
                    "Accept": "application/json",
                    "Content-Type": content,
                })
                response = connection.getresponse()
                text = response.read()
                break
            except (OSError, http.client.HTTPException):
                self.local.connection = None
                # A kept connection may have been closed meanwhile.
                if attempt == 2:
                    raise
        try:
            parsed = json.loads(text)
        except ValueError:
            parsed = {"message": text.decode(errors="replace")}
        return Answer(response.status, parsed, response.headers)

    def connection(self):
        if getattr(self.local, "connection", None) is None:
            self.local.connection = http.client.HTTPSConnection(
                self.address.hostname, self.address.port or 443, context=self.tls, timeout=60)
        return self.local.connection

    def must(self, method, path, body=None, content="application/json"):
        """The object that comes back; anything but success is raised."""
        answer = self.call(method, path, body, content)
        if not answer.is_success:
            raise Refused(f"{method} {path}: {answer.status} {answer.message}")
        return answer.body

    def get(self, path):
        """The object, or None where there is none."""
        answer = self.call("GET", path)
        if answer.status == 404:
            return None
        if not answer.is_success:
            raise Refused(f"GET {path}: {answer.status} {answer.message}")
        return answer.body

    def merge(self, path, change):
        return self.must("PATCH", path, change, "application/merge-patch+json")
