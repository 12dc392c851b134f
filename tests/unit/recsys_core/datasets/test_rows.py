"""A log in whatever types is the log that it is in int64, string and Unix seconds, for every stage that reads it."""

import datetime
import decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from recsys_core.artifacts import Dataset
from recsys_core.contract.statistics import compute
from recsys_core.datasets import _checks, _rows
from recsys_core.holdout import Part
from recsys_core.progress import Event, silent
from recsys_core.retrieval import baselines
from recsys_core.retrieval.preprocess import division
from recsys_core.retrieval.preprocess.log import Items, Log, Users

DAYS = [datetime.date(2024, 1, 1), datetime.date(2024, 1, 2)]
MIDNIGHT = 1_704_067_200  # 2024-01-01T00:00:00Z


def _log(root: Path, ids: Any, times: Any) -> Path:
    """Two days of a log; `ids` and `times` make columns of integers what they are to be."""
    rng = np.random.default_rng(0)
    tables = {
        "users": {"user_id": ids([1, 2, 3]), "city": pa.array(["a", None, "b"])},
        "items": {"item_id": ids([7, 8, 9]), "brand": ids([1, None, 2])},
    }
    for number, day in enumerate(DAYS):
        seconds = np.sort(rng.integers(0, 86_400, 20)) + MIDNIGHT + number * 86_400
        who, what = rng.integers(1, 4, 20).tolist(), rng.integers(7, 10, 20).tolist()
        tables["interactions"] = {"user_id": ids(who), "item_id": ids(what), "timestamp": times(seconds.tolist())}
        for table, columns in tables.items():
            if table == "interactions" or not number:
                folder = root / table / f"ds={day}"
                folder.mkdir(parents=True)
                pq.write_table(pa.table(columns), folder / "part-00000.parquet")
    return root


def _dataset(root: Path, events: list[Event] | None = None) -> Dataset:
    checked = _checks.check(root, DAYS[1], silent if events is None else events.append)
    return Dataset.model_construct(root=root, day=DAYS[0], days=checked.days, columns=checked.columns)


def _seen(root: Path) -> tuple[Any, ...]:
    """Return what preprocess, the baselines and the contract make of a log."""
    dataset = _dataset(root)
    users, items = Users(dataset, DAYS[1], ["city"]), Items(dataset, DAYS[0], DAYS[1])
    log = Log(dataset, DAYS[1], users, items, "before", 5, division.of(Part(DAYS[1]), users))
    everyone = users.on(np.arange(3), np.full(3, 19_723))
    history = baselines.read_history(dataset, DAYS[0], items.ids, 1_000)
    paths = sorted((root / "interactions" / "ds=2024-01-01").iterdir())
    statistics = compute(root, "interactions", paths, ["user_id"]).columns
    at = statistics["timestamp"]
    return (
        users.ids.to_pylist(),
        everyone.to_pydict(),
        items.table.select(["item_id"]).to_pydict(),
        *(array.tolist() for array in (log.users, log.items, log.seconds, history.users, history.items)),
        history.user_ids.to_pylist(),
        (at.minimum, at.maximum, at.mean, at.points),
        statistics["user_id"].ids,
        dataset.columns["interactions"],
        dataset.columns["users"]["user_id"],
    )


def _text(kind: pa.DataType | None = None) -> Any:
    return lambda values: pa.array([None if v is None else f"u{v}" for v in values], kind)


def _iso(ending: str) -> Any:
    return lambda values: pc.binary_join_element_wise(
        pa.array(values, pa.timestamp("s")).cast(pa.string()), pa.scalar(ending), ""
    )


def _whole(kind: pa.DataType) -> Any:
    return lambda values: pa.array(values, pa.int64()).cast(kind)


def _decimals(values: list[int | None]) -> pa.Array:
    return pa.array([None if v is None else decimal.Decimal(v) for v in values], pa.decimal128(38, 18))


