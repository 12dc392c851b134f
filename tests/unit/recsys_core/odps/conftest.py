"""An emulator, the variables that lead to it, and tables in it."""

import datetime
import decimal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from recsys_core.odps.credentials import Keys
from recsys_core.odps.emulator import Emulator
from recsys_core.readers import odps as reader
from recsys_core.writers import odps as writer

KEYS = Keys("ak", "a secret")
QUICK = {"retry": {"first_wait_seconds": 0.001, "most_wait_seconds": 0.01}}
NUM_ROWS = 5_000


@pytest.fixture(scope="session")
def every_type() -> Callable[..., pa.Table]:
    """Make a table of every column type, nulls included: a number of rows, and a seed."""
    return _every_type


def _every_type(num_rows: int, seed: int = 0) -> pa.Table:
    """A table of every column type, nulls included."""
    rng = np.random.default_rng(seed)
    day, second = datetime.date(2024, 1, 1), datetime.datetime(2024, 1, 1, 12)  # noqa: DTZ001 - MaxCompute's datetime has no zone
    number = range(num_rows)

    def column(kind: pa.DataType, make: Callable[[int], Any]) -> pa.Array:
        return pa.array([None if i % 11 == 5 else make(i) for i in number], kind)

    return pa.table(
        {
            "id": pa.array(number, pa.int64()),
            "tiny": column(pa.int8(), lambda i: i % 100),
            "small": column(pa.int16(), lambda i: i % 30_000),
            "medium": column(pa.int32(), lambda i: -i),
            "real": pa.array(rng.normal(size=num_rows), pa.float32()),
            "double": pa.array(rng.normal(size=num_rows)),
            "text": column(pa.string(), lambda i: f"größe {i}"),
            "bytes": column(pa.binary(), lambda i: bytes([i % 256]) * (i % 7)),
            "flag": column(pa.bool_(), lambda i: i % 3 == 0),
            "price": column(pa.decimal128(10, 2), lambda i: decimal.Decimal(i) / 100),
            "born": column(pa.date32(), lambda i: day + datetime.timedelta(days=i)),
            "seen": column(pa.timestamp("ms"), lambda i: second + datetime.timedelta(milliseconds=i)),
            "exact": column(pa.timestamp("ns"), lambda i: second + datetime.timedelta(microseconds=i)),
            "list": column(pa.list_(pa.int64()), lambda i: list(range(i % 4))),
            "map": column(pa.map_(pa.string(), pa.float32()), lambda i: [(f"k{j}", j / 2) for j in range(i % 3)]),
            "struct": column(pa.struct([("a", pa.int64()), ("b", pa.string())]), lambda i: {"a": i, "b": str(i)}),
            "nested": column(pa.list_(pa.list_(pa.string())), lambda i: [["x"] * (i % 3), []]),
        }
    )


@pytest.fixture
def emulator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """An emulator with an empty project `shop`; the environment leads to it."""
    (tmp_path / "odps" / "shop").mkdir(parents=True)
    with Emulator(tmp_path / "odps", [KEYS]) as running:
        monkeypatch.setenv("ODPS_ACCESS_ID", KEYS.access_id)
        monkeypatch.setenv("ODPS_ACCESS_KEY", KEYS.secret)
        monkeypatch.setenv("ODPS_ENDPOINT", running.endpoint)
        yield running


@pytest.fixture
def write(emulator: Emulator) -> Callable[..., int]:
    """Write a table through the writer, in as many parts as asked for; return the number of rows."""

    def work(path: str, table: pa.Table, parts: int = 1, **settings: Any) -> int:
        to = writer.Table(writer.Config.model_validate({"path": path} | QUICK | settings))
        state = to.begin(table.schema)
        cuts = np.linspace(0, table.num_rows, parts + 1).astype(int)
        receipts = []
        for number in range(parts):
            with to.part(state, number) as part:
                part.write(table.slice(cuts[number], cuts[number + 1] - cuts[number]))
            receipts.append(part.close())
        return to.commit(state, receipts)

    return work


@pytest.fixture
def opened(emulator: Emulator) -> Callable[..., reader.Reader]:
    """Open a reader with waits that tests can bear."""

    def work(path: str, state: dict[str, Any] | None = None, **settings: Any) -> reader.Reader:
        return reader.Reader(reader.Config.model_validate({"path": path} | QUICK | settings), state)

    return work
