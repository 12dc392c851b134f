"""A stage is done once per distinct input, whichever process was killed in between."""

import errno
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from mlflow.exceptions import MlflowException
from prefect.states import Failed

from recsys_core import artifacts
from recsys_core.artifacts import Artifact, pending
from recsys_core.progress import Event, Sink
from tasks import perform
from tasks.perform import Run
from tasks.train import train


class Note(Artifact):
    """What the stage makes."""

    stage: ClassVar[str] = "note"


class Request(artifacts.Request):
    """What it is made from."""

    text: str


@pytest.fixture(scope="module")
def run(open_run: Callable[..., Run]) -> Iterator[Run]:
    with open_run() as run:
        yield run


class Stage:
    """Writes a file, and counts how often it was asked to."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self, request: Request, sink: Sink) -> Note:
        self.times += 1
        sink(Event(stage="note", done=1, total=2, step=1, metrics={"loss": 2.0}))
        with pending(request.output) as aside:
            (aside.path / "note.txt").write_text(request.text)
            return aside.commit(Note, request, num_rows=len(request.text))


def done(run: Run, text: str, stage: Stage) -> Note:
    return perform.perform(run, "note", Note, run.request(Request, "note", text=text), stage)


def test_the_same_inputs_are_not_done_twice(run: Run) -> None:
    stage, events = Stage(), []
    with perform.listening(events.append):
        first = done(run, "once", stage)
        assert run.stages["note"].cached is False
        again = done(run, "once", stage)
    assert (again, stage.times) == (first, 1)
    assert (run.stages["note"].cached, run.stages["note"].rows) == (True, 4)
    assert run.artifacts["note"] == first
    assert [perform.line(event) for event in events][:2] == ["note: started", "note: 1 of 2 rows, loss 2"]
    assert [event.message for event in events][2:] == [events[2].message, "done before"]


def test_a_stage_has_an_mlflow_run_with_its_curve(run: Run) -> None:
    done(run, "tracked", Stage())
    client = run.tracker.client
    (child,) = [
        found
        for found in client.search_runs([run.tracker.experiment_id])
        if found.data.tags.get("dayline.stage") == "note"
    ]
    assert child.data.metrics["loss"] == 2.0
    assert child.data.metrics["rows"] == 7
    assert child.data.tags["artifact_digest"] == run.artifacts["note"].digest


@pytest.mark.parametrize(("end", "status"), [(RuntimeError("a rank was killed"), "FAILED"), (SystemExit(), "KILLED")])
def test_an_artifact_whose_writer_was_killed_before_it_was_remembered_is_found(
    run: Run, end: BaseException, status: str
) -> None:
    def killed(request: Request, sink: Sink) -> Note:
        stage(request, sink)
        raise end

    def tracked() -> Any:
        client = run.tracker.client
        (child,) = client.search_runs([run.tracker.experiment_id], "tags.`dayline.stage` = 'note'")
        return child

    stage = Stage()
    request = run.request(Request, "note", text=f"killed {status}")
    with pytest.raises(type(end)):
        perform.perform(run, "note", Note, request, killed)
    assert tracked().info.status == status
    found = done(run, request.text, stage)
    assert (stage.times, run.stages["note"].cached) == (1, True)
    assert (run.home / "cache" / "note" / f"{request.key}.json").exists()
    child = tracked()
    assert (child.info.status, child.data.tags["artifact_digest"]) == ("FINISHED", found.digest)
    assert child.data.metrics["rows"] == found.num_rows


@pytest.mark.parametrize("harm", ["delete", "cut", "replace"])
def test_an_artifact_that_is_not_whole_is_made_again(run: Run, harm: str) -> None:
    stage = Stage()
    note = done(run, f"harm {harm}", stage)
    if harm == "delete":
        shutil.rmtree(note.path)
    elif harm == "cut":
        (note.path / "note.txt").write_text("")
    else:
        done(run, "other inputs, same folder", Stage())
    assert done(run, f"harm {harm}", stage).digest == note.digest
    assert stage.times == 2


@pytest.mark.parametrize("content", [b"", b"null", b"[]", b"{}", b'{"path": 7}', b'{"path": "', b"\x80\x04\x95", None])
def test_a_damaged_entry_is_named_and_its_stage_done_again(run: Run, content: bytes | None) -> None:
    stage, events = Stage(), []
    note = done(run, f"entry {content!r}", stage)
    entry = run.home / "cache" / "note" / f"{note.key}.json"
    entry.unlink()
    if content is None:
        entry.mkdir()
    else:
        entry.write_bytes(content)
    shutil.rmtree(note.path)
    for _ in range(2):
        with perform.listening(events.append):
            assert done(run, f"entry {content!r}", stage).digest == note.digest
    assert stage.times == 2
    warnings = [event.message for event in events if event.message and event.message.startswith("warning")]
    assert len(warnings) == 1
    assert warnings[0].startswith(f"warning: {entry}: ")
    assert warnings[0].endswith("; the stage is done again")


def test_a_flipped_bit_in_a_kept_artifact_is_named_and_its_stage_done_again(run: Run) -> None:
    stage, events = Stage(), []
    note = done(run, "a bit", stage)
    (note.path / "note.txt").write_text("a bid")
    with perform.listening(events.append):
        done(run, "a bit", stage)
    assert (stage.times, (note.path / "note.txt").read_text()) == (2, "a bit")
    assert f"{note.path / 'note.txt'}: damaged, its content is not what was written" in (events[0].message or "")


def test_a_failed_stage_is_not_remembered_and_its_mlflow_run_says_so(run: Run) -> None:
    def fails(request: Request, sink: Sink) -> Note:
        raise ValueError("column 'x' is missing")

    request = run.request(Request, "note", text="fails")
    with pytest.raises(ValueError, match="column 'x' is missing"):
        perform.perform(run, "note", Note, request, fails)
    with run.tracker.stage("note") as child:
        pass
    assert not (run.home / "cache" / "note" / f"{request.key}.json").exists()
    assert child.mlflow_run_id


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("a rank was killed"), True),
        (ConnectionResetError(errno.ECONNRESET, "reset"), True),
        (MlflowException("503"), True),
        (OSError(errno.ENOSPC, "full"), False),
        (FileNotFoundError(errno.ENOENT, "gone"), False),
        (ValueError("wrong input"), False),
        (AssertionError("our bug"), False),
        (NotImplementedError("never"), False),
    ],
)
def test_only_what_may_pass_is_tried_again_and_is_reported(error: Exception, expected: bool) -> None:
    events: list[Event] = []
    with perform.listening(events.append):
        found = perform._can_help(train, None, Failed(data=error))  # pyright: ignore[reportArgumentType]
    assert found is expected
    assert [perform.line(event) for event in events] == [f"train: failed and is tried again: {error}"] * expected


def test_a_run_writes_below_its_home(run: Run, tmp_path: Path) -> None:
    assert run.home == run.config.run_root / "shop"
    assert run.request(Request, "note", text="x").output == run.directory / "note"
