"""What is kept for a server that does not answer, on disk; sending it is tested against a real one."""

from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException, RestException
from requests import ConnectionError as Refused
from requests import HTTPError, Response

from recsys_core import tracking
from recsys_core.progress import silent
from recsys_core.tracking import spool
from recsys_core.tracking.spool import Entry, Outbox
from recsys_core.tracking.store import is_away, reason


def entry(at: int, **fields) -> Entry:
    known = {"server": "s", "experiment_id": "0", "parent": "p", "stage": None, "at": at, "does": "metrics"}
    return Entry.model_validate(known | fields)


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    client = tracking.connect("http://127.0.0.1:9")
    return Outbox(client, tmp_path / "run", tracking.Config(), silent)


def test_entries_come_back_as_they_were_kept(outbox: Outbox, tmp_path: Path) -> None:
    note = tmp_path / "note.txt"
    note.write_text("as it was")
    points = (("loss", 0.5, 10, 1), ("auc", float("inf"), 11, 2))
    kept = [entry(1, metrics=points), entry(2, does="tags", tags={"a": "é\n"}), entry(3, does="end", status="FAILED")]
    for one in kept:
        outbox._keep(one)
    outbox._keep(entry(4, does="file", file=str(note), folder="plots"))
    note.write_text("later")
    *found, file = spool.entries(tmp_path / "run" / spool.SPOOL)
    assert found == kept
    assert (tmp_path / "run" / file.file).read_text() == "as it was"
    assert (file.folder, Path(file.file).name) == ("plots", "note.txt")


def test_a_line_that_was_cut_off_is_none(outbox: Outbox, tmp_path: Path) -> None:
    outbox._keep(entry(1))
    with (tmp_path / "run" / spool.SPOOL).open("a") as file:
        file.write('{"server": "s", "experi')
    assert [one.at for one in spool.entries(tmp_path / "run" / spool.SPOOL)] == [1]
    outbox._keep(entry(2))
    assert [one.at for one in spool.entries(tmp_path / "run" / spool.SPOOL)] == [1, 2]


def test_points_of_a_run_go_together_up_to_what_else_comes_between() -> None:
    def point(value: float) -> tuple[str, float, int, int]:
        return ("loss", value, 0, 0)

    kept = [
        entry(1, metrics=(point(1),)),
        entry(2, metrics=(point(2),), stage="train"),
        entry(3, metrics=(point(3),)),
        entry(4, does="tags"),
        entry(5, metrics=(point(5),)),
    ]
    found = spool._merged(kept)
    assert [(one.at, [p[1] for p in one.metrics]) for one in found] == [(1, [1, 3]), (2, [2]), (4, []), (5, [5])]


def answer(status: int) -> HTTPError:
    response = Response()
    response.status_code = status
    return HTTPError(response=response)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MlflowException("API request to http://h failed with exception HTTPConnectionPool"), True),
        (RestException({"error_code": "TEMPORARILY_UNAVAILABLE", "message": "m"}), True),
        (RestException({"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "m"}), False),
        (RestException({"error_code": "INVALID_PARAMETER_VALUE", "message": "m"}), False),
        (Refused("refused"), True),
        (answer(502), True),
        (answer(429), True),
        (answer(404), False),
    ],
)
def test_a_server_s_refusal_is_distinguished_from_its_absence(error: Exception, expected: bool) -> None:
    assert is_away(error, "http://h") is expected
    assert not is_away(error, "sqlite:////f/mlflow.db")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("API: HTTPConnectionPool(host='h') (Caused by NewConnectionError('<x>: [Errno 111] refused'))", "refused"),
        ("API: x (Caused by ProtocolError('Connection aborted.', RemoteDisconnected('closed early')))", "closed early"),
        ("API: x (Caused by ProtocolError('Connection aborted.', ResetError(104, 'reset by peer')))", "reset by peer"),
        ("first line\nsecond: line", "first line"),
    ],
)
def test_the_reason_is_the_innermost_message(text: str, expected: str) -> None:
    assert reason(ValueError(text)) in (expected, f"[Errno 111] {expected}")
