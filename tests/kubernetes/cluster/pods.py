"""Pods of an app, and what must become of them; the rights of the injector's account."""

import json
import re
import socket
import ssl
import subprocess

from devtools import Failure, wait_until

SHOP = "shop"      # labelled
PLAIN = "plain"    # not
APP = "shop/web:1.4"
CONFIGURATIONS = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"
WISHES = {"sidestream/filters": "shop-filters", "sidestream/mongodb-secret": "shop-mongodb"}


def ok(text):
    print(f"ok      {text}", flush=True)


def must(condition, problem):
    if not condition:
        raise Failure(problem)


def pod(name, labels=None, annotations=WISHES, **spec):
    """An app's pod, which meets the restricted profile by itself."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels or {}, "annotations": dict(annotations)},
        "spec": {
            "securityContext": {"runAsNonRoot": True, "runAsUser": 1000,
                                "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "web",
                "image": APP,
                "ports": [{"name": "http", "containerPort": 3000}],
                "readinessProbe": {"httpGet": {"path": "/", "port": "http"}},
                "securityContext": {"allowPrivilegeEscalation": False,
                                    "capabilities": {"drop": ["ALL"]}},
            }],
            **spec,
        },
    }


def make(api, thing, namespace=SHOP, dry_run=True):
    query = "?dryRun=All" if dry_run else ""
    return api.call("POST", f"/api/v1/namespaces/{namespace}/pods{query}", thing)


def containers(thing):
    spec = thing.get("spec", {})
    return {one["name"]: one for one in spec.get("initContainers", []) + spec.get("containers", [])}


def is_injected(thing):
    return "sidestream" in containers(thing)


def make_namespaces(api):
    """`shop` is labelled, and enforces the restricted profile of the Pod Security Standards."""
    labels = {"sidestream-injection": "enabled", "pod-security.kubernetes.io/enforce": "restricted"}
    for name, own in ((SHOP, labels), (PLAIN, {})):
        namespace = {"apiVersion": "v1", "kind": "Namespace",
                     "metadata": {"name": name, "labels": own}}
        must(api.call("POST", "/api/v1/namespaces", namespace).status in (201, 409), "no namespace")
        account = f"/api/v1/namespaces/{name}/serviceaccounts/default"
        wait_until(lambda account=account: api.get(account), f"the default account of {name}")


def check_injected(api, binary, image):
    """In the labelled namespace, and the same as what `sidestream inject` prints."""
    version = api.must("GET", "/version")
    version = f"{version['major']}.{re.match(r'[0-9]+', version['minor'])[0]}"
    answer = make(api, pod("web"))
    must(answer.is_success, f"a pod was not made: {answer.status} {answer.message}")
    must(not answer.warnings, f"warnings: {answer.warnings}")
    made = answer.body
    sidecar = containers(made).get("sidestream")
    must(sidecar, "a pod of a labelled namespace has no sidecar")
    must(sidecar["image"] == image, f"the image is {sidecar['image']}")
    native = sidecar.get("restartPolicy") == "Always"
    must(native == (tuple(map(int, version.split("."))) >= (1, 32)), f"native: {native}")
    must(sidecar["ports"][0]["name"] == "http", "the port's name was not taken over")
    web = containers(made)["web"]
    must(web["ports"][0]["name"] == "app-http", "the app's port kept its name")
    must(web["readinessProbe"]["httpGet"]["port"] == "app-http", "the probe did not follow")
    for name, container in containers(made).items():
        mounts = {mount["mountPath"]: mount["name"] for mount in container.get("volumeMounts", [])}
        account = mounts.get("/var/run/secrets/kubernetes.io/serviceaccount", "")
        must(account.startswith("kube-api-access-") == (name == "web"),
             f"the container {name} has {account or 'nothing'} in the place of the account's token")

    done = subprocess.run(
        [binary, "inject", "--kubernetes-version", version, "--image", image,
         "--pull-policy", "IfNotPresent"],
        input=json.dumps(pod("web"), indent=2), capture_output=True, text=True)
    must(done.returncode == 0, done.stderr)
    by_hand = make(api, json.loads(done.stdout))
    must(by_hand.is_success, f"what inject prints was not made: {by_hand.message}")
    first, second = comparable(made), comparable(by_hand.body)
    must(first == second, f"webhook and inject differ:\n{first}\n{second}")
    must(api.get(f"/api/v1/namespaces/{SHOP}/pods/web") is None, "a dry run was stored")

    asked = make(api, pod("web", {"sidestream/inject": "true"}), PLAIN)
    must(is_injected(asked.body), "a pod that asks for it has no sidecar")
    ok(f"pods get the sidecar in namespace {SHOP} (which enforces the restricted profile) and where "
       f"they ask for it; the same as by `sidestream inject`")


def comparable(thing):
    """Without what is random: the name of the account's volume; and its place among the others."""
    text = re.sub(r"kube-api-access-\w+", "kube-api-access", json.dumps(thing["spec"]))
    spec = json.loads(text)
    spec["volumes"].sort(key=lambda volume: volume["name"])
    for one in spec["containers"] + spec.get("initContainers", []):
        one.get("volumeMounts", []).sort(key=lambda mount: mount["name"])
    return {"spec": spec, "labels": thing["metadata"]["labels"]}


