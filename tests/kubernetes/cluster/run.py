"""The chart and the injector against a real API server: see scripts/kubernetes-test.

Everything is done once with each helm: install, use, break, upgrade, remove.
"""

import argparse
import base64
import contextlib
import json
import os
import pathlib
import re
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import devtools
from devtools import Failure, say, wait_until

import pods
from api import Api
from control_plane import PODS, ControlPlane, kubeconfig
from node import Node
from pods import CONFIGURATIONS, is_injected, ok, pod
from traffic import Traffic

CHART = ROOT / "helm" / "sidestream"
IMAGE = "registry.example/sidestream"


class Release:
    """One installation of the chart, and everything that is tried with it."""

    def __init__(self, api, helm, namespace, node, scratch, audit):
        self.api = api
        self.helm_program = helm
        self.namespace = namespace
        self.node = node
        self.scratch = scratch
        self.audit = audit
        self.name = "sidestream-injector"
        self.configuration = f"{CONFIGURATIONS}/{self.name}-{namespace}"
        in_namespace = f"namespaces/{namespace}"
        self.secret = f"/api/v1/{in_namespace}/secrets/{self.name}-tls"
        self.lease = f"/apis/coordination.k8s.io/v1/{in_namespace}/leases/{self.name}"
        self.account = f"system:serviceaccount:{namespace}:{self.name}"
        config = scratch / "helm-kubeconfig"
        config.write_text(json.dumps(kubeconfig(api)))
        config.chmod(0o600)
        self.env = devtools.clean_env(
            KUBECONFIG=str(config), HELM_CACHE_HOME=str(scratch), HELM_CONFIG_HOME=str(scratch),
            HELM_DATA_HOME=str(scratch))
        self.values = {"image": {"repository": IMAGE, "tag": "one"}}

    def helm(self, *arguments):
        done = subprocess.run([self.helm_program, *arguments, "--namespace", self.namespace],
                              env=self.env, capture_output=True, text=True)
        if done.returncode:
            raise Failure(f"helm {' '.join(arguments)}: {done.stderr.strip()}\n{self.node.said()}")
        return done.stdout

    def with_values(self, *arguments):
        file = self.scratch / "values.json"
        file.write_text(json.dumps(self.values))
        return self.helm(*arguments, "sidestream", str(CHART), "--values", str(file),
                         "--wait", "--timeout", "120s")

    # What is there.

    def webhooks(self):
        return self.api.must("GET", self.configuration)["webhooks"]

    def authority(self):
        """What the API server trusts; empty until the injector has written it to every entry."""
        bundles = {webhook["clientConfig"].get("caBundle", "") for webhook in self.webhooks()}
        return bundles.pop() if len(bundles) == 1 else ""

    def leaders(self):
        return [name for name, pod in self.node.running().items()
                if "\nsidestream_webhook_is_leader 1\n" in (pod.ask("/metrics") or (0, ""))[1]]

    def holder(self):
        lease = self.api.get(self.lease)
        return lease and lease["spec"].get("holderIdentity")

    def has_one_leader(self):
        """Its name, when metrics and Lease agree."""
        leaders = self.leaders()
        return len(leaders) == 1 and leaders[0] == self.holder() and leaders[0]

    def wait(self, condition, what, seconds=60):
        return wait_until(condition, what, seconds)

    # What is tried.

    def install(self):
        say(self.helm("version", "--short").strip())
        self.with_values("install", "--create-namespace")
        self.wait(self.authority, "the authority is in the webhook configuration")
        leader = self.wait(self.has_one_leader, "one replica leads")
        running = self.node.running()
        if len(running) != 2:
            raise Failure(f"{len(running)} replicas instead of 2")
        uid = self.api.must("GET", self.deployment())["metadata"]["uid"]
        for path in (self.secret, self.lease):
            owner, = self.api.must("GET", path)["metadata"]["ownerReferences"]
            if (owner["kind"], owner["uid"]) != ("Deployment", uid):
                raise Failure(f"{path} is not owned by the Deployment: {owner}")
        ok(f"installed; 2 replicas are ready, {leader} leads; Secret and Lease are the Deployment's")

    def deployment(self):
        return f"/apis/apps/v1/namespaces/{self.namespace}/deployments/{self.name}"

    def pods(self):
        pods.check_injected(self.api, self.node.binary, f"{IMAGE}:one")
        pods.check_left_alone(self.api, self.namespace)
        pods.check_refused(self.api)
        pods.check_workloads(self.api)

    def certificate(self):
        """A new one while pods are made without a pause."""
        old = self.authority()
        before = self.serials()
        with Traffic(self.api) as traffic:
            self.api.merge(self.secret, {"data": {"renew-at": encode("0")}})
            self.wait(lambda: self.authority() not in ("", old), "another authority is trusted")
            self.wait(lambda: not self.serials() & before and len(self.serials()) == 1,
                      "both replicas serve the new certificate")
            count = traffic.more(50)
        ok(f"the certificate was replaced while {count} pods were made: all got their sidecar")

    def serials(self):
        """The certificates that the replicas serve."""
        return {pods.served_certificate(pod.address) for pod in self.node.running().values()}

    def leader(self):
        first = self.has_one_leader()
        # Nothing is given back, and nothing comes back: the Lease has to lapse. The API server is not told, and
        # goes on asking the address of the one that is gone.
        self.node.hold(True)
        with Traffic(self.api, may_miss=True) as traffic:
            self.node.crash([first])
            second = self.wait(lambda: self.has_one_leader() or False, "another replica leads")
        self.node.hold(False)
        if second == first:
            raise Failure(f"{first} leads after its end")
        ok(f"{first} was killed, {second} leads; {traffic.missed} of {traffic.count} pods meanwhile "
           f"had no sidecar (failurePolicy Ignore)")
        self.wait(self.is_whole, "two replicas are ready")
        first = self.wait(self.has_one_leader, "one replica leads")
        with Traffic(self.api) as traffic:
            self.api.must("DELETE", f"/api/v1/namespaces/{self.namespace}/pods/{first}")
            second = self.wait(
                lambda: self.has_one_leader() not in (False, first) and self.has_one_leader(),
                "another replica leads")
            self.wait(self.is_whole, "two replicas are ready")
            count = traffic.more(20)
        ok(f"{first} was deleted, {second} leads; {count} pods meanwhile: all got their sidecar")

    def is_whole(self):
        """Two replicas, and the API server's endpoints say so."""
        slices = self.api.must(
            "GET", f"/apis/discovery.k8s.io/v1/namespaces/{self.namespace}/endpointslices")["items"]
        ready = [endpoint for one in slices for endpoint in one.get("endpoints") or []
                 if endpoint["conditions"].get("ready")]
        running = self.node.running()
        return len(ready) == 2 == len(running) and all(pod.is_ready for pod in running.values())

    def failure_policy(self, policy):
        """No replica answers, and the endpoints still name them."""
        for webhook in self.webhooks():
            if webhook["failurePolicy"] != policy:
                raise Failure(f"{webhook['name']} has the failure policy {webhook['failurePolicy']}")
        self.node.hold(True)
        self.node.crash(list(self.node.running()))
        answer = pods.make(self.api, pod("while-away"))
        if policy == "Ignore":
            if not answer.is_success or is_injected(answer.body):
                raise Failure(f"with Ignore: {answer.status} {answer.message}")
            what = "a pod is made, without a sidecar"
        else:
            if answer.status != 500 or "failed calling webhook" not in answer.message:
                raise Failure(f"with Fail: {answer.status} {answer.message}")
            what = f"no pod is made: {answer.message[:110]}…"
            # Whoever did not ask for it is not concerned.
            elsewhere = pods.make(self.api, pod("while-away"), pods.PLAIN)
            own = pods.make(self.api, pod("while-away", {"sidestream/inject": "true"}), self.namespace)
            if not (elsewhere.is_success and own.is_success):
                raise Failure(f"other namespaces: {elsewhere.message} {own.message}")
        ok(f"failurePolicy {policy}, no replica answers: {what}")
        self.node.hold(False)
        self.wait(self.is_whole, "two replicas are ready again")
        self.wait(lambda: is_injected(pods.make(self.api, pod("again")).body), "pods are injected")

    def upgrade(self):
        """Other values, another image, while pods are made."""
        old = self.authority()
        self.values["injector"] = {"failurePolicy": "Fail"}
        self.values["image"]["tag"] = "two"
        with Traffic(self.api) as traffic:
            self.with_values("upgrade")
            if self.authority() != old:
                raise Failure("the upgrade changed the authority in the webhook configuration")
            self.wait(lambda: traffic.image == f"{IMAGE}:two", "pods get the new image")
            self.wait(self.is_whole, "two replicas are ready")
            self.wait(self.has_one_leader, "one replica leads")
            count = traffic.more(50)
        ok(f"upgraded while {count} pods were made: all got their sidecar; the authority stayed")

    def rights(self):
        rights = pods.Rights(self.api, self.namespace, self.name)
        used = rights.check_used(self.audit, self.account) if self.audit else "use: not seen (no audit log)"
        refused = rights.check_refused()
        ok(f"RBAC: {used}; {refused} other requests with its token are refused")

    def uninstall(self):
        self.helm("uninstall", "sidestream", "--wait", "--timeout", "120s")
        for path in (self.secret, self.lease):
            self.wait(lambda path=path: self.api.get(path) is None, f"{path} is gone")
        left = pods.left_behind(self.api, self.namespace)
        if left:
            raise Failure(f"left behind: {', '.join(left)}")
        answer = pods.make(self.api, pod("afterwards"))
        if not answer.is_success or is_injected(answer.body):
            raise Failure(f"afterwards: {answer.status} {answer.message}")
        ok("uninstalled: nothing is left, pods are made as before")

    def run(self):
        self.install()
        self.pods()
        self.certificate()
        self.leader()
        self.failure_policy("Ignore")
        self.upgrade()
        self.failure_policy("Fail")
        self.rights()
        self.uninstall()


