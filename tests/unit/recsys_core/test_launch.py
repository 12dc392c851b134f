"""Real processes under a real torchrun; the stage itself is a few lines that do what each test asks."""

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar, Literal

import psutil
import pytest

from recsys_core import artifacts, launch
from recsys_core.artifacts import Artifact
from recsys_core.fault import Fault
from recsys_core.progress import Event, silent

# What `python -m recsys_core` is to the launcher, with a stage that obeys its request.
_STAGE = """
import os, pathlib, signal, sys, time
from recsys_core import __main__ as main, progress
from test_launch_stage import Note, Request
from recsys_core.artifacts import pending

def run(request, sink):
    rank = os.environ.get("RANK", "0")
    (request.output.parent / f"pid-{rank}").write_text(str(os.getpid()))
    # No launcher has set the threads of another node's single rank.
    sink(progress.Event(stage="note", done=1, total=2, message=os.environ.get("OMP_NUM_THREADS", "")))
    if rank == "0":
        (request.output.parent / "secrets").write_text(" ".join(sorted(n for n in os.environ if n.startswith("TRY_"))))
    starts = request.output.parent / f"starts-{rank}"
    with starts.open("a") as file:
        file.write(".")
    if request.does == "refuse":
        raise ValueError("column 'x' is missing; add it")
    if request.does == "crash":
        raise KeyError("bug")
    if request.does == "fail":
        raise RuntimeError("lost")
    if request.does == "die once" and starts.read_text() == ".":
        # The last rank is killed, as for want of memory, while the others, which have all begun, wait for it.
        ranks = range(int(os.environ["WORLD_SIZE"]))
        if rank == str(ranks[-1]):
            begun = [request.output.parent / f"starts-{other}" for other in ranks]
            while not all(path.exists() and path.read_text() for path in begun):
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(600)
    if request.does == "sleep":
        if request.deaf:
            os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(600)
    if rank == "0":
        with pending(request.output) as work:
            (work.path / "note.txt").write_text("done")
            work.commit(Note, request, num_rows=1, world_size=int(os.environ.get("WORLD_SIZE", "1")))

sys.modules["recsys_core.note"] = sys.modules[__name__]
main.STAGES["note"] = "note"
if __name__ == "__main__":
    sys.exit(main.main())
"""


class Note(Artifact):
    """What the stage leaves."""

    stage: ClassVar[str] = "note"
    world_size: int


class Request(artifacts.Request):
    """What the stage is to do."""

    does: Literal["write", "refuse", "crash", "fail", "sleep", "die once"]
    deaf: bool = False


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put the stage's module where the started processes find it; return an empty run directory."""
    code = tmp_path / "code"
    code.mkdir()
    (code / "stand_in_stage.py").write_text(_STAGE)
    (code / "test_launch_stage.py").symlink_to(__file__)
    monkeypatch.setenv("PYTHONPATH", f"{code}{os.pathsep}{Path.cwd()}")
    monkeypatch.setattr(launch, "_MODULE", "stand_in_stage")
    return tmp_path / "run"


def request(directory: Path, does: str, *, deaf: bool = False) -> Request:
    """Ask the stage to do something."""
    fields = {"output": directory / "note", "config_hash": "c", "code_version": "v", "does": does, "deaf": deaf}
    return Request.model_validate(fields)


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_it_returns_the_artifact_and_forwards_events(
    stage: Path, monkeypatch: pytest.MonkeyPatch, num_ranks: int
) -> None:
    events: list[Event] = []
    config = launch.Config(num_ranks=num_ranks, threads_per_rank=3)
    for name in ("TRY_PASSWORD", "TRY_TOKEN", "TRY_ADDRESS", "TRY_PLAIN"):
        monkeypatch.setenv(name, "http://u:s3cret@h" if name == "TRY_ADDRESS" else "s3cret")
    note = launch.run("note", Note, request(stage, "write"), events.append, config)
    assert note.world_size == num_ranks
    assert (stage / "secrets").read_text() == "TRY_PLAIN"
    assert [event.message for event in events] == ["3"] * num_ranks
    assert (stage / "note.request.json").is_file()


