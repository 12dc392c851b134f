"""Processes that fork the ranks of one stage after another, so that torch is imported once and not by every stage.

They are started before they are needed, below torchrun as ranks are, and import while other stages run. What a stage is
asked reaches them through a socket that has no file: a request is a line of JSON, and each process answers it with one
byte once its rank has ended well. Whatever else happens to a stage ends them as it ends the ranks of a stage by itself,
with the same exit code, and the next stage gets others. What they write before their first stage, and what torchrun
writes, is added to the log of the stage that is at it.
"""

import contextlib
import os
import secrets
import selectors
import socket
import struct
import subprocess
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path

from recsys_core.artifacts import Frozen
from recsys_core.launch import fork_server, processes
from recsys_core.launch.config import Config

# The stages that share ranks. Those of `search` import no torch, which does not go with faiss in one process.
GROUPS: dict[str, tuple[str, ...]] = {
    "retrieval": ("train", "evaluate", "export", "embed", "replay", "check_bundle"),
    "ranking": ("rank_train", "rank_evaluate", "rank_export", "rank_predict", "rank_replay", "rank_check_bundle"),
    "search": ("index", "hitrate"),
}
COMMAND = "stages"
FORK = "fork"
_GPUS = (Path("/dev/nvidiactl"), Path("/dev/kfd"), Path("/dev/dxg"))  # of NVIDIA, AMD, and either below Windows
DONE = b"."
_CREDENTIALS = struct.Struct("3i")  # process, user and group of a socket's other end


class Asked(Frozen):
    """What a rank is asked to do; of the environment, the variables that are another's for this stage (None: none)."""

    stage: str
    request: str
    events: str
    log: str
    variables: dict[str, str | None]


class KeptRanks:
    """The processes of one group of stages: what `processes.Ranks` are to one, for as long as each stage ends well."""

    is_queued = False

    def __init__(self, config: Config, group: str) -> None:
        """Start them; they are ready when all of them are connected."""
        self._num_ranks = config.num_ranks
        self._environment = processes.environment(config)
        self._listener = socket.socket(socket.AF_UNIX)
        name = f"dayline-{secrets.token_hex(16)}"
        self._listener.bind(f"\0{name}")
        self._listener.listen()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._output = os.memfd_create("output")
        command = ["-m", processes.MODULE, COMMAND, group, "--socket", name, "--watch-stdin"]
        starter = processes.starter(config)
        forking = None if starter else _forking(group)
        self._processes = processes.Ranks([*starter, *command], self._environment, self._output, forking)
        self._connections: list[socket.socket] = []
        self._lost = False
        self._asked: bytes | None = None
        self._log = Path()
        self._num_done = self._num_copied = 0

    @property
    def is_usable(self) -> bool:
        """Whether they can take a stage now, or will when they are ready."""
        assert self._asked is None, "a stage at a time"
        if not self._lost:
            self._receive()
        return not self._lost and self._processes.poll() is None

    def ask(self, stage: str, request: Path, events: Path, log: Path, environment: Mapping[str, str]) -> None:
        """Let them do a stage; those that are not ready yet begin it when they are."""
        names = environment.keys() | self._environment.keys()
        changed = {one: environment.get(one) for one in names if environment.get(one) != self._environment.get(one)}
        asked = Asked(stage=stage, request=str(request), events=str(events), log=str(log), variables=changed)
        self._asked, self._log, self._num_done = asked.model_dump_json().encode() + b"\n", log, 0
        for connection in self._connections:
            self._send(connection)

    def poll(self) -> int | None:
        """Return 0 once all ranks have done the stage, or the exit code with which they ended instead."""
        exit_code = self._processes.poll()
        self._receive()
        self._copy_output()
        return 0 if self._is_done else exit_code

    def wait(self, seconds: float) -> None:
        """Wait before `poll` is worth a call again."""
        self._selector.select(seconds)

    def stop(self, grace_seconds: float) -> None:
        """End the stage that they are at, and themselves with it. Does nothing after a stage that has ended well."""
        if self._is_done:
            self._asked = None
            return
        self._processes.stop(grace_seconds)
        self._copy_output()
        self._lost, self._asked = True, None

    def hang_up(self) -> None:
        """Let them go: a rank that waits for the next stage ends."""
        for one in (*self._connections, self._listener):
            one.close()
        self._selector.close()

    def close(self) -> None:
        """Wait for the end of those that were let go; those that are not ready yet have nothing to lose."""
        if len(self._connections) == self._num_ranks:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._processes.process.wait(processes.GRACE_SECONDS)
        self._processes.stop(processes.GRACE_SECONDS)
        os.close(self._output)

    @property
    def _is_done(self) -> bool:
        return self._num_done == self._num_ranks

    def _receive(self) -> None:
        for key, _ in self._selector.select(0):
            if key.fileobj is self._listener:
                self._accept()
                continue
            connection = key.fileobj
            assert isinstance(connection, socket.socket)
            answer = _received(connection)
            self._num_done += answer == DONE
            if not answer:
                self._lost = True
                self._selector.unregister(connection)

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        # The socket has no file whose owner could be asked, and requests come with credentials.
        if _CREDENTIALS.unpack(found)[1] != os.geteuid():
            connection.close()
            return
        self._connections.append(connection)
        self._selector.register(connection, selectors.EVENT_READ)
        self._send(connection)

    def _send(self, connection: socket.socket) -> None:
        if self._asked is not None:
            # What became of a rank that is gone is seen by its process.
            with contextlib.suppress(ConnectionError):
                connection.sendall(self._asked)

    def _copy_output(self) -> None:
        written = os.pread(self._output, os.fstat(self._output).st_size, self._num_copied)
        if written:
            self._num_copied += len(written)
            with self._log.open("ab") as log:
                log.write(written)