def encode(text):
    return base64.b64encode(text.encode()).decode()


def run_all(api, addresses, scratch, audit):
    binary = devtools.sidestream_binary()
    version = api.must("GET", "/version")
    print(f"Kubernetes {version['gitVersion']}, {binary}")
    pods.make_namespaces(api)
    for index, helm in enumerate(os.environ["HELM"].split()):
        namespace = f"platform-{index}"
        own = scratch / namespace
        own.mkdir()
        node = Node(api, namespace, binary, addresses, own)
        with contextlib.closing(node):
            Release(api, helm, namespace, node, own, audit).run()


def main():
    devtools.on_sigterm_raise()
    parser = argparse.ArgumentParser()
    parser.add_argument("--programs", type=pathlib.Path)
    parser.add_argument("--server")
    parser.add_argument("--authority", type=pathlib.Path)
    parser.add_argument("--token", type=pathlib.Path)
    parser.add_argument("--addresses", default="")
    args = parser.parse_args()
    with devtools.scratch_dir("kubernetes") as scratch:
        if not args.programs:
            if not (args.server and args.authority and args.token):
                raise Failure("--server, --authority and --token are all needed")
            addresses = re.split(r"[,\s]+", args.addresses.strip())
            if len(addresses) < 4:
                raise Failure("four free addresses are needed, for the pods of a rolling upgrade")
            api = Api(args.server, args.authority, args.token.read_text().strip())
            return run_all(api, addresses, scratch, None)
        plane = ControlPlane(args.programs, scratch)
        try:
            run_all(plane.api, PODS, scratch, plane.audit)
        finally:
            plane.stop()


devtools.run_main(main)
