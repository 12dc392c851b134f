"""A process that outlives the command that started it: it has imported what takes seconds, and forks what is asked.

It is found through a socket in a folder of the user's own (`folder`), whose name says what was imported, and under
which circumstances: code, environment, working directory, limits. A command with others gets a process of its own. What
a command asks for is a process with given arguments, environment and streams; the fork server itself has none of the
credentials among the variables. The connection stays open as long as both live: when the client dies, what was
forked is killed; when the fork server dies, what it has forked gets a signal. It ends when no command has used it for a
while, or is asked to.

Nothing depends on it: where it cannot be had, the caller starts what it needs itself.
"""

import contextlib
import fcntl
import math
import os
import resource
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psutil

from recsys_core.artifacts import digest_of
from recsys_core.launch.fork_server.packets import STOP, Asked, is_ours, is_readable, peer, received
from recsys_core.redaction import is_secret, redact

KEEP_SECONDS = "DAYLINE_KEEP_SECONDS"
_LOCK_SECONDS = 5.0
_POLL_SECONDS = 0.05
_STOP_SECONDS = 30.0
# What differs from one terminal to the next and is read by no import.
_OF_THE_TERMINAL = ("_", "COLUMNS", "LINES", "OLDPWD", "PWD", "SHLVL", "TERM", "WINDOWID")
# Libraries read these when they are imported: a process without the credentials among them would be another.
_READ_BY_IMPORTS = ("PREFECT_", "FSSPEC_")
_PACKAGES = ("flows", "tasks", "recsys_core")

_started: list[subprocess.Popen[bytes]] = []


class Forked:
    """A process that a fork server has forked, or will when it is ready: what `subprocess.Popen` is to one of our own.

    `is_lost` says that the fork server has died before it, and that it got a signal for that.
    """

    def __init__(self, connection: socket.socket, stdin: int | None = None) -> None:
        self.pid: int | None = None
        self.returncode: int | None = None
        self.is_lost = False
        self.stdin = None if stdin is None else os.fdopen(stdin, "wb")
        self._connection = connection
        self._pidfd: int | None = None

    def has_begun(self, timeout: float) -> bool:
        """Wait until it has been forked; return whether it was."""
        if self.pid is None and self.returncode is None and is_readable(self._connection, timeout):
            self._receive()
        return self.pid is not None

    def poll(self) -> int | None:
        """Return the exit code once it has ended; a negative one for a signal."""
        while self.returncode is None and is_readable(self._connection, 0):
            self._receive()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end.

        Raises:
            subprocess.TimeoutExpired: it lives on after `timeout` seconds.
        """
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        while self.returncode is None:
            left = None if timeout is None else max(deadline - time.monotonic(), 0)
            if not is_readable(self._connection, left):
                raise subprocess.TimeoutExpired("forked process", timeout or 0)
            self._receive()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, if it lives; one that has not been forked yet will not be."""
        if self.poll() is None and self.pid is None:
            self._end(-number)
        elif self.returncode is None and self._pidfd is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)

    def _receive(self) -> None:
        said = received(self._connection)
        if said is None:
            self.is_lost = True
            self._end(-signal.SIGKILL)
        elif "pid" in said:
            self.pid = said["pid"]
            with contextlib.suppress(ProcessLookupError):  # it has ended by now, and its exit code is on the way
                self._pidfd = os.pidfd_open(said["pid"])
        elif "message" in said:
            sys.stderr.write(f"{said['message']}\n")
        else:
            self._end(said["code"])

    def _end(self, code: int) -> None:
        self.returncode = code
        self._connection.close()
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None


def keep_seconds() -> float:
    """Return how long a fork server is kept after it was used last, by the environment; 0: none is used.

    Raises:
        ValueError: the variable is no such number.
    """
    value = os.environ.get(KEEP_SECONDS, "0")
    try:
        seconds = float(value)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < math.inf:
        raise ValueError(f"{KEEP_SECONDS}={value!r}: not a number of seconds; 0 keeps no process")
    return seconds


def folder() -> Path:
    """Return where the sockets of this user's fork servers are."""
    caches = os.environ.get("XDG_CACHE_HOME")
    return (Path(caches) if caches else Path.home() / ".cache") / "dayline" / "kept"


def fork(
    what: str,
    command: Sequence[str],
    arguments: Sequence[str],
    environment: Mapping[str, str],
    streams: Sequence[int],
    stdin: int | None = None,
) -> Forked | None:
    """Let the fork server `what` fork a process as soon as it is ready, and start that server if it is not there.

    The server runs `python COMMAND`, followed by the descriptor and the file of its socket. `streams` are descriptors
    for the process's standard input, output and error, `stdin` the other end of the first, if that is a pipe. Returns
    None where no process can be kept: the caller starts its own.

    Raises:
        ValueError: the folder of the sockets is open to others.
    """
    lasting = _lasting(environment)
    connection = None if lasting is None else _connection(what, command, lasting)
    if connection is None:
        return None
    asked = Asked(arguments=[*arguments], variables={**environment}, directory=str(Path.cwd()), niceness=os.nice(0))
    try:
        socket.send_fds(connection, [asked.model_dump_json().encode()], streams)
    except OSError:  # its end, or more variables than a packet holds
        connection.close()
        return None
    return Forked(connection, stdin)