def test_of_a_failure_the_error_is_shown_and_no_traceback(stage: Path) -> None:
    with pytest.raises(RuntimeError, match=r"note: its process ended with code 1; the end of .*note\.log:\n") as error:
        launch.run("note", Note, request(stage, "fail"), silent, launch.Config())
    assert str(error.value).splitlines()[1:] == ["  RuntimeError: lost"]
    assert "Traceback" in (stage / "note.log").read_text()


def test_refused_input_is_a_value_error_with_the_stages_own_words(stage: Path) -> None:
    with pytest.raises(ValueError, match=r"^column 'x' is missing; add it$"):
        launch.run("note", Note, request(stage, "refuse"), silent, launch.Config())
    assert not (stage / "note").exists()


def test_a_crash_names_the_file_with_the_traceback_of_the_first_rank(stage: Path) -> None:
    with pytest.raises(Fault, match=r"^note: a fault of Dayline, written to .*/note\.fault\.txt: KeyError: 'bug'$"):
        launch.run("note", Note, request(stage, "crash"), silent, launch.Config(num_ranks=2))


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_a_lost_rank_is_made_up_for(stage: Path, num_ranks: int) -> None:
    events: list[Event] = []
    config = launch.Config(num_ranks=num_ranks, max_restarts=1)
    assert launch.run("note", Note, request(stage, "die once"), events.append, config).world_size == num_ranks
    # The last rank, which is killed, has emitted nothing but that it began.
    assert starts_of(stage) == [2] * num_ranks
    assert len(events) == 2 * num_ranks


def test_more_lost_ranks_than_restarts_are_an_error_that_ends_with_the_last(stage: Path) -> None:
    with pytest.raises(RuntimeError, match=r"note: its process ended with code 1(.|\n)*RuntimeError: lost") as error:
        launch.run("note", Note, request(stage, "fail"), silent, launch.Config(num_ranks=2, max_restarts=1))
    assert "(exitcode: 1)" in str(error.value).splitlines()[-1]
    assert max(starts_of(stage)) == 2
    assert not any(psutil.pid_exists(pid) for pid in ranks_of(stage))


def test_a_refusal_is_not_tried_again(stage: Path) -> None:
    with pytest.raises(ValueError, match=r"^column 'x' is missing; add it$"):
        launch.run("note", Note, request(stage, "refuse"), silent, launch.Config(num_ranks=2, max_restarts=1_000))
    # torchrun may have begun to start them again before it was stopped.
    assert max(starts_of(stage)) < 10
    assert not any(psutil.pid_exists(pid) for pid in ranks_of(stage))


def test_a_stage_over_its_time_is_killed_even_if_nothing_of_it_listens(
    stage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "_GRACE_SECONDS", 0.5)
    asked = request(stage, "sleep", deaf=True)
    with pytest.raises(RuntimeError, match="note: not done after launch.stage_timeout_seconds = 20"):
        launch.run(
            "note", Note, asked, silent, launch.Config(num_ranks=2, stage_timeout_seconds=20, stop_grace_seconds=1)
        )
    assert len(ranks_of(stage)) == 2
    assert not any(psutil.pid_exists(pid) for pid in ranks_of(stage))


def test_several_nodes_need_a_place_to_meet() -> None:
    with pytest.raises(ValueError, match="rendezvous_endpoint: missing"):
        launch.Config(num_nodes=2)


