"""The Parquet reader: blocks, projection, and what it says of damaged files."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys_core.readers import memory, parquet
from recsys_core.writers.parquet import Writer


def _write(path, start, stop, rows_per_group=10):
    pq.write_table(
        pa.table({"a": np.arange(start, stop), "b": ["x"] * (stop - start)}), path, row_group_size=rows_per_group
    )


def test_blocks_are_row_groups_in_the_order_of_the_files(tmp_path):
    _write(tmp_path / "part-1.parquet", 25, 40)
    _write(tmp_path / "part-0.parquet", 0, 25)
    reader = parquet.Reader(parquet.Config(path=str(tmp_path)))
    assert reader.block_rows.tolist() == [10, 10, 5, 10, 5]
    assert reader.num_rows == 40
    rows = [value for block in range(5) for value in reader.read(block, ["a"]).column("a").to_pylist()]
    assert rows == list(range(40))
    assert reader.read(4, ["b"]).column_names == ["b"]


def test_more_files_are_read_in_turns_than_stay_open(tmp_path):
    for file in range(20):
        _write(tmp_path / f"part-{file:02d}.parquet", file * 4, file * 4 + 4, rows_per_group=2)
    reader = parquet.Reader(parquet.Config(path=str(tmp_path)))
    turns = [*range(0, 40, 2), *range(1, 40, 2), *range(39, -1, -1)]
    assert [reader.read(block, ["a"]).column("a").to_pylist() for block in turns] == [[2 * b, 2 * b + 1] for b in turns]


def test_a_file_that_is_not_parquet_is_named(tmp_path):
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(ValueError, match=r"broken\.parquet: not a readable Parquet file"):
        parquet.Reader(parquet.Config(path=str(tmp_path)))


def test_a_damaged_row_group_is_named(tmp_path):
    path = tmp_path / "damaged.parquet"
    _write(path, 0, 30)
    content = bytearray(path.read_bytes())
    content[4:60] = b"\xff" * 56
    path.write_bytes(bytes(content))
    reader = parquet.Reader(parquet.Config(path=str(path)))
    with pytest.raises(ValueError, match=r"damaged\.parquet: row group 0 \(rows 0 to 10\) cannot be read"):
        reader.read(0, ["a"])


def test_files_of_different_schemas_are_named(tmp_path):
    _write(tmp_path / "a.parquet", 0, 3)
    pq.write_table(pa.table({"a": ["text"]}), tmp_path / "b.parquet")
    with pytest.raises(ValueError, match=r"b\.parquet: its schema differs from that of .*a\.parquet"):
        parquet.Reader(parquet.Config(path=str(tmp_path)))


def test_memory_reader_cuts_without_losing_rows():
    table = pa.table({"a": np.arange(40_000), "b": np.zeros(40_000)})
    reader = memory.Reader(table)
    assert reader.num_rows == 40_000
    read = pa.concat_tables([reader.read(block, ["a"]) for block in range(len(reader.block_rows))])
    assert read.column("a").equals(table.column("a"))


def test_writer_keeps_fixed_size_lists_and_counts_rows(tmp_path):
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(6, dtype=np.float32)), 2)
    table = pa.table({"embedding": vectors})
    with Writer(tmp_path / "out", 3, table.schema) as writer:
        writer.write(table)
        writer.write(table)
    assert writer.num_rows == 6
    assert pq.read_table(tmp_path / "out" / "part-00003.parquet").schema.field("embedding").type == pa.list_(
        pa.float32(), 2
    )
