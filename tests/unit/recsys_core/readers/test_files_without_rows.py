"""Files without rows, of every format: they have no blocks, and need to agree with none in their columns."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import orc

from recsys_core import profile, readers
from recsys_core.progress import silent

ROWS = pa.table({"a": [1, 2, 3], "b": ["x", "y", None]})
NONE = pa.table({"a": pa.array([], pa.null()), "c": pa.array([], pa.float32())})


def _write(path: Path, table: pa.Table) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".csv":
        lines = [",".join(table.column_names), *(f"{row['a']},{row['b'] or ''}" for row in table.to_pylist())]
        path.write_text("\n".join(lines) + "\n")
    elif path.suffix == ".orc":
        orc.write_table(
            table.cast(pa.schema([("a", pa.int32()), ("c", pa.float32())])) if table is NONE else table, path
        )
    else:
        pq.write_table(table, path)


@pytest.mark.parametrize("suffix", ["parquet", "orc", "csv"])
def test_they_have_no_blocks_and_no_say_in_the_columns(suffix: str, tmp_path: Path) -> None:
    for name, table in (("0", NONE), ("1", ROWS), ("2", NONE), ("3", ROWS)):
        _write(tmp_path / "data" / f"{name}.{suffix}", table)
    reader = readers.opened(tmp_path / "data")
    assert reader.schema.names == ["a", "b"]
    assert reader.block_rows.tolist() == [3, 3]
    assert readers.read_all(reader, ["a"])["a"].to_pylist() == [1, 2, 3] * 2
    assert readers.read_all(reader, num_rows=4)["a"].to_pylist() == [1, 2, 3, 1]
    again = type(reader)(readers.infer(tmp_path / "data"), reader.state())
    assert readers.read_all(again, ["a"])["a"].to_pylist() == [1, 2, 3] * 2
    found = profile.run(str(tmp_path / "data"), silent)
    assert (found.rows, found.files, list(found.columns)) == (6, 4, ["a", "b"])


@pytest.mark.parametrize("suffix", ["parquet", "orc", "csv"])
def test_a_table_may_have_no_rows_at_all(suffix: str, tmp_path: Path) -> None:
    for name in "01":
        _write(tmp_path / f"{name}.{suffix}", ROWS.slice(0, 0))
    reader = readers.opened(tmp_path)
    assert (reader.num_rows, len(reader.block_rows), reader.schema.names) == (0, 0, ["a", "b"])
    table = readers.read_all(reader, ["b"])
    assert (table.num_rows, table.column_names) == (0, ["b"])


def test_statistics_are_asked_of_blocks_that_there_are(tmp_path: Path) -> None:
    for name, table in (("0", ROWS.slice(0, 0)), ("1", ROWS), ("2", ROWS)):
        _write(tmp_path / f"k={name}" / "a.parquet", table)
    chosen = readers.Selected(readers.opened(tmp_path), readers.Selection(filter=(("k", "==", "2"),)))
    assert chosen.block_rows.tolist() == [0, 3]
    assert readers.read_all(chosen, ["k", "a"]).to_pylist() == [{"k": "2", "a": n} for n in (1, 2, 3)]
