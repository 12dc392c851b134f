"""The process that forks."""

import contextlib
import ctypes
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from recsys_core.launch.fork_server.packets import PACKET_BYTES, STOP, Asked, is_ours, is_readable, say

_TICK_SECONDS = 1.0
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG


class ForkServer:
    """The process itself: it waits, forks, and reports how each forked process has ended."""

    def __init__(self, listening: int, path: Path, idle_seconds: float, ends_with: signal.Signals) -> None:
        """Take the socket that the starter listens at; `ends_with` is what forked processes get if this one dies."""
        self._listening = socket.socket(fileno=listening)
        # From now on it is this process that the other end sees.
        self._listening.listen()
        self._path, self._ends_with = path, ends_with
        self._idle_seconds = idle_seconds
        self._own = path.stat().st_ino
        self._ready = selectors.DefaultSelector()
        self._ready.register(self._listening, selectors.EVENT_READ)
        self._waiting: set[socket.socket] = set()  # have asked for nothing yet
        self._forked: dict[socket.socket, int] = {}
        self._awaiting_end: list[socket.socket] = []
        self._stopping = False

    def serve(self, mind: Callable[[], str | None] = lambda: None) -> Asked | None:
        """Fork until it has been idle for long; return None then, and in each forked process what that is to be.

        `mind` is called about every second; what it returns is shown by the commands that use the server.
        """
        used = time.monotonic()
        while True:
            for key, _ in self._ready.select(_TICK_SECONDS):
                if key.fileobj is self._listening:
                    self._accept()
                elif key.data is not None:
                    self._reap(key.fd, key.data)
                elif (asked := self._receive(key.fileobj)) is not None:  # pyright: ignore[reportArgumentType]
                    return asked
            if (message := mind()) is not None:
                self.emit(message)
            if self._forked or self._waiting:
                used = time.monotonic()
            elif self._stopping or not self._is_found() or time.monotonic() - used > self._idle_seconds:
                self._hide()
                if not is_readable(self._listening, 0):
                    return None
                self._stopping = True

    def emit(self, message: str) -> None:
        """Let the commands that use it show a message."""
        for connection in self._forked:
            say(connection, {"message": message})

    def _is_found(self) -> bool:
        return self._path.exists() and self._path.stat().st_ino == self._own

    def _hide(self) -> None:
        if self._is_found():
            self._path.unlink()
            self._path.with_suffix(".log").unlink(missing_ok=True)

    def _accept(self) -> None:
        connection, _ = self._listening.accept()
        if not is_ours(connection):
            connection.close()
            return
        self._waiting.add(connection)
        self._ready.register(connection, selectors.EVENT_READ)

    def _receive(self, connection: socket.socket) -> Asked | None:
        """Take what a connection brings: a process to fork (returned in it), the request to stop, or its end."""
        try:
            packet, streams, _, _ = socket.recv_fds(connection, PACKET_BYTES, 3)
        except ConnectionError:
            packet, streams = b"", []
        if not packet or packet == STOP:
            if connection in self._forked:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._forked[connection], signal.SIGKILL)
                self._ready.unregister(connection)
            elif packet:
                self._stopping = True
                self._hide()
                say(connection, {"pids": [*self._forked.values()]})
                self._ready.unregister(connection)
                self._waiting.discard(connection)
                self._awaiting_end.append(connection)
            else:
                self._let_go(connection)
            return None
        if is_readable(connection, 0):
            # There is no more to ask: it was gone before this process was ready.
            self._let_go(connection)
            return None
        own = os.getpid()
        if not (pid := os.fork()):
            self._close()
            # Not before: there are credentials in it.
            asked = Asked.model_validate_json(packet)
            _become(asked, streams, own, self._ends_with)
            return asked
        for stream in streams:
            os.close(stream)
        self._waiting.discard(connection)
        self._forked[connection] = pid
        say(connection, {"pid": pid})
        self._ready.register(os.pidfd_open(pid), selectors.EVENT_READ, connection)
        return None

    def _reap(self, pidfd: int, connection: socket.socket) -> None:
        _, status = os.waitpid(self._forked.pop(connection), 0)
        say(connection, {"code": os.waitstatus_to_exitcode(status)})
        self._ready.unregister(pidfd)
        os.close(pidfd)
        self._let_go(connection)

    def _let_go(self, connection: socket.socket) -> None:
        with contextlib.suppress(KeyError):  # a client that is gone was unregistered before
            self._ready.unregister(connection)
        self._waiting.discard(connection)
        connection.close()

    def _close(self) -> None:
        """Close, in a forked process, what is the server's."""
        for key in [*self._ready.get_map().values()]:
            if key.data is not None:
                os.close(key.fd)
        for connection in (*self._waiting, *self._forked, *self._awaiting_end, self._listening):
            connection.close()
        self._ready.close()


def _become(asked: Asked, streams: Sequence[int], parent: int, ends_with: signal.Signals) -> None:
    """Make the process what it would be if the client had started it."""
    os.setsid()
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, ends_with)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdout.reconfigure(line_buffering=os.isatty(1))  # pyright: ignore[reportAttributeAccessIssue]
    os.environ.clear()
    os.environ |= asked.variables
    os.chdir(asked.directory)
    with contextlib.suppress(PermissionError):  # to be quicker than the fork server
        os.setpriority(os.PRIO_PROCESS, 0, asked.niceness)
    sys.argv = asked.arguments