@pytest.mark.parametrize(
    "ids",
    [_whole(pa.int32()), _whole(pa.uint64()), _whole(pa.float64()), _decimals],
    ids=["int32", "uint64", "double", "decimal"],
)
@pytest.mark.parametrize(
    "times",
    [
        _whole(pa.float64()),
        _decimals,
        lambda values: pa.array([v * 1_000 for v in values]),
        lambda values: pa.array([v * 1_000 for v in values], pa.timestamp("ms")),
        lambda values: pa.array([v * 1_000_000_000 for v in values], pa.timestamp("ns", "Asia/Shanghai")),
        _iso(""),
        _iso(".250Z"),
        lambda values: _iso("+00:00")(values).dictionary_encode(),
    ],
    ids=["double", "decimal", "milliseconds", "timestamp", "zoned", "text", "fractions", "categories"],
)
def test_whole_numbers_and_times_of_other_types(tmp_path: Path, ids: Any, times: Any):
    plain = _log(tmp_path / "plain", _whole(pa.int64()), _whole(pa.int64()))
    assert _seen(_log(tmp_path / "other", ids, times)) == _seen(plain)


@pytest.mark.parametrize("kind", [pa.large_string(), pa.string_view(), pa.binary()])
def test_texts_of_other_types(tmp_path: Path, kind: pa.DataType):
    plain = _log(tmp_path / "plain", _text(), _whole(pa.int64()))
    assert _seen(_log(tmp_path / "other", _text(kind), _whole(pa.int64()))) == _seen(plain)
    categories = _log(tmp_path / "categories", lambda values: _text()(values).dictionary_encode(), _whole(pa.int32()))
    assert _seen(categories) == _seen(plain)


def test_what_was_converted_is_reported_once_for_each_column(tmp_path: Path):
    events: list[Event] = []
    _dataset(_log(tmp_path, _whole(pa.float64()), _iso(".5")), events)
    assert [event.message for event in events if event.message and event.message.startswith("warning")] == [
        "warning: interactions: user_id is double; its whole numbers are read as ids",
        "warning: interactions: item_id is double; its whole numbers are read as ids",
        "warning: users: user_id is double; its whole numbers are read as ids",
        "warning: items: item_id is double; its whole numbers are read as ids",
        (
            "warning: interactions: timestamp is text, read as Unix seconds in UTC; fractions of a second are left "
            "out, in 40 rows"
        ),
    ]
    events: list[Event] = []
    _dataset(_log(tmp_path / "plain", _whole(pa.int64()), _whole(pa.int32())), events)
    assert not [event for event in events if event.message and event.message.startswith("warning")]


def test_files_of_one_table_may_lay_their_columns_out_as_they_like(tmp_path: Path):
    root = _log(tmp_path, _whole(pa.int64()), _whole(pa.int64()))
    (tmp_path / "users" / "ds=2024-01-02").mkdir()
    later = pa.table({"city": pa.array(["c"]).dictionary_encode(), "user_id": pa.array([2], pa.int32())})
    pq.write_table(later, tmp_path / "users" / "ds=2024-01-02" / "part-00000.parquet")
    users = Users(_dataset(root), DAYS[1], ["city"])
    assert users.on(np.array([1, 1]), np.array([19_723, 19_724])).to_pydict() == {
        "user_id": [2, 2],
        "city": [None, "c"],
    }


def test_a_damaged_row_is_counted_over_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_rows, "_BATCH_ROWS", 3)
    folder = tmp_path / "users" / "ds=2024-01-01"
    folder.mkdir(parents=True)
    pq.write_table(pa.table({"user_id": [1.0] * 7 + [1.5]}), folder / "a.parquet")
    with pytest.raises(ValueError, match=r"a\.parquet: column 'user_id', row 7: id 1.5 is no whole number"):
        list(_rows.read(tmp_path, "users", folder / "a.parquet"))
