"""Tables of MaxCompute become a log day by day; a run opens no partition that it has read before."""

import datetime
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from recsys_core import ingest
from recsys_core.datasets import tables
from recsys_core.odps.emulator import Emulator
from recsys_core.progress import silent

NOON = 1_704_110_400  # 2024-01-01 12:00 UTC
FIRST = datetime.date(2024, 1, 1)


def _day(write: Callable, number: int, *users: int) -> None:
    at = pa.array([NOON + number * 86_400] * len(users))
    place = f"ds=202401{number + 1:02d}"
    write(f"odps://shop/tables/clicks/{place}", pa.table({"user_id": users, "item_id": users, "timestamp": at}))
    for name in ("users", "items"):
        write(f"odps://shop/tables/{name}/{place}", pa.table({f"{name[:-1]}_id": users}))


def test_a_daily_run_opens_only_what_it_has_not_read(emulator: Emulator, write: Callable, tmp_path: Path) -> None:
    source = {name: f"odps://shop/tables/{name}" for name in ("users", "items")}
    config = tables.Config(source=source | {"interactions": "odps://shop/tables/clicks"})
    for number in range(3):
        _day(write, number, number, number + 1)

    def opened_by(work: Callable[[], object]) -> int:
        emulator.faults.clear()
        work()
        return emulator.faults.requests["open_read"]

    def imports(day: datetime.date) -> Path:
        return ingest.prepare(config, tmp_path / "imports", silent, day=day)

    assert opened_by(lambda: imports(FIRST)) == 2 * 3
    assert opened_by(lambda: imports(FIRST)) == 0
    before = ingest.fingerprint(config, FIRST)
    assert opened_by(lambda: imports(FIRST + datetime.timedelta(days=1))) == 3
    log = imports(FIRST)
    assert sorted(path.name for path in (log / "interactions").iterdir()) == [f"ds=2024-01-0{n}" for n in (1, 2, 3)]
    # Another day changes nothing of those that are there.
    _day(write, 3, 7)
    assert opened_by(lambda: ingest.import_day(config, tmp_path / "log", silent, datetime.date(2024, 1, 4))) == 3
    assert [path.name for path in (tmp_path / "log" / "interactions").iterdir()] == ["ds=2024-01-04"]
    assert ingest.fingerprint(config, FIRST) == before
