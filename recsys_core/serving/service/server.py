"""Runs the service: the sockets, the release that is loaded first, those that follow, and a clean end."""

import asyncio
import contextlib
import functools
import logging
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import uvicorn

from recsys_core import fault
from recsys_core.redaction import redact
from recsys_core.serving.service import live
from recsys_core.serving.service.app import Application
from recsys_core.serving.service.batching import Batcher
from recsys_core.serving.service.limits import Limits
from recsys_core.serving.service.live import Live, Served
from recsys_core.serving.service.metrics import Metrics
from recsys_core.serving.service.protocol import limited
from recsys_core.serving.service.recorder import Options, Recorder
from recsys_core.serving.service.sources import Fetched, Folder, Registered, of_folder
from recsys_core.serving.service.watch import Watched, Watcher

# A thread that loads a release hands the interpreter on this often, so that requests do not wait for it for long.
_SWITCH_SECONDS = 0.0005
_KEEP_ALIVE_SECONDS = 65  # longer than what load balancers keep a connection for


class Service:
    """One service. `log` gets a line for each thing that the person on call wants to see."""

    def __init__(
        self,
        sources: dict[str, Registered | Folder],
        watched: Watched | None,
        limits: Limits,
        token: bytes | None,
        log: Callable[[str], None],
        logged: Options | None = None,
        warm_up: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """`sources` by place: `release`, `rank_release`; `watched` says where those that are registered are.

        `logged`: what is kept of requests; `warm_up`: rows of such a log, which a release answers before it goes live.
        """
        self._sources, self._limits, self._log = sources, limits, log
        self._watcher = None if watched is None else Watcher(watched)
        self.metrics = Metrics()
        self.live = Live(limits, [*sources], warm_up)
        self._batcher = Batcher(limits, self.metrics.batch)
        self._recorder = None if logged is None else Recorder(logged)
        self.application = Application(self.live, self._batcher, limits, self.metrics, token, self._recorder)
        self._failed: str | None = None
        # Releases that were refused: each may go with one of another place that is still to come.
        self._apart: dict[str, Fetched] = {}
        self._stop: Callable[[], Any] = lambda: None

    def run(self, sockets: list[socket.socket]) -> None:
        """Serve on bound sockets until SIGTERM or SIGINT, then answer what was taken in.

        Raises:
            ValueError: the first release cannot be served.
        """
        import torch

        # Requests of one row gain nothing from more, and FAISS has an OpenMP of its own.
        torch.set_num_threads(1)
        sys.setswitchinterval(_SWITCH_SECONDS)
        asyncio.run(self._run(sockets))
        if self._failed is not None:
            raise ValueError(self._failed)

    async def _run(self, sockets: list[socket.socket]) -> None:
        loop = asyncio.get_running_loop()
        config = uvicorn.Config(
            self.application.asgi,
            http=limited(self._limits),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=self._limits.drain_seconds,
        )
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        server = _Server(config)

        def stop() -> None:
            server.should_exit = True
            if not self.application.is_draining:
                self.application.is_draining = True
                if self._failed is None:
                    self._log("ending: what was taken in is answered")

        self._stop = functools.partial(loop.call_soon_threadsafe, stop)
        for number in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(ValueError, RuntimeError):  # not in a thread, as of a test
                loop.add_signal_handler(number, stop)
        self._batcher.start(loop)
        following = threading.Thread(target=self._follow, name="releases", daemon=True)
        following.start()
        try:
            await server.serve(sockets)
        finally:
            if self._watcher is not None:
                self._watcher.close()
            await asyncio.to_thread(self._batcher.close)
            if self._recorder is not None:
                await asyncio.to_thread(self._recorder.close)

    def stop(self) -> None:
        """Ask it to end, from any thread."""
        with contextlib.suppress(RuntimeError):  # it has ended
            self._stop()

    def _follow(self) -> None:
        """Load what is to be served first, and what comes after it."""
        try:
            for place, source in self._sources.items():
                if isinstance(source, Folder):
                    self.take(place, of_folder(source))
            for line in self._watcher.lines(self._ended) if self._watcher is not None else ():
                if line.release is not None:
                    self.take(line.place, line.release)
                else:
                    self._refuse(line.place, line.error or "")
        except Exception as error:  # noqa: BLE001 - of a thread; what is served goes on
            self._refuse(live.RELEASE, fault.write(error, fault.temporary_file()))

    def take(self, place: str, release: Fetched) -> None:
        """Serve a release from now on, with one of another place that did not go with what was there before."""
        if self.live.holds(place, release):
            self._apart.pop(place, None)
            self.application.refuse(place, None)
            return
        before = self.live.current
        tries = [{place: release}]
        if others := {other: one for other, one in self._apart.items() if other != place}:
            tries.append({**others, place: release})
        message = ""
        for releases in tries:
            try:
                served = self.live.put(releases)
            except ValueError as error:
                message = message or str(error)
                continue
            except Exception as error:  # noqa: BLE001 - of what was served all goes on
                message = message or f"{release.tag}: {fault.write(error, fault.temporary_file())}"
                continue
            for taken in releases:
                self._apart.pop(taken, None)
                self.application.refuse(taken, None)
            if served is not None:
                self._say(served, before)
            return
        self._apart[place] = release
        self._refuse(place, message)

    def _say(self, served: Served, before: Served | None) -> None:
        loaded = {"retrieval": served.retrieval, "ranking": served.ranking}
        self.metrics.swapped({name: one.release[:2] for name, one in loaded.items() if one is not None})
        self._log(f"serving {served.tag}" + (f", which replaces {before.tag}" if before else ""))

    def _refuse(self, place: str, error: str) -> None:
        message = redact(error)
        if self.live.current is None:
            self._failed = message
            self.stop()
            return
        self.metrics.refused()
        self.application.refuse(place, message)
        self._log(f"{self.live.current.tag} stays: {message}")

    def _ended(self, exit_code: int) -> None:
        self._log(f"what watches the registry ended with code {exit_code}, and is started again")


class _Server(uvicorn.Server):
    """Leaves the signals to the service, whose end by one of them is no failure."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        yield


def bound(host: str, port: int) -> list[socket.socket]:
    """Return a socket bound to an address.

    Raises:
        OSError: it is taken, or none of this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, port))
    except OSError as error:
        made.close()
        raise OSError(error.errno, error.strerror, f"{host}:{port}") from None
    return [made]