def check_left_alone(api, release):
    for what, answer in (
        ("opted out", make(api, pod("out", {"sidestream/inject": "false"}))),
        ("not labelled", make(api, pod("plain"), PLAIN)),
        ("in kube-system", make(api, pod("system", {"sidestream/inject": "true"}), "kube-system")),
        ("in the injector's", make(api, pod("own", {"sidestream/inject": "true"}), release)),
    ):
        must(answer.is_success, f"{what}: {answer.status} {answer.message}")
        must(not is_injected(answer.body), f"{what}: it has a sidecar")
        must(not answer.warnings, f"{what}: {answer.warnings}")
    answer = make(api, pod("bare", annotations={}))
    must(answer.is_success and not is_injected(answer.body), "a pod without filters")
    warning, = answer.warnings
    must("sidestream/filters" in warning, warning)
    ok(f"left alone: opted out, not labelled, kube-system, the injector's own; "
       f"without filters, with a warning: {warning}")


def check_refused(api):
    for wrong, namespace, words in (
        (pod("a", annotations={**WISHES, "sidestream/filter": "x"}), SHOP,
         "did you mean `sidestream/filters`?"),
        (pod("b", annotations={**WISHES, "sidestream/app-port": "web"}), SHOP, "sidestream/app-port"),
        (pod("c", {"sidestream/inject": "true"}, {}), PLAIN, "but the pod has no annotation"),
        (pod("d", {"sidestream/inject": "yes"}), SHOP, 'write "true" or "false"'),
    ):
        answer = make(api, wrong, namespace)
        must(answer.status == 403, f"{answer.status} instead of 403: {answer.message}")
        must("denied the request: sidestream: " in answer.message, answer.message)
        must(words in answer.message, f"no `{words}` in: {answer.message}")
        ok(f"refused: {answer.message}")


def check_workloads(api):
    """Through the controllers, which make pods with accounts of their own."""
    template = pod("x")
    labels = {"app": "web"}
    template = {"metadata": {"labels": labels, "annotations": WISHES}, "spec": template["spec"]}
    apps = f"/apis/apps/v1/namespaces/{SHOP}/deployments"
    deployment = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
                  "spec": {"replicas": 2, "selector": {"matchLabels": labels}, "template": template}}
    api.must("POST", apps, deployment)
    listed = f"/api/v1/namespaces/{SHOP}/pods?labelSelector=app%3Dweb"
    wait_until(lambda: len(api.must("GET", listed)["items"]) == 2, "the Deployment's pods")
    must(all(map(is_injected, api.must("GET", listed)["items"])), "a Deployment's pod has no sidecar")

    wrong = json.loads(json.dumps(deployment))
    wrong["metadata"]["name"] = "wrong"
    wrong["spec"]["selector"]["matchLabels"] = wrong["spec"]["template"]["metadata"]["labels"] = {
        "app": "wrong"}
    wrong["spec"]["template"]["metadata"]["annotations"]["sidestream/memory"] = "lots"
    api.must("POST", apps, wrong)

    def told():
        events = api.must("GET", f"/api/v1/namespaces/{SHOP}/events")["items"]
        return [event["message"] for event in events if event["reason"] == "FailedCreate"
                and "sidestream: sidestream/memory" in event["message"]]
    message = wait_until(told, "the event of the refused ReplicaSet")[0]

    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "report"},
           "spec": {"template": {**json.loads(json.dumps(template)), "metadata": {
               "labels": {"app": "report"}, "annotations": WISHES}}}}
    job["spec"]["template"]["spec"]["restartPolicy"] = "Never"
    api.must("POST", f"/apis/batch/v1/namespaces/{SHOP}/jobs", job)
    listed = f"/api/v1/namespaces/{SHOP}/pods?labelSelector=app%3Dreport"
    made, = wait_until(lambda: api.must("GET", listed)["items"], "the Job's pod")
    must(containers(made)["sidestream"]["restartPolicy"] == "Always", "a Job's sidecar is not native")
    for path in (f"{apps}/web", f"{apps}/wrong", f"/apis/batch/v1/namespaces/{SHOP}/jobs/report"):
        api.must("DELETE", f"{path}?propagationPolicy=Background")
    wait_until(lambda: not api.must("GET", f"/api/v1/namespaces/{SHOP}/pods")["items"], "no pods")
    ok(f"workloads: a Deployment's pods and a Job's; a wrong template's event: {message}")


