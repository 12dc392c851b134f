"""What tests of logs share."""

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest


@pytest.fixture
def read_log() -> Callable[[Path, str], dict[str, list[dict[str, Any]]]]:
    """Read a table of a log: rows by day, files of a day one after another."""

    def read(root: Path, table: str) -> dict[str, list[dict[str, Any]]]:
        days: dict[str, list[dict[str, Any]]] = {}
        for path in sorted((root / table).glob("*/*.parquet")):
            day = path.parent.name.removeprefix("ds=")
            days.setdefault(day, []).extend(pq.ParquetFile(path).read().to_pylist())
        return days

    return read


@pytest.fixture
def at() -> Callable[..., int]:
    """Return the Unix seconds of a UTC date and time."""

    def seconds(*when: int) -> int:
        return int(datetime.datetime(*when, tzinfo=datetime.UTC).timestamp())  # type: ignore[arg-type]

    return seconds
