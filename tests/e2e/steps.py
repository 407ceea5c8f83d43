"""The few steps that a user takes, and a client in a pod of its own."""

from __future__ import annotations

import json
from typing import Any

import yaml
from modelyard_cluster import BASE_IMAGE, Cluster

Object = dict[str, Any]

# Runs in a pod: asks one URL for many users, by a few threads with kept-alive connections, until it has asked `users`
# times or is told to stop by a file, and prints what came back as one JSON line.
CLIENT = """
import collections, http.client, itertools, json, os, sys, threading, time
host, users, row, threads = sys.argv[1], int(sys.argv[2]), sys.argv[3].encode(), int(sys.argv[4])
lock, numbers = threading.Lock(), itertools.count()
variants, versions, failures = {}, collections.Counter(), []
def ask(connection, user):
    headers = {"x-user-id": f"user-{user}", "content-type": "application/json"}
    connection.request("POST", "/predict", row, headers)
    answer = connection.getresponse()
    body = answer.read()
    with lock:
        if answer.status != 200:
            failures.append(f"{time.time():.3f} {answer.status} {body[:200]!r}")
            return
        variants[user] = answer.headers.get("x-modelyard-variant", "-")
        versions[json.loads(body)["model_version"]] += 1
def work():
    connection = http.client.HTTPConnection(host, timeout=10)
    while True:
        with lock:
            user = next(numbers)
        if (users and user >= users) or os.path.exists("/tmp/stop"):
            return
        try:
            ask(connection, user)
        except Exception as error:
            with lock:
                failures.append(f"{time.time():.3f} {error!r}")
            connection.close()
workers = [threading.Thread(target=work) for _ in range(threads)]
[worker.start() for worker in workers]
[worker.join() for worker in workers]
counts = collections.Counter(variants.values())
print(json.dumps({"variants": variants if users else {}, "counts": counts, "versions": versions,
    "failed": len(failures), "failures": failures[:5]}))
"""


class Shop:
    """A namespace, with the steps that a user takes in it."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self._cluster = cluster
        self.namespace = namespace

    def kubectl(self, *args: str, stdin: str | None = None, timeout: float = 180) -> str:
        return self._cluster.kubectl("-n", self.namespace, *args, input=stdin, timeout=timeout)

    def apply(self, *manifests: Object) -> None:
        self.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(manifests))

    def patch(self, kind: str, name: str, *operations: Object) -> None:
        self.kubectl("patch", kind, name, "--type=json", "-p", json.dumps(operations))

    def get(self, kind: str, name: str) -> Object:
        text = self.kubectl("get", kind, name, "-o", "json", "--ignore-not-found")
        return dict(json.loads(text)) if text.strip() else {}

    def wait_ready(self, kind: str, name: str) -> None:
        """Wait as a user does; `kubectl wait` looks at the condition's generation too."""
        try:
            self.kubectl("wait", "--for=condition=Ready", f"{kind}/{name}", "--timeout=120s")
        except Exception as error:
            pods = self.kubectl("get", "pods", "-o", "wide")
            events = self.kubectl("get", "events")[-3000:]
            raise AssertionError(f"{error}\n{json.dumps(self.get(kind, name), indent=1)}\n{pods}\n{events}") from error

    def condition(self, kind: str, name: str, type_: str) -> Object:
        conditions = self.get(kind, name).get("status", {}).get("conditions", [])
        return next((dict(condition) for condition in conditions if condition["type"] == type_), {})

    def start_client(self, name: str, host: str, row: Object, *, users: int, threads: int = 4) -> None:
        """Start a pod that sends requests to a host by its DNS name; `users=0` goes on until `stop_client`."""
        container = {
            "name": "client",
            "image": BASE_IMAGE,
            "imagePullPolicy": "Never",
            "command": ["python", "-c", CLIENT, host, str(users), json.dumps(row), str(threads)],
            "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        }
        security = {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}}
        self.apply(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": name},
                "spec": {"restartPolicy": "Never", "containers": [container], "securityContext": security},
            }
        )

    def client_result(self, name: str) -> Object:
        """Wait for a client pod's end and return what it printed."""
        try:
            self.kubectl("wait", "--for=jsonpath={.status.phase}=Succeeded", f"pod/{name}", "--timeout=120s")
        except Exception as error:
            raise AssertionError(f"{error}\n{self.kubectl('describe', 'pod', name)[-3000:]}") from error
        result = dict(json.loads(self.kubectl("logs", name).splitlines()[-1]))
        self.kubectl("delete", "pod", name, "--wait=false")
        return result

    def stop_client(self, name: str) -> Object:
        self.kubectl("exec", name, "--", "touch", "/tmp/stop")
        return self.client_result(name)

    def ask(self, name: str, host: str, row: Object, *, users: int) -> Object:
        self.start_client(name, host, row, users=users)
        return self.client_result(name)
