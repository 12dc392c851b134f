"""What holds logs that were mutated to the rule: each is read with every row accounted for, or refused in one line."""

import csv
import datetime
import io
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from recsys_core import contract, ingest, profile
from recsys_core.features import Config as Features
from recsys_core.progress import silent
from recsys_core.retrieval import preprocess

_HANG_SECONDS = 20


@pytest.fixture
def no_hang() -> Iterator[None]:
    """A test that hangs is stopped."""

    def refuse(*_: Any) -> None:
        raise AssertionError(f"not done in {_HANG_SECONDS} s")

    before = signal.signal(signal.SIGALRM, refuse)
    signal.alarm(_HANG_SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def hold(no_hang: None, tmp_path: Path) -> Callable[[Path, str | None, Callable[[], dict[str, int]]], None]:
    """Run stages over a log, which are to count its rows, or, if something is `named`, to refuse it and name that."""

    def held(log: Path, named: str | None, run: Callable[[], dict[str, int]]) -> None:
        try:
            found = run()
        except ValueError as error:
            _refused(tmp_path, error, named)
            return
        assert named is None
        assert found == _counted(log)

    return held


@pytest.fixture
def profiled(no_hang: None, tmp_path: Path) -> Callable[[Path], None]:
    """Profile what a run may refuse: it is read whole, or refused as such."""

    def hold_profile(path: Path) -> None:
        try:
            found = profile.run(str(path), silent)
        except ValueError as error:
            _refused(tmp_path, error, path.name)
            return
        found.model_dump_json()
        assert found.rows == sum(_counted(path).values() if path.is_dir() else [_num_csv_rows(path)])

    return hold_profile


@pytest.fixture
def retrieved(tmp_path: Path) -> Callable[..., dict[str, int]]:
    """Run what a day's run does before it trains: ingest, check, preprocess; return the rows that were seen."""

    def run(section: dict[str, Any], features: dict[str, Any], day: datetime.date) -> dict[str, int]:
        common: dict[str, Any] = {"config_hash": "c", "code_version": "v"}
        config = ingest.lookup.OneOf(ingest.CATALOGUE).parse(section)
        asked = ingest.Request(
            output=tmp_path / "run" / "ingest",
            config=config,
            day=day,
            import_root=tmp_path / "imports",
            fingerprint=ingest.fingerprint(config, day),
            **common,
        )
        dataset = ingest.run(asked, silent)
        checked = contract.run(
            contract.Request(
                output=tmp_path / "run" / "check",
                config=contract.checks.Limits(),
                agreed=None,
                dataset=dataset,
                first_day=datetime.date.min,
                day=day,
                memory=tmp_path / "memory",
                **common,
            ),
            silent,
        )
        assert len(checked.breaches) < 30, "a person would read none of them"
        data = preprocess.run(
            preprocess.Request(
                output=tmp_path / "run" / "preprocess",
                config=preprocess.Config(),
                features=Features.model_validate(features),
                dataset=dataset,
                day=day,
                **common,
            ),
            silent,
        )
        examples = sum(pq.read_metadata(path).num_rows for path in data.path.glob("examples/*.parquet"))
        assert examples == sum(count.num_interactions for count in dataset.days if count.day <= day)
        return {
            table: sum(getattr(count, f"num_{table}") for count in dataset.days)
            for table in ("interactions", "users", "items")
        }

    return run


def _refused(folder: Path, error: ValueError, named: str | None) -> None:
    """Check what a refusal says, and that nothing of the work is left."""
    message = str(error)
    assert named is not None, message
    # Those of libraries are no refusals.
    assert type(error) is ValueError or type(error).__module__.startswith("recsys_core."), repr(error)
    assert message.isprintable(), repr(message)
    assert named in message
    for own in ("imports", "run"):
        assert str(folder / own) not in message
    assert not [path for path in folder.rglob("*") if "partial" in path.name or path.name == ".scratch"]
    assert all((stage / "manifest.json").is_file() for stage in folder.glob("run/*"))


def _counted(log: Path) -> dict[str, int]:
    """Count the rows of each table or split, file by file and batch by batch."""
    found: dict[str, int] = {}
    for above, _, names in os.walk(log):
        for name in names:
            path = Path(above) / name
            parts = path.relative_to(log).parts
            if any(part[0] in "._" for part in parts) or name.endswith(".crc"):
                continue
            is_csv = ".csv" in name
            rows = _num_csv_rows(path) if is_csv else sum(len(part) for part in pq.ParquetFile(path).iter_batches(7))
            table = path.stem if is_csv else parts[0]
            found[table] = found.get(table, 0) + rows
    return found


def _num_csv_rows(path: Path) -> int:
    content = path.read_bytes()
    text = content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    return sum(bool(row) for row in csv.reader(io.StringIO(text, newline=""))) - 1
