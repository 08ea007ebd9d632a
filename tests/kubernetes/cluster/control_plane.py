"""A control plane without nodes: etcd, API server and controllers, in a network namespace of their own.

Nothing outside of the namespace can reach them, and they reach nothing outside.
"""

import json
import secrets
import subprocess

from api import Api
from devtools import Failure, Process, wait_until

# On the namespace's loopback interface; endpoints of Services may not be in 127.0.0.0/8.
SERVER = "10.250.0.1"
PODS = [f"10.250.0.{last}" for last in range(10, 30)]
PORT = 6443

AUDIT = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {"level": "Metadata", "userGroups": ["system:serviceaccounts"]},
        {"level": "None"},
    ],
}


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise Failure(f"{' '.join(command)}: {done.stderr.strip()}")


class ControlPlane:
    def __init__(self, programs, scratch):
        self.scratch = scratch
        self.processes = []
        self.audit = scratch / "audit.log"
        run("ip", "link", "set", "lo", "up")
        for address in [SERVER, *PODS]:
            run("ip", "address", "add", f"{address}/32", "dev", "lo")
        key = scratch / "account.key"
        run("openssl", "genrsa", "-out", str(key), "2048")
        token = secrets.token_hex(16)
        (scratch / "tokens.csv").write_text(f'{token},admin,admin,"system:masters"\n')
        (scratch / "audit.yaml").write_text(json.dumps(AUDIT))
        etcd = self.start("etcd", [
            programs / "etcd", "--data-dir", scratch / "etcd",
            "--listen-client-urls=http://127.0.0.1:2379",
            "--advertise-client-urls=http://127.0.0.1:2379",
            "--listen-peer-urls=http://127.0.0.1:2380"])
        server = self.start("kube-apiserver", [
            programs / "kube-apiserver", "--etcd-servers=http://127.0.0.1:2379",
            f"--bind-address={SERVER}", f"--advertise-address={SERVER}", f"--secure-port={PORT}",
            f"--cert-dir={scratch / 'server'}",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={key}", f"--service-account-signing-key-file={key}",
            f"--token-auth-file={scratch / 'tokens.csv'}",
            "--authorization-mode=Node,RBAC",
            # Webhooks are asked at the addresses of their pods: nobody here serves cluster addresses.
            "--enable-aggregator-routing",
            f"--audit-policy-file={scratch / 'audit.yaml'}", f"--audit-log-path={self.audit}"])
        authority = scratch / "server" / "apiserver.crt"
        wait_until(authority.exists, "the API server's certificate", alive=[etcd, server])
        self.api = Api(f"https://{SERVER}:{PORT}", authority, token)
        wait_until(self.is_ready, "the API server is ready", 120, alive=[etcd, server])
        config = scratch / "kubeconfig"
        config.write_text(json.dumps(kubeconfig(self.api)))
        self.start("kube-controller-manager", [
            programs / "kube-controller-manager", f"--kubeconfig={config}",
            "--bind-address=127.0.0.1", "--use-service-account-credentials",
            f"--service-account-private-key-file={key}", f"--root-ca-file={authority}",
            "--leader-elect=false"])

    def start(self, name, command):
        process = Process(name, command, self.scratch / f"{name}.log")
        self.processes.append(process)
        return process

    def is_ready(self):
        try:
            return self.api.call("GET", "/readyz").status == 200
        except OSError:
            return False

    def stop(self):
        for process in reversed(self.processes):
            process.stop(20)


def kubeconfig(api):
    """For helm and the controllers."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "clusters": [{"name": "test", "cluster": {
            "server": api.server, "certificate-authority": str(api.authority)}}],
        "users": [{"name": "test", "user": {"token": api.token}}],
    }
