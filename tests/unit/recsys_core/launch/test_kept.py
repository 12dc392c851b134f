"""Real processes that fork the ranks of one stage after another, below torchrun and without."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from obeying import Note, parents_of, ranks_of, request, wait_for

from recsys_core import launch
from recsys_core.progress import Event, silent


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_kept_ranks_do_one_stage_after_another(stage: Path, monkeypatch: pytest.MonkeyPatch, num_ranks: int) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cret")
    config, events = launch.Local(num_ranks=num_ranks, threads_per_rank=3), []
    first, second = stage.with_name("first"), stage.with_name("second")
    others = psutil.Process().children()  # such as servers of other tests
    with launch.keeping():
        launch.begin(config, "notes")
        begun = [one for one in psutil.Process().children() if one not in others]
        launch.run("note", Note, request(first, "write", reads="s3://bucket"), events.append, config)
        with launch.keeping():
            note = launch.run("note", Note, request(second, "write"), events.append, config)
        assert [one for one in psutil.Process().children() if one not in others] == begun
    assert not any(one.is_running() for one in begun)
    assert note.world_size == num_ranks
    assert parents_of(first) == parents_of(second)
    assert not set(ranks_of(first)) & set(ranks_of(second))
    assert not any(psutil.pid_exists(pid) for pid in ranks_of(second))
    assert [event.message for event in events] == ["3"] * num_ranks * 2
    for place, secrets in ((first, "AWS_SECRET_ACCESS_KEY"), (second, "")):
        # Credentials are there for the stage that has a use for them, and in no file.
        assert (place / "secrets").read_text() == secrets
        assert not [file for file in place.rglob("*") if file.is_file() and b"s3cret" in file.read_bytes()]
        assert f"this is {place.name}\n" in (place / "note.log").read_text()
    assert "this is first" not in (second / "note.log").read_text()


class DisturbedError(Exception):
    """What the launcher's process is ended by."""


@pytest.mark.parametrize(
    ("does", "num_ranks", "error"),
    [
        ("refuse", 1, "^column 'x' is missing; add it$"),
        ("fail", 2, r"^note: its process ended with code 1(.|\n)*RuntimeError: lost(.|\n)*\(exitcode: 1\)"),
        ("crash", 1, r"^note: a fault of Dayline, written to .*/note\.fault\.txt: KeyError: 'bug'$"),
        ("sleep", 2, "disturbed"),
    ],
)
def test_a_stage_that_does_not_end_well_ends_its_ranks_and_the_next_gets_others(
    stage: Path, does: str, num_ranks: int, error: str
) -> None:
    config = launch.Local(num_ranks=num_ranks)
    places = [stage.with_name(name) for name in ("before", "at", "after")]

    def disturb(_: Event) -> None:
        raise DisturbedError("disturbed")

    with launch.keeping():
        launch.run("note", Note, request(places[0], "write"), silent, config)
        with pytest.raises((RuntimeError, ValueError, DisturbedError), match=error):
            launch.run("note", Note, request(places[1], does), disturb if does == "sleep" else silent, config)
        assert not any(psutil.pid_exists(pid) for pid in ranks_of(places[1]))
        launch.run("note", Note, request(places[2], "write"), silent, config)
    before, at, after = map(parents_of, places)
    assert before == at != after
    assert (places[1] / "note.request.json").is_file()
    if does == "crash":
        # As of a process that was started for the stage.
        assert "note --request" in (places[1] / "note.fault.txt").read_text()


def test_processes_that_are_lost_between_stages_are_replaced(stage: Path) -> None:
    places, config = [stage.with_name(name) for name in ("first", "second")], launch.Local()
    with launch.keeping():
        for place in places:
            launch.run("note", Note, request(place, "write"), silent, config)
            (parent,) = parents_of(place)
            psutil.Process(parent).kill()
            os.waitid(os.P_PID, parent, os.WEXITED | os.WNOWAIT)
    first, second = map(parents_of, places)
    assert first != second


@pytest.mark.parametrize("victim", ["rank", "parent"])
def test_a_rank_or_its_parent_that_is_killed_ends_both(stage: Path, victim: str) -> None:
    def kill(_: Event) -> None:
        (pid,) = (ranks_of if victim == "rank" else parents_of)(stage)
        psutil.Process(pid).kill()

    with launch.keeping(), pytest.raises(RuntimeError, match="^note: its process was killed by SIGKILL; the end of"):
        launch.run("note", Note, request(stage, "sleep"), kill, launch.Local())
    assert not any(psutil.pid_exists(pid) for pid in (*ranks_of(stage), *parents_of(stage)))


def test_a_rank_that_is_stopped_by_a_signal_to_its_parent_says_so(stage: Path) -> None:
    def stop(_: Event) -> None:
        psutil.Process(*parents_of(stage)).terminate()

    with launch.keeping(), pytest.raises(RuntimeError, match="^note: its process was killed by SIGTERM; the end of"):
        launch.run("note", Note, request(stage, "sleep"), stop, launch.Local())
    assert not any(psutil.pid_exists(pid) for pid in (*ranks_of(stage), *parents_of(stage)))


def test_ranks_that_are_not_needed_end_before_they_are_ready(stage: Path) -> None:
    others = psutil.Process().children()
    with launch.keeping():
        launch.begin(launch.Local(num_ranks=2), "notes")
        (begun,) = (one for one in psutil.Process().children() if one not in others)
    assert not begun.is_running()


def test_ranks_that_wait_for_a_stage_end_with_the_launcher(stage: Path) -> None:
    code = (
        "import pathlib, time; from recsys_core import launch, progress;"
        "from recsys_core.launch import kept, processes;"
        "from obeying import Request, Note, request;"
        f"processes.MODULE = 'stand_in_stage'; kept.GROUPS['notes'] = ('note',); home = pathlib.Path({str(stage)!r});"
        "inside = launch.keeping(); inside.__enter__();"
        "launch.run('note', Note, request(home, 'write'), progress.silent, launch.Local(num_ranks=2));"
        "(home / 'waiting').touch(); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    wait_for((stage / "waiting").exists)
    started = psutil.Process(process.pid).children(recursive=True)
    assert {one.pid for one in started} >= {*parents_of(stage)}
    assert len(started) == 3
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(started, timeout=300)
    assert not alive
