"""Labelled splits as teams write them: in Hive folders, under odd names, with markers and files without rows."""

import datetime
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys_core import ranking, readers
from recsys_core.artifacts import LabelledData
from recsys_core.datasets.labelled import base, splits
from recsys_core.features import Config as Features
from recsys_core.progress import silent
from recsys_core.ranking import prepare

DAY = datetime.date(2024, 1, 1)


def write(folder: Path, num_rows: int, name: str = "part-0.parquet") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rows = {
        "label": pa.array([n % 2 for n in range(num_rows)], pa.int64()),
        "item": pa.array(range(num_rows), pa.int64()),
    }
    pq.write_table(pa.table(rows), folder / name)
    return folder / name


def prepared(source: Path, output: Path, item: tuple[Any, ...] = ()) -> LabelledData:
    features = {"embedding_dim": 4, "query": [], "item": [{"kind": "id", "name": "item", "num_embeddings": 16}, *item]}
    data = splits.Config(source=str(source), day=DAY)
    request = prepare.Request(
        output=output,
        config=ranking.Config(),
        data=data,
        features=Features.model_validate(features),
        import_root=output.parent,
        fingerprint=prepare.fingerprint(data),
        config_hash="c",
        code_version="v",
    )
    return prepare.run(request, silent)


def test_hive_folders_are_rows_and_columns(tmp_path: Path) -> None:
    write(tmp_path / "data/train/ds=2024-01-01/hour=7", 3)
    write(tmp_path / "data/train/ds=2024-01-02/hour=8", 5, "000001_0")
    write(tmp_path / "data/train/ds=2024-01-02/hour=9", 0)
    write(tmp_path / "data/test/ds=2024-01-03/hour=7", 4, "A.PARQUET")
    # What other programs leave is no row.
    write(tmp_path / "data/train/ds=2024-01-02/hour=8", 7, ".part-0.parquet")
    (tmp_path / "data/train/_SUCCESS").touch()
    data = prepared(tmp_path / "data", tmp_path / "prepare", ({"kind": "id", "name": "hour", "num_embeddings": 8},))
    assert {split.name: split.num_rows for split in data.splits} == {"train": 8, "test": 4}
    assert data.columns == {"label": "int64", "item": "int64", "ds": "string", "hour": "string"}
    listed = (data.path / "files.json").read_text().splitlines()
    assert [line.split()[0] for line in listed] == [
        "train/ds=2024-01-01/hour=7/part-0.parquet",
        "train/ds=2024-01-02/hour=8/000001_0",
        "train/ds=2024-01-02/hour=9/part-0.parquet",
        "test/ds=2024-01-03/hour=7/A.PARQUET",
    ]
    hours = readers.read_all(ranking.opened(data, "train"), ["hour"])["hour"].to_pylist()
    assert hours == ["7"] * 3 + ["8"] * 5


@pytest.mark.parametrize("name", ["a,b/data", ".cache/_data", "*", "x [1]#%20?é", "k=v", "~data"])
def test_a_source_of_any_name_is_read_as_it_is(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / name / "train", 6)
    data = prepared(Path(name), tmp_path / "pre,pared" / "prepare")
    assert [split.num_rows for split in data.splits] == [6]
    # The folders above a source are none of its columns.
    assert list(data.columns) == ["label", "item"]
    assert ranking.opened(data, "train").num_rows == 6


def test_a_split_that_changed_since_it_was_checked_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "data/train", 6)
    data = prepared(tmp_path / "data", tmp_path / "prepare")
    write(tmp_path / "data/train", 2, "part-1.parquet")
    with pytest.raises(ValueError, match="data/train: 8 rows where prepare checked 6; the split has changed since"):
        ranking.opened(data, "train")


def test_what_is_no_folder_of_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="data: has no folder train; labelled tables lie in train, valid, test"):
        base.splits(tmp_path / "data")
    path = write(tmp_path / "data/train", 6)
    for make in (lambda at: at.touch(), lambda at: at.symlink_to("nowhere")):
        make(tmp_path / "data/valid")
        with pytest.raises(ValueError, match="data/valid: no folder; a split is a folder of files"):
            prepared(tmp_path / "data", tmp_path / "prepare")
        (tmp_path / "data/valid").unlink()
    os.mkfifo(tmp_path / "data/train/x.parquet")
    with pytest.raises(ValueError, match="x.parquet: a FIFO, socket or device"):
        prepared(tmp_path / "data", tmp_path / "prepare")
    (tmp_path / "data/train/x.parquet").unlink()
    path.unlink()
    with pytest.raises(ValueError, match="data/train: a directory without any .parquet"):
        prepared(tmp_path / "data", tmp_path / "prepare")


def test_the_fingerprint_follows_which_split_a_file_is_in_and_no_marker(tmp_path: Path) -> None:
    for split, name in (("test", "a.parquet"), ("train", "b.parquet"), ("train", "c.parquet")):
        write(tmp_path / split, 4, name)
    config = splits.Config(source=str(tmp_path), day=DAY)
    before = splits.fingerprint(config)
    (tmp_path / "train/_SUCCESS").touch()
    (tmp_path / "README.md").touch()
    assert splits.fingerprint(config) == before
    (tmp_path / "train/b.parquet").rename(tmp_path / "test/b.parquet")
    assert splits.fingerprint(config) != before
