"""A Prefect server for the length of one command, for users without one of their own.

Prefect would start one by itself, but that one stays behind when our process is killed, and starts only when the flow
does; this one boots while the flow's code is being imported. Its records are in Prefect's own database, so
`prefect server start` shows the runs afterwards.
"""

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from recsys_core.imports import importing
from recsys_core.launch import exit_with_starter
from recsys_core.variables import without_credentials

# First start: Prefect creates its database, 15 s on a small machine.
_TIMEOUT_SECONDS = 180
_GRACE_SECONDS = 10
_ANSWER_SECONDS = 10
_POLL_SECONDS = 2
_ASK_SECONDS = 5
_MAX_RESTARTS = 3
# What Prefect sets for its own temporary server: no pages, and no services for schedules and workers.
_ENVIRONMENT = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}


class Server:
    """A server that is starting; `address` waits until it answers. From then on, one that dies is started again.

    This process keeps the socket, so that no connection is refused: Prefect's client waits, and sends again what was
    cut off.
    """

    def __init__(self) -> None:
        """Start it on a free port of the loopback interface."""
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `stop`
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._port: int = self._listening.getsockname()[1]
        self._num_restarts = 0
        self._stopping = False
        self._guard = threading.Lock()
        self._watcher: threading.Thread | None = None
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "flows.server", str(self._listening.fileno())],
            stdin=subprocess.PIPE,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            env=_environment(),
            pass_fds=[self._listening.fileno()],
            start_new_session=True,
        )

    def address(self) -> str:
        """Return the API's address once it answers.

        Raises:
            RuntimeError: it ended, or did not answer in time.
        """
        if _answers(self._port, lambda: self._process.poll() is None):
            self._watcher = threading.Thread(target=self._watch, daemon=True, name="prefect-server")
            self._watcher.start()
            return _address(self._port)
        raise RuntimeError(_not_started(self._last_line()))

    def mind(self) -> str | None:
        """Start it again if it has died, and return what there is to say then: for a process that has no threads.

        Raises:
            RuntimeError: it dies too often.
        """
        exit_code = self._process.poll()
        if exit_code is None:
            return None
        if self._num_restarts == _MAX_RESTARTS:
            raise RuntimeError(self._ended())
        return self._restart(exit_code)

    def lend(self) -> "Lent":
        """Return the server as a process has it that was forked by the one that minds it."""
        self._listening.close()
        self._close_stdin()
        return Lent(self, self._port)

    def _watch(self) -> None:
        """Start it again when it dies, unless it dies too often."""
        for _ in range(_MAX_RESTARTS):
            exit_code = self._process.wait()
            with self._guard:
                if self._stopping:
                    return
                message = self._restart(exit_code)
            sys.stderr.write(f"{message}\n")
        self._process.wait()
        if not self._stopping:
            sys.stderr.write(f"error: {self._ended()}\n")
            # A client that waits for an answer is refused now, and does not wait for the next one.
            self._listening.close()
            os.kill(os.getpid(), signal.SIGTERM)

    def _restart(self, exit_code: int) -> str:
        self._num_restarts += 1
        self._close_stdin()
        self._process = self._start()
        how = f"was killed by {signal.Signals(-exit_code).name}" if exit_code < 0 else f"ended, code {exit_code}"
        return f"Prefect's temporary server {how}; it was started again, and the run goes on"

    def _ended(self) -> str:
        message = f": {line}" if (line := self._last_line()) else ""
        return f"Prefect's temporary server ended {_MAX_RESTARTS + 1} times{message}"

    def _last_line(self) -> str:
        self._output.seek(0)
        return self._output.read().decode(errors="replace").strip().rpartition("\n")[2]

    def stop(self) -> None:
        """Let it store the events that it has received, then end it."""
        with self._guard:
            self._stopping = True
        self._process.terminate()
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_GRACE_SECONDS)
        finally:
            # Also if that was cut off: it waits for our connections to end, and their threads would wait for it.
            self._process.kill()
            self._process.wait()
        if self._watcher is not None:
            self._watcher.join()
        self._output.close()
        self._listening.close()
        self._close_stdin()

    def _close_stdin(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()


class Lent(NamedTuple):
    """The server of the process that this one was forked by, which minds it."""

    server: Server
    port: int

    def address(self) -> str:
        """Return the API's address once it answers.

        Raises:
            RuntimeError: it did not answer in time.
        """
        if _answers(self.port, lambda: True):
            return _address(self.port)
        raise RuntimeError(_not_started(""))


def _address(port: int) -> str:
    return f"http://127.0.0.1:{port}/api"


def _answers(port: int, is_alive: Callable[[], bool]) -> bool:
    """Wait until the server answers; return whether it did."""
    import httpx

    deadline = time.monotonic() + _TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        # The port accepts from the start; the answer comes when the application is up.
        with contextlib.suppress(httpx.TransportError):
            httpx.get(f"{_address(port)}/health", timeout=_POLL_SECONDS).raise_for_status()
            return True
        if not is_alive():
            break
    return False


def _not_started(message: str) -> str:
    return (
        f"Prefect's temporary server did not start: {message or 'it gives no answer'}. Start one with "
        "`prefect server start` and set PREFECT_API_URL=http://127.0.0.1:4200/api"
    )


def _environment() -> dict[str, str]:
    """Return the server's environment: Prefect's own variables, and no other credentials."""
    own = {name: value for name, value in os.environ.items() if name.startswith("PREFECT_")}
    return without_credentials(os.environ) | own | _ENVIRONMENT


@contextlib.contextmanager
def temporary(lent: Lent | None = None) -> Iterator[Server | Lent | None]:
    """Start a server if neither the environment nor Prefect's profile names one, and none is `lent`.

    Raises:
        ValueError: one is named, and does not answer.
    """
    _require_clients()
    if lent is not None:
        try:
            yield lent
        finally:
            _flush()
        return
    with contextlib.ExitStack() as stopping:
        server = stopping.enter_context(_started()) if is_needed() else None
        # Meanwhile the server starts: it takes seconds.
        from prefect.settings import PREFECT_API_URL

        named = PREFECT_API_URL.value()
        if not named:
            yield server or stopping.enter_context(_started())
            return
    _require(named)
    done = threading.Event()
    threading.Thread(target=_report_silence, args=(named, done), daemon=True, name="prefect-server").start()
    try:
        yield None
    finally:
        done.set()


@contextlib.contextmanager
def _started() -> Iterator[Server]:
    server = Server()
    try:
        yield server
    finally:
        try:
            _flush()
        finally:
            server.stop()


def _flush() -> None:
    for handler in logging.getLogger("prefect.flow_runs").handlers:
        handler.flush()


def is_needed() -> bool:
    """Whether no server is named, as far as that is sure without Prefect, whose settings take seconds to import."""
    if "prefect" in sys.modules or any(os.environ[name] for name in os.environ if name.upper() == "PREFECT_API_URL"):
        return False
    home = os.environ.get("PREFECT_HOME") or f"{os.environ.get('HOME')}/.prefect"
    profiles = Path(os.environ.get("PREFECT_PROFILES_PATH") or f"{home}/profiles.toml")
    # Where Prefect looks for its settings, and what stands there of those that may name a server.
    places = {
        profiles: "api_url",
        Path(".env"): "api_url",
        Path("prefect.toml"): "api",
        Path("pyproject.toml"): "tool.prefect",
    }
    return not any(path.is_file() and said in path.read_text(errors="replace").lower() for path, said in places.items())


def _require(named: str) -> None:
    import httpx

    from recsys_core.redaction import redact

    shown = redact(named)
    otherwise = "or unset PREFECT_API_URL, and one is started for the length of the command"
    try:
        answer = httpx.get(f"{named}/health", timeout=_ANSWER_SECONDS)
    except (httpx.TransportError, httpx.InvalidURL) as error:
        raise ValueError(
            f"PREFECT_API_URL {shown}: no Prefect server answers there ({error}); start it, `prefect server start`, "
            f"{otherwise}"
        ) from None
    kind = answer.headers.get("content-type", "nothing").partition(";")[0]
    if not named.rstrip("/").endswith("/api") and "/api/" not in named:
        raise ValueError(
            f"PREFECT_API_URL {shown}: not the API's address; set it to {shown.rstrip('/')}/api, {otherwise}"
        )
    if kind != "application/json":
        raise ValueError(
            f"PREFECT_API_URL {shown}: what answers there is no Prefect server but a gateway, a proxy or another "
            f"program (status {answer.status_code}, {kind}); correct the address, {otherwise}"
        )


def _report_silence(named: str, done: threading.Event) -> None:
    """Say once of each time that the server does not answer what the run waits for: Prefect's client retries silently.

    Ends when `done` is set.
    """
    import httpx

    from recsys_core.redaction import redact

    is_silent = False
    while not done.wait(_ASK_SECONDS):
        try:
            httpx.get(f"{named}/health", timeout=_ANSWER_SECONDS)
        except httpx.TransportError as error:
            if not is_silent and not done.is_set():
                sys.stderr.write(
                    f"waiting for the Prefect server at {redact(named)}, which does not answer ({redact(str(error))}): "
                    "start it again and the run goes on; without it the run fails after some minutes, and finished "
                    "stages are kept\n"
                )
            is_silent = True
        else:
            is_silent = False


def _require_clients() -> None:
    """Make one of the clients that talk to the server: a proxy of the environment that it cannot use ends all of them.

    Raises:
        ValueError: names the proxy's variables.
    """
    import httpx

    try:
        httpx.Client().close()
    except (ImportError, ValueError) as error:
        message = str(error).splitlines()[0]
        raise ValueError(
            f"HTTP_PROXY, HTTPS_PROXY or ALL_PROXY of the environment cannot be used ({message})"
        ) from None


def _serve(listening: int) -> None:
    threading.Thread(target=exit_with_starter, daemon=True).start()
    with importing():
        import prefect.server.api.server  # noqa: F401 - sooner than uvicorn does
        import uvicorn

    config = uvicorn.Config("prefect.server.api.server:create_app", factory=True, log_level="error", lifespan="on")
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=listening)])


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
