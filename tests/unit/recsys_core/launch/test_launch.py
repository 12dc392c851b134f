"""Real processes under a real torchrun; the stage itself is a few lines that do what each test asks."""

import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from obeying import Note, attempts_of, ranks_of, request, starts_of, wait_for

from recsys_core import launch
from recsys_core.fault import Fault
from recsys_core.launch import processes
from recsys_core.progress import Event, silent


def test_a_rank_keeps_what_is_compiled_for_few_sizes_and_what_the_user_has_set_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept = ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY")
    for name in kept:
        monkeypatch.delenv(name, raising=False)
    assert [launch.environment(launch.Local()).get(name) for name in kept] == ["32", "256"]
    monkeypatch.setenv(kept[0], "64")
    assert [launch.environment(launch.Local()).get(name) for name in kept] == ["64", "256"]


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_it_returns_the_artifact_and_forwards_events(
    stage: Path, monkeypatch: pytest.MonkeyPatch, num_ranks: int
) -> None:
    events: list[Event] = []
    config = launch.Local(num_ranks=num_ranks, threads_per_rank=3)
    for name in ("TRY_PASSWORD", "TRY_TOKEN", "TRY_ADDRESS", "TRY_PLAIN"):
        monkeypatch.setenv(name, "http://u:s3cret@h" if name == "TRY_ADDRESS" else "s3cret")
    note = launch.run("note", Note, request(stage, "write"), events.append, config)
    assert note.world_size == num_ranks
    assert (stage / "secrets").read_text() == "TRY_PLAIN"
    assert [event.message for event in events] == ["3"] * num_ranks
    assert (stage / "note.request.json").is_file()


def test_of_a_failure_the_error_is_shown_and_no_traceback(stage: Path) -> None:
    with pytest.raises(RuntimeError, match=r"note: its process ended with code 1; the end of .*note\.log:\n") as error:
        launch.run("note", Note, request(stage, "fail"), silent, launch.Local())
    assert str(error.value).splitlines()[1:] == ["  RuntimeError: lost"]
    assert "Traceback" in (stage / "note.log").read_text()


def test_refused_input_is_a_value_error_with_the_stages_own_words(stage: Path) -> None:
    with pytest.raises(ValueError, match=r"^column 'x' is missing; add it$"):
        launch.run("note", Note, request(stage, "refuse"), silent, launch.Local())
    assert not (stage / "note").exists()


def test_a_crash_names_the_file_with_the_traceback_of_the_first_rank(stage: Path) -> None:
    with pytest.raises(Fault, match=r"^note: a fault of Dayline, written to .*/note\.fault\.txt: KeyError: 'bug'$"):
        launch.run("note", Note, request(stage, "crash"), silent, launch.Local(num_ranks=2))


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_a_lost_rank_is_made_up_for(stage: Path, num_ranks: int) -> None:
    events: list[Event] = []
    config = launch.Local(num_ranks=num_ranks, max_restarts=1)
    assert launch.run("note", Note, request(stage, "die once"), events.append, config).world_size == num_ranks
    # The last rank, which is killed, has emitted nothing but that it began.
    assert starts_of(stage) == [2] * num_ranks
    assert len(events) == 2 * num_ranks


def test_more_lost_ranks_than_restarts_are_an_error_that_ends_with_the_last(stage: Path) -> None:
    with pytest.raises(RuntimeError, match=r"note: its process ended with code 1(.|\n)*RuntimeError: lost") as error:
        launch.run("note", Note, request(stage, "fail"), silent, launch.Local(num_ranks=2, max_restarts=1))
    assert "(exitcode: 1)" in str(error.value).splitlines()[-1]
    assert attempts_of(stage) == {"0", "1"}
    assert max(starts_of(stage)) <= 2
    assert not any(psutil.pid_exists(pid) for pid in ranks_of(stage))


def test_a_refusal_is_not_tried_again(stage: Path) -> None:
    with pytest.raises(ValueError, match=r"^column 'x' is missing; add it$"):
        launch.run("note", Note, request(stage, "refuse"), silent, launch.Local(num_ranks=2, max_restarts=1_000))
    # torchrun may have begun to start them again before it was stopped.
    assert max(starts_of(stage)) < 10
    assert not any(psutil.pid_exists(pid) for pid in ranks_of(stage))


def test_a_stage_over_its_time_is_killed_even_if_nothing_of_it_listens(
    stage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "GRACE_SECONDS", 0.5)
    # Its time is over when both ranks have begun, however long that takes.
    begun: list[Event] = []
    monkeypatch.setattr(launch, "time", SimpleNamespace(monotonic=lambda: 21.0 * (len(begun) == 2)))
    asked = request(stage, "sleep", deaf=True)
    config = launch.Local(num_ranks=2, stage_timeout_seconds=20, stop_grace_seconds=1)
    with pytest.raises(launch.OutOfTimeError, match="note: not done after launch.stage_timeout_seconds = 20"):
        launch.run("note", Note, asked, begun.append, config)
    assert len(ranks_of(stage)) == 2
    assert not any(psutil.pid_exists(pid) for pid in ranks_of(stage))


def test_several_nodes_need_a_place_to_meet() -> None:
    with pytest.raises(ValueError, match="rendezvous_endpoint: missing"):
        launch.Local(num_nodes=2)


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

    config = launch.Local(num_nodes=2, num_ranks=num_ranks, rendezvous_endpoint=endpoint, max_restarts=max_restarts)
    note = launch.run("note", Note, request(stage, does), join, config)
    assert note.world_size == 2 * num_ranks
    assert joined[0].wait(300) == 0
    assert starts_of(stage) == [1 + max_restarts] * note.world_size


def test_one_process_gets_the_threads_of_all_ranks() -> None:
    assert launch.alone(launch.Local(num_ranks=4, threads_per_rank=2)) == launch.Local(threads_per_rank=8)
    assert launch.alone(launch.Local(num_ranks=4, max_restarts=2)) == launch.Local()


def test_a_full_disk_is_named(stage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_FULL_DISK_BYTES", 1 << 60)
    with pytest.raises(OSError, match="note: no space left"):
        launch.run("note", Note, request(stage, "crash"), silent, launch.Local())


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
        "import sys, pathlib; from recsys_core import launch, progress; from obeying import Note, Request;"
        "launch.processes.MODULE = 'stand_in_stage';"
        f"asked = Request.model_validate_json(pathlib.Path({str(request_file)!r}).read_text());"
        "launch.run('note', Note, asked, progress.silent, "
        f"launch.Local(num_ranks=2, max_restarts={max_restarts}))"
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
    launcher.wait(300)
    _, alive = psutil.wait_procs([torchrun, *ranks], timeout=300)
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
    launcher.wait(300)
    _, alive = psutil.wait_procs(processes, timeout=300)
    assert not alive


def test_sigint_of_the_launcher_ends_the_ranks(stage: Path, launcher: subprocess.Popen[bytes]) -> None:
    ranks = [psutil.Process(pid) for pid in ranks_of(stage)]
    launcher.send_signal(signal.SIGINT)
    launcher.wait(300)
    _, alive = psutil.wait_procs(ranks, timeout=300)
    assert not alive