@pytest.mark.parametrize(("does", "num_ranks", "max_restarts"), [("write", 2, 0), ("die once", 1, 1)])
def test_another_node_joins_by_the_command_that_is_shown(
    stage: Path, does: str, num_ranks: int, max_restarts: int
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        endpoint = f"127.0.0.1:{free.getsockname()[1]}"
    joined: list[subprocess.Popen[bytes]] = []

    def join(event: Event) -> None:
        if event.message and "on each of them run: " in event.message:
            command = shlex.split(event.message.partition("run: ")[2])
            command[command.index("python")] = sys.executable
            joined.append(subprocess.Popen(command, stdin=subprocess.DEVNULL))

    config = launch.Config(num_nodes=2, num_ranks=num_ranks, rendezvous_endpoint=endpoint, max_restarts=max_restarts)
    note = launch.run("note", Note, request(stage, does), join, config)
    assert note.world_size == 2 * num_ranks
    assert joined[0].wait(60) == 0
    assert starts_of(stage) == [1 + max_restarts] * note.world_size


def test_one_process_gets_the_threads_of_all_ranks() -> None:
    assert launch.alone(launch.Config(num_ranks=4, threads_per_rank=2)) == launch.Config(threads_per_rank=8)
    assert launch.alone(launch.Config(num_ranks=4, max_restarts=2)) == launch.Config()


def test_a_full_disk_is_named(stage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_FULL_DISK_BYTES", 1 << 60)
    with pytest.raises(OSError, match="note: no space left"):
        launch.run("note", Note, request(stage, "crash"), silent, launch.Config())


@pytest.fixture
def max_restarts() -> int:
    return 0


@pytest.fixture
def launcher(stage: Path, max_restarts: int) -> Iterator[subprocess.Popen[bytes]]:
    """A process of its own that launches two sleeping ranks, as a flow's process does."""
    request_file = stage.with_name("request.json")
    request_file.write_text(request(stage, "sleep").model_dump_json())
    code = (
        # Started in the background of a shell, a process inherits that SIGINT is ignored.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "import sys, pathlib; from recsys_core import launch, progress; from test_launch_stage import Note, Request;"
        "launch._MODULE = 'stand_in_stage';"
        f"asked = Request.model_validate_json(pathlib.Path({str(request_file)!r}).read_text());"
        "launch.run('note', Note, asked, progress.silent, "
        f"launch.Config(num_ranks=2, max_restarts={max_restarts}))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE)
    wait_for(lambda: len(ranks_of(stage)) == 2)
    yield process
    process.kill()
    process.communicate()


@pytest.mark.parametrize("victim", ["launcher", "torchrun", "rank"])
def test_no_process_outlives_a_kill(stage: Path, launcher: subprocess.Popen[bytes], victim: str) -> None:
    ranks = [psutil.Process(pid) for pid in ranks_of(stage)]
    (torchrun,) = psutil.Process(launcher.pid).children()
    target = {"launcher": psutil.Process(launcher.pid), "torchrun": torchrun, "rank": ranks[1]}[victim]
    target.send_signal(signal.SIGKILL)
    launcher.wait(60)
    _, alive = psutil.wait_procs([torchrun, *ranks], timeout=30)
    assert not alive
    assert launcher.stderr is not None
    output = launcher.stderr.read().decode()
    expected = {"launcher": "", "torchrun": "was killed by SIGKILL", "rank": "exitcode: -9"}[victim]
    assert expected in output
    assert not (stage / "note").exists()


@pytest.mark.parametrize("max_restarts", [1])
def test_no_restarted_process_outlives_the_launcher(stage: Path, launcher: subprocess.Popen[bytes]) -> None:
    processes = [psutil.Process(pid) for pid in ranks_of(stage)]
    processes[1].kill()
    wait_for(lambda: starts_of(stage) == [2, 2])
    processes += [psutil.Process(launcher.pid).children()[0], *map(psutil.Process, ranks_of(stage))]
    launcher.kill()
    launcher.wait(60)
    _, alive = psutil.wait_procs(processes, timeout=30)
    assert not alive


def test_sigint_of_the_launcher_ends_the_ranks(stage: Path, launcher: subprocess.Popen[bytes]) -> None:
    ranks = [psutil.Process(pid) for pid in ranks_of(stage)]
    launcher.send_signal(signal.SIGINT)
    launcher.wait(60)
    _, alive = psutil.wait_procs(ranks, timeout=30)
    assert not alive


def ranks_of(directory: Path) -> list[int]:
    """Return the process ids that the ranks wrote down."""
    return [int(text) for file in sorted(directory.glob("pid-*")) if (text := file.read_text())]


def starts_of(directory: Path) -> list[int]:
    """Return how often each rank has begun the stage."""
    return [len(file.read_text()) for file in sorted(directory.glob("starts-*"))]


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until it holds."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "gave up waiting"
        time.sleep(0.05)