def served_certificate(address):
    """The certificate that a replica serves, PEM."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with socket.create_connection((address, 8443), timeout=2) as plain:
            with context.wrap_socket(plain) as tls:
                return ssl.DER_cert_to_PEM_cert(tls.getpeercert(binary_form=True))
    except OSError:
        return None


def left_behind(api, namespace):
    """Whatever has the release's labels, or the name of what the injector made."""
    selector = "?labelSelector=app.kubernetes.io/instance%3Dsidestream"
    left = []
    for path in (
        f"/api/v1/namespaces/{namespace}/services",
        f"/api/v1/namespaces/{namespace}/serviceaccounts",
        f"/api/v1/namespaces/{namespace}/secrets",
        f"/api/v1/namespaces/{namespace}/configmaps",
        f"/apis/apps/v1/namespaces/{namespace}/deployments",
        f"/apis/policy/v1/namespaces/{namespace}/poddisruptionbudgets",
        f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/roles",
        f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/rolebindings",
        f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases",
        "/apis/rbac.authorization.k8s.io/v1/clusterroles",
        "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
        CONFIGURATIONS,
    ):
        left += [f"{path}/{one['metadata']['name']}"
                 for one in api.must("GET", path + selector)["items"]]
    return left


class Rights:
    """Of the injector's account: as many as it uses, and no others."""

    def __init__(self, api, namespace, name):
        self.api = api
        self.namespace = namespace
        self.name = name

    def granted(self):
        rbac = "/apis/rbac.authorization.k8s.io/v1"
        roles = (f"{rbac}/namespaces/{self.namespace}/roles/{self.name}",
                 f"{rbac}/clusterroles/{self.name}-{self.namespace}")
        return {(group, resource, verb)
                for role in roles for rule in self.api.must("GET", role)["rules"]
                for group in rule["apiGroups"] for resource in rule["resources"]
                for verb in rule["verbs"]}

    def check_used(self, audit, account):
        """By the API server's audit log: nothing was refused, and no right lies idle."""
        used, refused = set(), []
        for line in audit.read_text().splitlines():
            event = json.loads(line)
            if event["user"]["username"] != account or "objectRef" not in event:
                continue
            about = event["objectRef"]
            used.add((about.get("apiGroup", ""), about["resource"], event["verb"]))
            if event["responseStatus"]["code"] == 403:
                refused.append(event["requestURI"])
        granted = self.granted()
        must(not refused, f"refused to the injector: {refused}")
        must(used == granted, f"granted and not used: {granted - used}; used: {used - granted}")
        return f"all {len(granted)} rights are used, nothing was refused"

    def token(self):
        made = self.api.must(
            "POST", f"/api/v1/namespaces/{self.namespace}/serviceaccounts/{self.name}/token",
            {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
             "spec": {"expirationSeconds": 600}})
        return made["status"]["token"]

    def check_refused(self):
        account = self.api.as_account(self.token())
        core = f"/api/v1/namespaces/{self.namespace}"
        leases = f"/apis/coordination.k8s.io/v1/namespaces/{self.namespace}/leases"
        apps = f"/apis/apps/v1/namespaces/{self.namespace}/deployments"
        rbac = "/apis/rbac.authorization.k8s.io/v1"
        own = f"{CONFIGURATIONS}/{self.name}-{self.namespace}"
        must(account.call("GET", own).is_success, "the account's token is not accepted")
        asked = [
            ("GET", f"{core}/secrets"), ("GET", "/api/v1/secrets"), ("GET", f"{core}/secrets/other"),
            ("GET", f"/api/v1/namespaces/{SHOP}/secrets/{self.name}-tls"),
            ("DELETE", f"{core}/secrets/{self.name}-tls"), ("POST", f"/api/v1/namespaces/{SHOP}/secrets"),
            ("GET", f"{core}/configmaps"), ("GET", f"{core}/pods"), ("POST", f"{core}/pods"),
            ("GET", "/api/v1/pods"), ("GET", "/api/v1/namespaces"), ("GET", "/api/v1/nodes"),
            ("GET", leases), ("GET", f"{leases}/other"), ("DELETE", f"{leases}/{self.name}"),
            ("GET", apps), ("GET", f"{apps}/other"), ("PATCH", f"{apps}/{self.name}"),
            ("GET", CONFIGURATIONS), ("POST", CONFIGURATIONS), ("GET", f"{CONFIGURATIONS}/other"),
            ("PATCH", f"{CONFIGURATIONS}/other"), ("PUT", own), ("DELETE", own),
            ("GET", f"{rbac}/clusterroles"), ("POST", f"{rbac}/clusterrolebindings"),
            ("PATCH", f"{rbac}/namespaces/{self.namespace}/roles/{self.name}"),
            ("POST", f"{core}/serviceaccounts/{self.name}/token"),
        ]
        for method, path in asked:
            body = None if method in ("GET", "DELETE") else {}
            content = "application/merge-patch+json" if method == "PATCH" else "application/json"
            answer = account.call(method, path, body, content)
            must(answer.status == 403, f"{method} {path}: {answer.status} {answer.message}")
        return len(asked)