def start(what: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
    """Start the fork server `what` if it is not there, and do not wait for it."""
    lasting = _lasting(environment)
    if lasting is not None and (connection := _connection(what, command, lasting)) is not None:
        connection.close()


def is_there(what: str, command: Sequence[str], environment: Mapping[str, str]) -> bool:
    """Whether the fork server `what` runs."""
    lasting = _lasting(environment)
    if lasting is None:
        return False
    try:
        _connected(folder() / _name(what, command, lasting)).close()
    except OSError:
        return False
    return True


def stop() -> list[int]:
    """Let all fork servers end, those that are in use as soon as they are not; one that does not answer is killed.

    Returns the processes that use them still.
    """
    using: list[int] = []
    for path in sorted(folder().glob("*.sock")):
        try:
            connection = _connected(path)
        except OSError:
            path.unlink(missing_ok=True)  # what a killed one has left
            continue
        with connection:
            connection.send(STOP)
            said = received(connection) if is_readable(connection, _STOP_SECONDS) else {"pids": []}
            used = said["pids"] if said is not None else []
            using += used
            if not used and not is_readable(connection, _STOP_SECONDS):
                _kill(peer(connection)[0], path)
    return using


def _kill(process: int, path: Path) -> None:
    """Kill a fork server, and nothing that has its number by now."""
    with contextlib.suppress(psutil.NoSuchProcess):
        found = psutil.Process(process)
        if str(path) in found.cmdline():
            found.kill()
    path.unlink(missing_ok=True)


def _lasting(environment: Mapping[str, str]) -> dict[str, str] | None:
    """Return `environment` without credentials, which no kept process has; None where an import would need one."""
    secret = {name for name, value in environment.items() if is_secret(name) or redact(value) != value}
    if not keep_seconds() or any(name.startswith(_READ_BY_IMPORTS) for name in secret):
        return None
    return {name: value for name, value in environment.items() if name not in secret}


def _name(what: str, command: Sequence[str], environment: Mapping[str, str]) -> str:
    return f"{what}-{digest_of([command, *_circumstances(environment)])[:16]}.sock"


def _circumstances(environment: Mapping[str, str]) -> Iterator[object]:
    """Yield all that a process has from its starter, but what differs from one terminal to the next."""
    yield sys.executable, keep_seconds(), str(Path.cwd())
    yield sorted((name, value) for name, value in environment.items() if name not in _OF_THE_TERMINAL)
    root = Path(__file__).parents[2]
    files = [file for package in _PACKAGES for file in sorted((root / package).rglob("*.py"))]
    # Packages that are installed change the folder.
    for path in (Path(sysconfig.get_path("purelib")), *files):
        found = path.stat()
        yield str(path), found.st_mtime_ns, found.st_size
    yield os.getresuid(), os.getresgid(), sorted(os.getgroups()), sorted(os.sched_getaffinity(0))
    yield [resource.getrlimit(number) for number in range(resource.RLIMIT_NICE)]
    yield [str(path.readlink()) for path in sorted(Path("/proc/self/ns").iterdir())]
    yield Path("/proc/self/cgroup").read_text()
    # A process that was started with signals ignored, by nohup for one, hands that on.
    yield [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(("Umask", "SigIgn"))]


def _connection(what: str, command: Sequence[str], environment: Mapping[str, str]) -> socket.socket | None:
    """Connect to the fork server, which is started where nothing answers; None where that cannot be."""
    place, name = folder(), _name(what, command, environment)
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    if place.stat().st_uid != os.geteuid() or place.stat().st_mode & 0o077:
        raise ValueError(f"{place}: is open to others; chmod 700 it, or set {KEEP_SECONDS}=0 to keep no process")
    with (place / "lock").open("a") as lock:
        if not _locked(lock.fileno()):
            return None
        path = place / name
        with contextlib.suppress(OSError):
            return _connected(path)
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
            try:
                with _short(path) as short:
                    listening.bind(short)
                path.chmod(0o600)
                listening.listen()
                _start(what, command, environment, path, listening)
                return _connected(path)
            except OSError:
                return None  # a file system without sockets


def _start(
    what: str, command: Sequence[str], environment: Mapping[str, str], path: Path, listening: socket.socket
) -> None:
    # One of a kind is enough: what was kept for other code or another environment takes up memory.
    for other in path.parent.glob(f"{what}-*.sock"):
        if other != path:
            with contextlib.suppress(OSError), _connected(other) as connection:
                connection.send(STOP)
    descriptor = listening.fileno()
    with path.with_suffix(".log").open("w") as log:
        starting = subprocess.Popen(
            [sys.executable, *command, "--listening", str(descriptor), "--path", str(path)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**environment, KEEP_SECONDS: f"{keep_seconds():g}"},
            pass_fds=[descriptor],
            start_new_session=True,
        )
    # It is not waited for: it stays.
    _started.append(starting)


def _connected(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        with _short(path) as short:
            connection.connect(short)
        if not is_ours(connection):
            raise PermissionError(f"{path}: another user's")
    except OSError:
        connection.close()
        raise
    return connection


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    """Yield a name of `path` that is no longer than the address of a socket may be."""
    folder_descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder_descriptor}/{path.name}"
    finally:
        os.close(folder_descriptor)


def _locked(descriptor: int) -> bool:
    deadline = time.monotonic() + _LOCK_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(_POLL_SECONDS)
    return False