_kept: ContextVar[dict[tuple[Config, str], KeptRanks] | None] = ContextVar("kept", default=None)


@contextlib.contextmanager
def keeping() -> Iterator[None]:
    """Inside, processes whose ranks have ended a stage well take the next; they end with the outermost such context."""
    if _kept.get() is not None:
        yield
        return
    kept: dict[tuple[Config, str], KeptRanks] = {}
    token = _kept.set(kept)
    try:
        yield
    finally:
        _kept.reset(token)
        for ranks in kept.values():
            ranks.hang_up()
        for ranks in kept.values():
            ranks.close()


def prepare(config: Config, group: str) -> None:
    """Start what forks the only rank of a group of stages at once, to be kept for the next commands as well."""
    if fork_server.keep_seconds() and not _has_gpu():
        fork_server.start(group, _forking(group), processes.environment(config))


def begin(config: Config, group: str) -> None:
    """Start the ranks of a group of stages in the background, where ranks are kept and these are not there yet."""
    _ranks(config, group)


def ranks_for(stage: str, config: Config) -> KeptRanks | None:
    """Return the ranks that do `stage` among others; None where it is done by ranks of its own."""
    group = next((name for name, stages in GROUPS.items() if stage in stages), None)
    return _ranks(config, group) if group else None


def _ranks(config: Config, group: str) -> KeptRanks | None:
    kept = _kept.get()
    # Other nodes' ranks are started by hand for each stage, and torchrun restarts ranks with their stage's command. A
    # GPU cannot be used after a fork once a library has looked for one, as those do that are imported.
    if kept is None or config.kind != "local" or config.num_nodes > 1 or config.max_restarts or _has_gpu():
        return None
    # How long a stage may take is no matter of the processes.
    which = (config.model_copy(update={"stage_timeout_seconds": None}), group)
    found = kept.get(which)
    if found is not None and not found.is_usable:
        del kept[which]
        found.hang_up()
        found.close()
        found = None
    if found is None:
        found = kept[which] = KeptRanks(config, group)
    return found


def _has_gpu() -> bool:
    return any(map(Path.exists, _GPUS))


def _forking(group: str) -> list[str]:
    return ["-m", processes.MODULE, FORK, group]


def _received(connection: socket.socket) -> bytes:
    try:
        return connection.recv(1)
    except ConnectionError:
        return b""
