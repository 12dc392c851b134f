"""Processes that start at once: forked from one that has imported what takes each of them many seconds.

As a program it is that process. Its argument is the descriptor of a socket, on which each packet asks for a process:
JSON with `arguments` (what would follow `python`) and `environment`, and four descriptors: where its id and then its
exit code are reported, and its standard input, output and error.
"""

import contextlib
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import traceback
from typing import IO, Any, Self

_MODULES = (
    "mlflow.store.model_registry.sqlalchemy_store",
    "mlflow.store.tracking.sqlalchemy_store",
    "recsys_core.ranking.publish",
)
_PACKET_BYTES = 1 << 17


class Process:
    """A forked process; its streams are those that are asked for as `subprocess.PIPE`."""

    def __init__(self, report: socket.socket, stdin: IO[str] | None, stdout: IO[str] | None) -> None:
        """Wait until it has been forked."""
        self.stdin, self.stdout = stdin, stdout
        self.returncode: int | None = None
        self._report = report
        self.pid = int(report.recv(_PACKET_BYTES))

    def communicate(self, text: str = "") -> tuple[str, None]:
        """Give it `text` as the last of its input; return what it writes until it ends."""
        if self.stdin is not None:
            with contextlib.suppress(BrokenPipeError), self.stdin:
                self.stdin.write(text)
        output = ""
        if self.stdout is not None:
            with self.stdout:
                output = self.stdout.read()
        self.wait()
        return output, None

    def kill(self) -> None:
        """Kill it, and wait for its end."""
        os.kill(self.pid, signal.SIGKILL)
        self.wait()

    def wait(self) -> int:
        """Wait for its end; return its exit code, a negative one for a signal."""
        if self.returncode is None:
            with self._report:
                self.returncode = int(self._report.recv(_PACKET_BYTES))
        return self.returncode


class Server:
    """The process that forks, for as long as the context lasts."""

    def __enter__(self) -> Self:
        self._asking, asked = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with asked:
            command = [sys.executable, __file__, str(asked.fileno())]
            # What the processes do is measured where it is done by itself, and faster without.
            environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
            self._server = subprocess.Popen(command, pass_fds=[asked.fileno()], env=environment)
        return self

    def __exit__(self, *_: object) -> None:
        self._asking.close()
        self._server.wait()

    def start(
        self,
        arguments: list[str],
        *,
        stdin: int = subprocess.DEVNULL,
        stdout: int | None = None,
        stderr: int | None = None,
        env: dict[str, str] | None = None,
    ) -> Process:
        """Fork a process that does what `python ARGUMENTS` does; the streams are as those of `subprocess.Popen`."""
        report, reported = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        given, written = os.pipe() if stdin == subprocess.PIPE else (None, None)
        read, filled = os.pipe() if stdout == subprocess.PIPE else (None, None)
        nothing = os.open(os.devnull, os.O_RDONLY)
        theirs = [
            reported.fileno(),
            nothing if stdin == subprocess.DEVNULL else stdin if given is None else given,
            1 if stdout is None else stdout if filled is None else filled,
            2 if stderr is None else stderr,
        ]
        message = json.dumps({"arguments": arguments, "environment": dict(os.environ if env is None else env)})
        socket.send_fds(self._asking, [message.encode()], theirs)
        reported.close()
        for descriptor in {nothing, given, filled} - {None}:
            os.close(descriptor)
        return Process(
            report,
            None if written is None else os.fdopen(written, "w"),
            None if read is None else os.fdopen(read),
        )


def serve(asked: socket.socket) -> None:
    """Fork what is asked for until the socket is closed."""
    for module in _MODULES:
        importlib.import_module(module)
    ready = selectors.DefaultSelector()
    ready.register(asked, selectors.EVENT_READ)
    while True:
        for key, _ in ready.select():
            if key.data is not None:
                pid, report = key.data
                report.send(str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode())
                report.close()
                ready.unregister(key.fd)
                os.close(key.fd)
                continue
            message, descriptors, _, _ = socket.recv_fds(asked, _PACKET_BYTES, 4)
            if not message:
                return
            if not (pid := os.fork()):
                asked.close()
                ready.close()
                _be(descriptors[1:], **json.loads(message))
            for descriptor in descriptors[1:]:
                os.close(descriptor)
            report = socket.socket(fileno=descriptors[0])
            report.send(str(pid).encode())
            ready.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, report))


def _be(streams: list[int], arguments: list[str], environment: dict[str, str]) -> Any:
    """Do what `python ARGUMENTS` does, and end the process."""
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ |= environment
    option, what, *rest = arguments
    code = 1
    try:
        sys.argv = [option, *rest]
        if option == "-c":
            exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})
        else:
            assert option == "-m"
            runpy.run_module(what, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as done:
        code = done.code if isinstance(done.code, int) else int(done.code is not None)
    except BaseException:  # noqa: BLE001 - as an interpreter does
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
