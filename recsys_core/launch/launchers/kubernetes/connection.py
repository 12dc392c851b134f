"""How the Kubernetes API is reached: as a pod of the cluster, or by a kubeconfig."""

import base64
import json
import os
import ssl
import subprocess
import tempfile
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import yaml

_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_KEPT_SECONDS = 240.0
_PLUGIN_SECONDS = 60.0


class Connection(NamedTuple):
    """Where the API is, how its certificate is checked, and who asks."""

    server: str
    namespace: str
    verify: ssl.SSLContext | bool
    auth: httpx.Auth | None


class Token(httpx.Auth):
    """A bearer token that is read again when it is a few minutes old, or is refused."""

    def __init__(self, read: Callable[[], str]) -> None:
        """`read` returns the token that counts now."""
        self._read = read
        self._held, self._since = "", 0.0

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """See `httpx.Auth`."""
        if not self._held or time.monotonic() - self._since > _KEPT_SECONDS:
            self._renew()
        request.headers["Authorization"] = f"Bearer {self._held}"
        response = yield request
        if response.status_code == httpx.codes.UNAUTHORIZED:
            self._renew()
            request.headers["Authorization"] = f"Bearer {self._held}"
            yield request

    def _renew(self) -> None:
        self._held, self._since = self._read().strip(), time.monotonic()


def connection(context: str | None) -> Connection:
    """Return the connection of a context of the kubeconfig; of None the pod's own, or the current context.

    Raises:
        ValueError: there is none, or the kubeconfig lacks something; says what.
    """
    if context is None and (_ACCOUNT / "token").is_file() and "KUBERNETES_SERVICE_HOST" in os.environ:
        host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ.get("KUBERNETES_SERVICE_PORT", "443")
        return Connection(
            server=f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}",
            namespace=(_ACCOUNT / "namespace").read_text().strip(),
            verify=ssl.create_default_context(cafile=str(_ACCOUNT / "ca.crt")),
            auth=Token((_ACCOUNT / "token").read_text),
        )
    return _of(_Kubeconfig.read(), context)


class _Kubeconfig(NamedTuple):
    """The kubeconfig's files as one: of entries of one name the first counts, as for kubectl."""

    paths: list[Path]
    current: str | None
    entries: dict[str, dict[str, dict[str, Any]]]

    @classmethod
    def read(cls) -> "_Kubeconfig":
        named = os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
        paths = [Path(name) for name in named.split(os.pathsep) if name and Path(name).is_file()]
        if not paths:
            raise ValueError(
                f"launch.kind: kubernetes: no kubeconfig at {named}, and this is no pod with a service account; set "
                "KUBECONFIG"
            )
        current, entries = None, {"contexts": {}, "clusters": {}, "users": {}}
        for path in paths:
            try:
                found = yaml.safe_load(path.read_text()) or {}
                current = current or found.get("current-context")
                for kind, held in entries.items():
                    for entry in found.get(kind) or ():
                        held.setdefault(entry["name"], entry[kind[:-1]] | {"": path.parent})
            except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
                first = (str(error).splitlines() or ["damaged"])[0]
                raise ValueError(f"{path}: no kubeconfig: {first}") from error
        return cls(paths, current, entries)

    def entry(self, kind: str, name: str | None) -> dict[str, Any]:
        if name is None or name not in self.entries[kind]:
            known = ", ".join(self.entries[kind]) or "none"
            where = ", ".join(map(str, self.paths))
            raise ValueError(f"launch.context: {where} has no {kind[:-1]} {name!r} among its {kind} ({known})")
        return self.entries[kind][name]


def _of(kubeconfig: _Kubeconfig, context: str | None) -> Connection:
    chosen = kubeconfig.entry("contexts", context or kubeconfig.current)
    cluster = kubeconfig.entry("clusters", chosen.get("cluster"))
    user = kubeconfig.entry("users", chosen["user"]) if chosen.get("user") else {}
    server = str(cluster.get("server", "")).rstrip("/")
    verify: ssl.SSLContext | bool = False
    if server.startswith("https://"):
        if cluster.get("insecure-skip-tls-verify"):
            raise ValueError(
                f"{server}: insecure-skip-tls-verify is set, and tokens are sent to no server that is not checked; set "
                "certificate-authority in the kubeconfig"
            )
        authority = _bytes(cluster, "certificate-authority")
        verify = ssl.create_default_context(cadata=authority.decode() if authority else None)
        _present(verify, user)
    return Connection(server, chosen.get("namespace") or "default", verify, _auth(user))


def _bytes(entry: dict[str, Any], key: str) -> bytes | None:
    """Return what an entry holds itself, in base64, or names by its file."""
    if data := entry.get(f"{key}-data"):
        return base64.b64decode(data)
    return (entry[""] / entry[key]).read_bytes() if entry.get(key) else None


def _present(verify: ssl.SSLContext, user: dict[str, Any]) -> None:
    """Let a client's certificate be shown, if the user has one."""
    certificate, key = _bytes(user, "client-certificate"), _bytes(user, "client-key")
    if certificate and key:
        with tempfile.NamedTemporaryFile() as file:  # of mode 600; ssl reads from files only
            file.write(certificate + b"\n" + key)
            file.flush()
            verify.load_cert_chain(file.name)


def _auth(user: dict[str, Any]) -> httpx.Auth | None:
    if "exec" in user:
        return Token(lambda: _plugin(user["exec"]))
    if user.get("tokenFile"):
        return Token((user[""] / user["tokenFile"]).read_text)
    if user.get("token"):
        return Token(lambda: str(user["token"]))
    if "auth-provider" in user or "username" in user:
        raise ValueError(
            "launch.context: its user signs in by auth-provider or password, which Kubernetes no longer has; let the "
            "kubeconfig use exec, a token or a certificate"
        )
    return None


def _plugin(plugin: dict[str, Any]) -> str:
    """Run a cloud's own command that prints an ExecCredential."""
    command = [plugin["command"], *(plugin.get("args") or ())]
    environment = os.environ | {entry["name"]: entry["value"] for entry in plugin.get("env") or ()}
    about = {"apiVersion": plugin.get("apiVersion"), "kind": "ExecCredential", "spec": {"interactive": False}}
    try:
        done = subprocess.run(
            command,
            env=environment | {"KUBERNETES_EXEC_INFO": json.dumps(about)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_PLUGIN_SECONDS,
            check=True,
        )
        return str(json.loads(done.stdout)["status"]["token"])
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or [f"exit code {error.returncode}"])[-1]
        raise ValueError(f"the kubeconfig's command {command[0]} gives no token: {last}") from error
    except (OSError, subprocess.TimeoutExpired, json.JSONDecodeError, KeyError) as error:
        raise ValueError(f"the kubeconfig's command {command[0]} gives no token: {error}") from error
