"""Labelled rows of a MaxCompute table, whose partitions are days: a run opens those that it has not read before."""

import datetime
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from recsys_core import readers
from recsys_core.artifacts import NextDay
from recsys_core.datasets.labelled.labelled_days import Config
from recsys_core.odps.emulator import Emulator
from recsys_core.progress import silent
from recsys_core.ranking import Config as Ranking
from recsys_core.ranking import ingest

FIRST, SECOND, THIRD = (datetime.date(2024, 1, number) for number in (1, 2, 3))


def test_a_run_opens_only_the_days_that_it_has_not_read(emulator: Emulator, write: Callable, tmp_path: Path) -> None:
    for day in (FIRST, SECOND, THIRD):
        for region in ("eu", "us"):
            rows = pa.table({"label": [0, 1], "user_id": [day.day, 7]})
            write(f"odps://shop/tables/impressions/region={region}/ds={day:%Y%m%d}", rows)
    data = Config(source="odps://shop/tables/impressions/region=eu/ds={day}")

    def run(day: datetime.date) -> tuple[list[tuple[datetime.date, int, int]], int]:
        needed = ingest.needed(data, day, held_out=NextDay(), base_learned=None, window_days=1)
        request = ingest.Request(
            output=tmp_path / "ingest",
            config=Ranking(),
            data=data,
            day=day,
            **needed._asdict(),
            import_root=tmp_path / "imports",
            config_hash="c",
            code_version="tests",
        )
        emulator.faults.clear()
        log = ingest.run(request, silent)
        opened = emulator.faults.requests["open_read"]
        assert readers.opened(log.days[0].folder).schema.names == ["label", "user_id", "region", "ds"]
        return [(one.day, one.num_rows, one.num_positives) for one in log.days], opened

    assert run(FIRST) == ([(FIRST, 2, 1), (SECOND, 2, 1)], 2)
    assert run(FIRST)[1] == 0
    assert run(SECOND) == ([(SECOND, 2, 1), (THIRD, 2, 1)], 1)
    assert ingest.last_day(data, NextDay()) == SECOND
    other = data.model_copy(update={"source": "odps://shop/tables/impressions/region=eu/dt={day}"})
    with pytest.raises(ValueError, match="the table is not partitioned by dt; name its key of days"):
        ingest.last_day(other, NextDay())
