"""The node of the injector's pods: what kubelet would do for them, with processes of this machine.

A pod gets an address of its own, its account's token and its container's arguments as the chart
renders them. Three things differ from kubelet: the process is not in a container, so it is told
where to listen (`0.0.0.0` would be the same for all) and where account and API server are.
"""

import http.client
import re
import threading
import time

from api import Refused
from devtools import Failure, Process

NODE = "this-machine"
ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"


class Running:
    """A pod's process."""

    def __init__(self, process, address, probes_port):
        self.process = process
        self.address = address
        self.probes_port = probes_port
        self.is_ready = None

    @property
    def has_ended(self):
        return self.process.child.poll() is not None

    def ask(self, path):
        """(status, text) of its probes' port; None where nobody answers."""
        connection = http.client.HTTPConnection(self.address, self.probes_port, timeout=2)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        except OSError:
            return None
        finally:
            connection.close()


class Node:
    def __init__(self, api, namespace, binary, addresses, scratch):
        self.api = api
        self.namespace = namespace
        self.binary = binary
        self.addresses = list(addresses)
        self.scratch = scratch
        self.pods = {}
        self.starts = 0
        self.is_held = False
        self.problem = None
        self.stopping = threading.Event()
        # Held while the pods are looked at: whoever breaks something waits for a quiet moment.
        self.lock = threading.Lock()
        self.beat = 0
        self.register()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    # What the tests do and see.

    def running(self):
        return {name: pod for name, pod in list(self.pods.items()) if not pod.has_ended}

    def crash(self, names):
        """SIGKILL, all at once; started again unless the node is held."""
        for name in names:
            self.pods[name].process.child.kill()
        for name in names:
            self.pods[name].process.child.wait()

    def said(self):
        """For a message: what went wrong here, and the last words of the processes."""
        words = [f"the node: {self.problem}"] if self.problem else []
        return "\n".join(words + [f"{name}:\n{pod.process.tail(5)}" for name, pod in self.pods.items()])

    def hold(self, is_held):
        """While held, nothing is started, and no pod's state is reported: a node that hangs."""
        with self.lock:
            self.is_held = is_held

    def close(self):
        self.stopping.set()
        self.thread.join()
        for pod in self.pods.values():
            pod.process.stop()

    # What kubelet does.

    def register(self):
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}}
        answer = self.api.call("POST", "/api/v1/nodes", node)
        if not answer.is_success and answer.status != 409:
            raise Refused(answer.message)

    def run(self):
        while not self.stopping.is_set():
            try:
                with self.lock:
                    self.report_node()
                    if not self.is_held:
                        self.look()
            except (Refused, Failure, OSError) as error:
                self.problem = error
            self.stopping.wait(0.2)

    def report_node(self):
        if time.monotonic() - self.beat < 5:
            return
        self.beat = time.monotonic()
        self.api.must("PATCH", f"/api/v1/nodes/{NODE}/status", {"status": {"conditions": [{
            "type": "Ready", "status": "True", "reason": "Test", "message": "",
            "lastHeartbeatTime": now(), "lastTransitionTime": now()}]}},
            "application/strategic-merge-patch+json")

    def path(self, name=""):
        return f"/api/v1/namespaces/{self.namespace}/pods" + (name and f"/{name}")

    def look(self):
        selector = "?labelSelector=app.kubernetes.io/component%3Dinjector"
        found = self.api.must("GET", self.path() + selector)["items"]
        for pod in found:
            self.see_to(pod)
        names = {pod["metadata"]["name"] for pod in found}
        for name in [name for name in self.pods if name not in names]:
            gone = self.pods.pop(name)
            gone.process.stop()
            self.addresses.append(gone.address)

    def see_to(self, pod):
        name = pod["metadata"]["name"]
        running = self.pods.get(name)
        if pod["metadata"].get("deletionTimestamp"):
            self.end(pod, running)
        elif not pod["spec"].get("nodeName"):
            self.api.must("POST", self.path(name) + "/binding", {
                "apiVersion": "v1", "kind": "Binding", "metadata": {"name": name},
                "target": {"apiVersion": "v1", "kind": "Node", "name": NODE}})
        elif running is None or running.has_ended:
            self.start(pod, running.address if running else self.addresses.pop(0))
        else:
            self.report(name, running)

    def start(self, pod, address):
        name = pod["metadata"]["name"]
        container, = pod["spec"]["containers"]
        if not any(mount["mountPath"] == ACCOUNT for mount in container.get("volumeMounts", [])):
            raise Failure(f"the pod {name} has no account mounted")
        token = self.scratch / f"{name}.token"
        token.write_text(self.token_of(pod))
        self.starts += 1
        log = self.scratch / f"{name}-{self.starts}.log"
        arguments = [*self.arguments(pod, container, address),
                     f"--api-server={self.api.server}", f"--api-authority={self.api.authority}",
                     f"--api-token={token}"]
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        process = Process(name, [self.binary, *arguments], log)
        self.pods[name] = Running(process, address, ports["metrics"])

    def token_of(self, pod):
        """Bound to the pod, as kubelet asks for it."""
        name = pod["metadata"]["name"]
        account = pod["spec"]["serviceAccountName"]
        made = self.api.must(
            "POST", f"/api/v1/namespaces/{self.namespace}/serviceaccounts/{account}/token", {
                "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
                "spec": {"expirationSeconds": 3600, "boundObjectRef": {
                    "apiVersion": "v1", "kind": "Pod", "name": name,
                    "uid": pod["metadata"]["uid"]}}})
        return made["status"]["token"]

    @staticmethod
    def arguments(pod, container, address):
        fields = {"metadata.name": pod["metadata"]["name"],
                  "metadata.namespace": pod["metadata"]["namespace"]}
        env = {entry["name"]: fields[entry["valueFrom"]["fieldRef"]["fieldPath"]]
               for entry in container.get("env", []) if "fieldRef" in entry.get("valueFrom", {})}
        for argument in container["args"]:
            argument = re.sub(r"\$\((\w+)\)", lambda found: env[found[1]], argument)
            yield re.sub(r"^(--(?:listen|probes)=)0\.0\.0\.0:", rf"\g<1>{address}:", argument)

    def report(self, name, running):
        answer = running.ask("/readyz")
        is_ready = answer is not None and answer[0] == 200
        if is_ready == running.is_ready:
            return
        state = "True" if is_ready else "False"
        conditions = [{"type": kind, "status": state, "lastTransitionTime": now()}
                      for kind in ("Ready", "ContainersReady")]
        conditions.append({"type": "PodScheduled", "status": "True", "lastTransitionTime": now()})
        self.api.must("PATCH", self.path(name) + "/status", {"status": {
            "phase": "Running", "podIP": running.address, "podIPs": [{"ip": running.address}],
            "conditions": conditions}}, "application/strategic-merge-patch+json")
        running.is_ready = is_ready

    def end(self, pod, running):
        """SIGTERM, and when the process has ended, the pod goes."""
        name = pod["metadata"]["name"]
        if running and not running.has_ended:
            if not getattr(running, "is_told", False):
                running.is_told = True
                running.process.child.terminate()
            self.report(name, running)
            return
        self.api.call("DELETE", self.path(name), {
            "apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0,
            "preconditions": {"uid": pod["metadata"]["uid"]}})


def now():
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
