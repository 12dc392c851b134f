"""An API server of Kubernetes with Kubeflow's jobs: real HTTP, and pods that are processes of this machine."""

import json
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

import jsonschema
from kubeflow_schemas import SCHEMAS

TOKEN = "t0ken"
_PATH = re.compile(r"/apis/(.+/.+)/namespaces/([^/]+)/(trainjobs|pytorchjobs)(?:/([^/]+))?")
_PODS = re.compile(r"/api/v1/namespaces/([^/]+)/pods(?:/([^/]+)/log)?")


class Cluster:
    """What the server knows. `waiting` (a reason and a message) is what its containers wait for instead of starting."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.jobs: dict[str, dict[str, Any]] = {}
        self.pods: dict[str, dict[str, Any]] = {}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.deleted: list[str] = []
        self.requests: list[str] = []
        self.waiting: tuple[str, str] | None = None
        self.unschedulable: str | None = None
        self.conditions: list[dict[str, str]] = []
        self.busy = 0
        self.refusal: tuple[int, str] | None = None
        self.starts = True
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"cluster": self}))
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def kubeconfig(self, **user: Any) -> Path:
        """Write a kubeconfig for it, whose user has a token if nothing else is said."""
        path = self.folder / "kubeconfig"
        sections = {
            "current-context": "here",
            "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u", "namespace": "shop"}}],
            "clusters": [{"name": "c", "cluster": {"server": self.address}}],
            "users": [{"name": "u", "user": user or {"token": TOKEN}}],
        }
        path.write_text(json.dumps(sections))
        return path

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        for process in self.processes.values():
            process.kill()
            process.wait()

    def create(self, plural: str, manifest: dict[str, Any]) -> None:
        jsonschema.validate(manifest, SCHEMAS[plural])
        name = manifest["metadata"]["name"]
        self.jobs[name] = manifest
        if plural == "trainjobs":
            trainer = manifest["spec"]["trainer"]
            containers = [trainer] * trainer["numNodes"]
            label, rank = "jobset.sigs.k8s.io/jobset-name", "PET_NODE_RANK"
        else:
            replicas = manifest["spec"]["pytorchReplicaSpecs"].values()
            containers = [r["template"]["spec"]["containers"][0] for r in replicas for _ in range(r["replicas"])]
            label, rank = "training.kubeflow.org/job-name", "RANK"
        for number, container in enumerate(containers):
            pod = f"{name}-{number}"
            self.pods[pod] = {"labels": f"{label}={name}", "image": container["image"]}
            if self.waiting is None and self.unschedulable is None and self.starts:
                self._start(pod, container, {rank: str(number), "PET_NPROC_PER_NODE": "7"})

    def _start(self, pod: str, container: dict[str, Any], environment: dict[str, str]) -> None:
        program, *arguments = container["command"]
        assert program == "python"
        secrets = {one["name"]: f"from {one['valueFrom']['secretKeyRef']['name']}" for one in container["env"]}
        with (self.folder / f"{pod}.log").open("wb") as log:
            # In a container nothing of the launcher's environment is there, and the packages are installed.
            kept = {
                name: value
                for name, value in os.environ.items()
                if name in ("PATH", "PYTHONPATH", "COVERAGE_PROCESS_CONFIG")
            }
            self.processes[pod] = subprocess.Popen(
                [sys.executable, *arguments], env=kept | secrets | environment, stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, start_new_session=True,
            )  # fmt: skip

    def status(self, name: str) -> dict[str, Any]:
        own = [self.processes[pod].poll() for pod in self.pods if pod.startswith(name) and pod in self.processes]
        conditions = [*self.conditions]
        ends = {"TrainJob": ("Complete", "Failed"), "PyTorchJob": ("Succeeded", "Failed")}[self.jobs[name]["kind"]]
        if any(own):
            conditions.append(
                {"type": ends[1], "status": "True", "reason": "BackoffLimitExceeded", "message": "a pod failed"}
            )
        elif own and all(code == 0 for code in own):
            conditions.append({"type": ends[0], "status": "True", "reason": "Done"})
        return {"conditions": [{"type": "Created", "status": "True"}, *conditions]}

    def pod(self, name: str) -> dict[str, Any]:
        known = self.pods[name]
        state: dict[str, Any] = {"waiting": {"reason": "ContainerCreating"}}
        status: dict[str, Any] = {"phase": "Pending"}
        if self.waiting is not None:
            state = {"waiting": {"reason": self.waiting[0], "message": self.waiting[1]}}
        elif name in self.processes:
            code = self.processes[name].poll()
            state = (
                {"running": {}}
                if code is None
                else {"terminated": {"exitCode": code, "reason": "Error" if code else "Completed"}}
            )
            status = {"phase": "Running" if code is None else "Failed" if code else "Succeeded"}
        if self.unschedulable is not None:
            message = {"reason": "Unschedulable", "message": self.unschedulable}
            status["conditions"] = [{"type": "PodScheduled", "status": "False"} | message]
        else:
            status["containerStatuses"] = [{"name": "node", "image": known["image"], "state": state}]
        return {"metadata": {"name": name}, "status": status}

    def delete(self, name: str) -> None:
        self.deleted.append(name)
        del self.jobs[name]
        for pod, process in self.processes.items():
            if pod.startswith(name):
                process.terminate()


class _Handler(BaseHTTPRequestHandler):
    cluster: Cluster

    def do_GET(self) -> None:
        self._answer("GET")

    def do_POST(self) -> None:
        self._answer("POST")

    def do_DELETE(self) -> None:
        self._answer("DELETE")

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's
        self.cluster.requests.append(format % args)

    def _answer(self, method: str) -> None:
        status, body = self._result(method)
        text = body if isinstance(body, str) else json.dumps(body)
        self.send_response(status)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def _result(self, method: str) -> tuple[int, Any]:
        cluster, url = self.cluster, urlparse(self.path)
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or "null")
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return 401, {"message": "Unauthorized"}
        if cluster.busy:
            cluster.busy -= 1
            return 503, {"message": "apiserver is shutting down"}
        if cluster.refusal is not None and method == "POST":
            return cluster.refusal[0], {"message": cluster.refusal[1]}
        if jobs := _PATH.fullmatch(url.path):
            assert jobs[2] == "shop"
            return self._of_jobs(method, jobs[3], jobs[4], body)
        pods = _PODS.fullmatch(url.path)
        assert pods is not None, self.path
        assert pods[1] == "shop"
        if pods[2]:
            log = cluster.folder / f"{pods[2]}.log"
            assert "tailLines" in parse_qs(url.query)
            return (200, log.read_text()) if log.exists() else (400, {"message": "container is waiting to start"})
        (selector,) = parse_qs(url.query)["labelSelector"]
        return 200, {
            "items": [cluster.pod(name) for name, known in cluster.pods.items() if known["labels"] == selector]
        }

    def _of_jobs(self, method: str, plural: str, name: str | None, body: Any) -> tuple[int, Any]:
        cluster = self.cluster
        if method == "POST":
            try:
                cluster.create(plural, body)
            except jsonschema.ValidationError as error:
                return 422, {"message": f"is invalid: {error.json_path}: {error.message}"}
            return 201, body
        if name not in cluster.jobs:
            return 404, {"message": f'{plural} "{name}" not found'}
        if method == "DELETE":
            cluster.delete(name)
            return 200, {"status": "Success"}
        return 200, cluster.jobs[name] | {"status": cluster.status(name)}
