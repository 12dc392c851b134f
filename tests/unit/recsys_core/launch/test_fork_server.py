"""A real process that outlives who starts it, forks what is asked for, and ends: by itself, by request, or killed."""

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from obeying import Note, parents_of, request

from recsys_core import launch
from recsys_core.launch import fork_server
from recsys_core.progress import silent

# The fork server, and what it forks: a process that says who and where it is, and then does what its arguments say.
_PROGRAM = """
import os, pathlib, signal, sys, time
from recsys_core.launch.fork_server import keep_seconds
from recsys_core.launch.fork_server.server import ForkServer

server = ForkServer(int(sys.argv[2]), pathlib.Path(sys.argv[4]), keep_seconds(), signal.SIGTERM)
if server.serve() is None:
    sys.exit()
print(os.getppid(), os.getcwd(), os.environ.get("SECRET_KEY"), os.environ.get("TERM"), flush=True)
does, = sys.argv
if does == "sleep":
    time.sleep(600)
if does == "die":
    os.kill(os.getpid(), signal.SIGUSR1)
sys.exit(int(does))
"""
_SHORT = 0.2
Fork = Callable[..., tuple[fork_server.Forked, list[str]]]


@pytest.fixture(autouse=True)
def _kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv(fork_server.KEEP_SECONDS, "600")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield
    fork_server.stop()


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program.py"
    path.write_text(_PROGRAM)
    return path


@pytest.fixture
def fork(program: Path) -> Fork:
    """Let a process be forked; return it and the words that it says: its parent, its folder, a credential, TERM."""

    def fork(does: str, **variables: str) -> tuple[fork_server.Forked, list[str]]:
        read, written = os.pipe()
        with os.fdopen(read) as output, Path(os.devnull).open() as nothing:
            streams = (nothing.fileno(), written, 2)
            forked = fork_server.fork("test", (str(program),), [does], os.environ | variables, streams)
            os.close(written)
            assert forked is not None
            assert forked.has_begun(600)
            return forked, output.readline().split()

    return fork


def test_one_process_forks_for_one_command_after_another(
    fork: Fork, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    first, (server, place, secret, _) = fork("3", SECRET_KEY="s3cret")
    second, other = fork("die", TERM="dumb")
    assert (first.wait(), second.wait()) == (3, -signal.SIGUSR1)
    assert (place, secret) == (str(tmp_path), "s3cret")
    assert other == [server, place, "None", "dumb"]
    kept = psutil.Process(int(server))
    assert "SECRET_KEY" not in kept.environ()
    assert b"s3cret" not in b"".join(file.read_bytes() for file in fork_server.folder().iterdir() if file.is_file())
    assert {path.stat().st_mode & 0o077 for path in fork_server.folder().glob("*.sock")} == {0}
    assert fork_server.stop() == []
    kept.wait(600)
    assert [file.name for file in fork_server.folder().iterdir()] == ["lock"]


def test_another_environment_has_another_one_and_the_first_ends_when_it_is_not_used(fork: Fork) -> None:
    used, (server, *_) = fork("sleep")
    _, (other, *_) = fork("0", OMP_NUM_THREADS="7")
    assert other != server
    _, (again, *_) = fork("0", OMP_NUM_THREADS="7")
    assert again == other
    assert used.poll() is None
    used.kill()
    assert used.wait() == -signal.SIGKILL
    psutil.Process(int(server)).wait(600)


def test_one_that_is_in_use_ends_afterwards(fork: Fork) -> None:
    used, (server, *_) = fork("sleep")
    assert fork_server.stop() == [used.pid]
    with pytest.raises(subprocess.TimeoutExpired):
        used.wait(0)
    used.send_signal(signal.SIGTERM)
    assert used.wait() == -signal.SIGTERM
    psutil.Process(int(server)).wait(600)


def test_one_that_is_not_used_ends(fork: Fork, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(fork_server.KEEP_SECONDS, str(_SHORT))
    _, (server, *_) = fork("0")
    psutil.wait_procs([psutil.Process(int(server))] if psutil.pid_exists(int(server)) else [], timeout=600)
    assert not [*fork_server.folder().glob("*.sock")]


def test_what_was_forked_ends_with_who_asked_and_with_the_server_and_another_is_started(fork: Fork) -> None:
    asking = os.fork()
    if not asking:
        forked, _ = fork("sleep")
        os.kill(os.getpid(), signal.SIGKILL if forked.poll() is None else signal.SIGABRT)
    assert os.waitpid(asking, 0)[1] == signal.SIGKILL
    used, (server, *_) = fork("sleep")
    kept = psutil.Process(int(server))
    psutil.wait_procs([one for one in kept.children() if one.pid != used.pid], timeout=600)
    assert [one.pid for one in kept.children()] == [used.pid]
    assert used.pid is not None
    orphan = psutil.Process(used.pid)
    kept.kill()
    orphan.wait(600)
    assert (used.wait(), used.is_lost) == (-signal.SIGKILL, True)
    # Its socket's file is there still.
    assert len([*fork_server.folder().glob("*.sock")]) == 1
    _, (other, *_) = fork("0")
    assert other != server


def test_commands_that_begin_at_once_start_one(fork: Fork) -> None:
    servers: list[str] = []
    threads = [threading.Thread(target=lambda: servers.append(fork("0")[1][0])) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(servers) == 4
    assert len(set(servers)) == 1


def test_none_is_kept_where_it_may_not_be(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fork(**variables: str) -> fork_server.Forked | None:
        return fork_server.fork("test", (str(program),), ["0"], os.environ | variables, (0, 1, 2))

    # A library that reads a credential when it is imported.
    assert fork(FSSPEC_S3_SECRET="s3cret") is None
    monkeypatch.setenv(fork_server.KEEP_SECONDS, "0")
    assert fork() is None
    assert not fork_server.folder().exists()
    monkeypatch.setenv(fork_server.KEEP_SECONDS, "ten minutes")
    with pytest.raises(ValueError, match="DAYLINE_KEEP_SECONDS='ten minutes': not a number of seconds"):
        fork()
    monkeypatch.setenv(fork_server.KEEP_SECONDS, "1")
    fork_server.folder().mkdir(parents=True)
    fork_server.folder().chmod(0o755)
    with pytest.raises(
        ValueError, match=r"dayline/kept: is open to others; chmod 700 it, or set DAYLINE_KEEP_SECONDS=0"
    ):
        fork()


def test_one_that_does_not_start_forks_nothing(tmp_path: Path) -> None:
    forked = fork_server.fork("test", ("-c", "import nothing_of_the_kind"), ["0"], os.environ, (0, 1, 2))
    assert forked is not None
    assert not forked.has_begun(600)
    assert forked.poll() == -signal.SIGKILL
    assert "nothing_of_the_kind" in next(fork_server.folder().glob("*.log")).read_text()


def test_the_ranks_of_several_commands_are_forked_by_one_process(stage: Path) -> None:
    config, places = launch.Local(), [stage.with_name(name) for name in ("first", "second")]
    forkers, ranks = [], []
    for place in places:
        with launch.keeping():
            launch.run("note", Note, request(place, "write"), silent, config)
            ranks += [psutil.Process(int(one)) for one in parents_of(place)]
            forkers += [one.ppid() for one in ranks[-1:]]
            with pytest.raises(RuntimeError, match="lost"):
                launch.run("note", Note, request(place, "fail"), silent, config)
        assert not any(one.is_running() for one in ranks)
    assert forkers[0] == forkers[1] != os.getpid()
    assert psutil.pid_exists(forkers[0])
