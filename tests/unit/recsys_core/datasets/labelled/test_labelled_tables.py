import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from recsys_core.datasets.labelled import tables
from recsys_core.progress import silent
from recsys_core.ranking import prepare

ROWS = pa.table({"label": [0, 1, 1], "user": ["a", "b", "c"]})


def _config(folder: Path, **splits: pa.Table) -> tables.Config:
    for split, table in splits.items():
        (folder / split / "ds=2024-01-02").mkdir(parents=True)
        pq.write_table(table, folder / split / "ds=2024-01-02" / "a.parquet")
    source = {split: str(folder / split / "ds={day}") for split in splits}
    return tables.Config.model_validate({"source": source, "day": "2024-01-02"})


def test_the_day_s_tables_become_splits(tmp_path: Path) -> None:
    config = _config(tmp_path, train=ROWS, test=ROWS.slice(1))
    assert tables.write(config, tmp_path / "out", silent) == {"train": 3, "test": 2}
    assert pq.read_table(tmp_path / "out" / "train")["user"].to_pylist() == ["a", "b", "c"]
    assert pq.read_table(tmp_path / "out" / "test")["ds"].to_pylist() == ["2024-01-02"] * 2
    assert not (tmp_path / "out" / "valid").exists()
    with pytest.raises(ValueError, match="ds=2024-01-03: no such file"):
        prepare.fingerprint(config.model_copy(update={"day": datetime.date(2024, 1, 3)}))


def test_a_table_that_changed_is_another_source(tmp_path: Path) -> None:
    config = _config(tmp_path, train=ROWS)
    before = prepare.fingerprint(config)
    assert prepare.fingerprint(config) == before
    pq.write_table(ROWS.slice(1), tmp_path / "train" / "ds=2024-01-02" / "a.parquet")
    assert prepare.fingerprint(config) != before


def test_what_makes_no_splits_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="names test; name train"):
        tables.Config.model_validate({"source": {"test": "t"}, "day": "2024-01-02"})
    empty = _config(tmp_path / "b", train=ROWS, valid=ROWS.slice(3))
    with pytest.raises(ValueError, match=r"no rows, which are to be the split valid"):
        tables.write(empty, tmp_path / "out", silent)
