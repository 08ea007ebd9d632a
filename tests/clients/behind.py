"""The lines of docs/in-front.md by which Express, Flask and Django trust what Sidestream says of a client:
its address, its scheme and its host.
"""

import http.client
import json
import sys

from followers import HERE
from stand import blocks, devtools
from devtools import Failure, Process, say, wait_until

HOST = "shop.example"
# A client, and a load balancer in front of Sidestream.
CLIENT, FRONT = "127.0.0.5", "127.0.0.6"
SETTINGS = f"trusted_proxies: [{FRONT}/32]\n"
FAR = "203.0.113.7"
# What the app has to make of a request by the client, which lies, and of one by way of the load balancer.
# Behind two hops Flask wants another number, and Django does not read the address.
LIES = {"Host": HOST, "X-Forwarded-For": FAR, "X-Forwarded-Proto": "https", "X-Forwarded-Host": "evil.example"}
DIRECT = {"address": CLIENT, "scheme": "http", "host": HOST}
THROUGH = {"Host": "10.0.0.11:8080", "X-Forwarded-For": FAR, "X-Forwarded-Proto": "https", "X-Forwarded-Host": HOST}
SECURE = {"scheme": "https", "host": HOST}
WANTED = {
    "express": (DIRECT, {**SECURE, "address": FAR}),
    "flask": (DIRECT, SECURE),
    "django": ({**DIRECT, "address": "127.0.0.1"}, SECURE),
}


def ask(port, source, headers):
    """What the app takes this request for."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10, source_address=(source, 0))
    try:
        connection.request("GET", "/who", headers=headers)
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise Failure(f"answered {answer.status}: {body[:500]}")
        return json.loads(body)
    finally:
        connection.close()


def trust(stand, _cleanup, _args):
    packages = devtools.python_packages("behind", HERE / "apps" / "requirements.txt")
    shown = blocks("in-front.md", "behind")
    if set(shown) != set(WANTED):
        raise Failure(f"docs/in-front.md shows {sorted(shown)}, and not {sorted(WANTED)}")
    for name, lines in shown.items():
        file = stand.directory / name
        file.write_text(lines)
        command = ["node", HERE / "apps" / "express.mjs"] if name == "express" else [sys.executable, HERE / "apps" / "wsgi.py", name]
        with devtools.picking_ports():
            port = devtools.pick_port(None)
            app = Process(name, [*command, file, port], stand.directory / f"{name}.log",
                          env=devtools.clean_env(PYTHONPATH=str(packages), PYTHONDONTWRITEBYTECODE="1"))
            stand.others.append(app)

            def serves():
                try:
                    return ask(port, "127.0.0.1", {})
                except (OSError, http.client.HTTPException):
                    return False

            wait_until(serves, f"{name} answering", alive=[app])
        sidecar = stand.sidecars[stand.add_sidecar(SETTINGS, app=port)]
        for source, headers, wanted in zip((CLIENT, FRONT), (LIES, THROUGH), WANTED[name]):
            told = ask(sidecar.port, source, headers)
            if {**told, **wanted} != told:
                raise Failure(f"{name}: a request from {source} is taken for {told}, and not {wanted}")
        say(f"  {name}: knows its clients")
