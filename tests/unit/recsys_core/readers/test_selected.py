"""Rows by filter and by share, pruning by statistics and partitions, and tables on an S3 server."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys_core import readers
from recsys_core.readers import Selected, Selection, memory, parquet

TABLE = pa.table({"row": np.arange(40), "city": pa.array(["A", None, "B", "C"] * 10), "x": np.arange(40) / 4})


def rows(reader, column="row"):
    blocks = range(len(reader.block_rows))
    return [value for block in blocks for value in reader.read(block, [column]).column(column).to_pylist()]


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (("row", "==", 3), [3]),
        (("row", "!=", 3), [*range(3), *range(4, 40)]),
        (("row", "<", 2), [0, 1]),
        (("row", "<=", 2), [0, 1, 2]),
        (("row", ">", 38), [39]),
        (("row", ">=", 38), [38, 39]),
        (("city", "in", ["B", "Z"]), list(range(2, 40, 4))),
        (("city", "not in", ["B", "C"]), list(range(0, 40, 4))),
        (("city", "!=", "A"), [row for row in range(40) if row % 4 >= 2]),
    ],
)
def test_conditions_by_hand(tmp_path, condition, expected):
    pq.write_table(TABLE, tmp_path / "a.parquet", row_group_size=7)
    for whole in (memory.Reader(TABLE), parquet.Reader(parquet.Config(path=str(tmp_path)))):
        chosen = Selected(whole, Selection(filter=(condition,)))
        assert rows(chosen) == expected
        assert chosen.num_rows == len(expected)
        again = Selected(whole, Selection(filter=(condition,)), chosen.state())
        assert rows(again) == expected


def test_all_conditions_hold_and_columns_they_need_are_not_returned():
    chosen = Selected(memory.Reader(TABLE), Selection(filter=(("row", ">", 5), ("city", "==", "A"))))
    assert rows(chosen, "x") == [2.0 + step for step in range(8)]
    assert chosen.read(0, ["x"]).column_names == ["x"]


def test_a_share_is_drawn_by_the_seed_alone():
    table = memory.Reader(pa.table({"row": np.arange(50_000)}))
    first = Selected(table, Selection(share=0.3, seed=1))
    assert first.num_rows == pytest.approx(15_000, rel=0.05)
    assert rows(first) == rows(Selected(table, Selection(share=0.3, seed=1)))
    assert rows(first) != rows(Selected(table, Selection(share=0.3, seed=2)))


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        (("age", ">", 1), "there is no column 'age'; there are row, city, x"),
        (("city", ">", 1), "city is string, which 1 cannot be held against"),
        (("row", "in", ["a"]), r"row is int64, which \['a'\] cannot be held against"),
    ],
)
def test_conditions_that_make_no_sense_are_refused(condition, message):
    with pytest.raises(ValueError, match=message):
        Selected(memory.Reader(TABLE), Selection(filter=(condition,)))


def test_row_groups_and_folders_that_hold_nothing_wanted_are_not_read(tmp_path):
    for day, start in (("2024-01-01", 0), ("2024-01-02", 20)):
        folder = tmp_path / f"ds={day}"
        folder.mkdir()
        pq.write_table(TABLE.slice(start, 20), folder / "a.parquet", row_group_size=10)
    whole = parquet.Reader(parquet.Config(path=str(tmp_path)))
    assert whole.schema.names == ["row", "city", "x", "ds"]
    by_row, by_day = Selection(filter=(("row", ">=", 30),)), Selection(filter=(("ds", "==", "2024-01-01"),))
    from recsys_core.readers._selected import expression

    assert whole.may_hold(expression(by_row.filter)).tolist() == [False, False, False, True]
    assert whole.may_hold(expression(by_day.filter)).tolist() == [True, True, False, False]
    assert rows(Selected(whole, by_row), "ds") == ["2024-01-02"] * 10
    assert rows(Selected(whole, by_day)) == list(range(20))


def test_folders_with_other_partition_keys_are_named(tmp_path):
    for folder in ("ds=1", "day=1"):
        (tmp_path / folder).mkdir()
        pq.write_table(TABLE, tmp_path / folder / "a.parquet")
    with pytest.raises(ValueError, match=r"ds=1/a.parquet: its folders name the partition keys \['ds'\]"):
        parquet.Reader(parquet.Config(path=str(tmp_path)))


def test_a_table_on_s3_reads_like_a_local_one_and_its_fingerprint_shows_changes(s3, tmp_path):
    s3.create_bucket(Bucket="shop")
    for day in ("1", "2"):
        pq.write_table(TABLE, tmp_path / "a.parquet", row_group_size=7)
        s3.upload_file(str(tmp_path / "a.parquet"), "shop", f"log/ds={day}/a.parquet")
    config = readers.infer("s3://shop/log")
    assert config.kind == "parquet"
    first = readers.build(config)
    other = readers.build(config, first.state())
    assert rows(first) == rows(other) == [*range(40), *range(40)]
    assert rows(other, "ds") == ["1"] * 40 + ["2"] * 40
    assert Selected(other, Selection(filter=(("ds", "==", "2"), ("row", "<", 9)))).num_rows == 9
    pq.write_table(TABLE.slice(1), tmp_path / "a.parquet")
    s3.upload_file(str(tmp_path / "a.parquet"), "shop", "log/ds=1/a.parquet")
    first._files.locations[0].filesystem.invalidate_cache()
    changed = readers.build(config).fingerprint
    assert [path for path, version in first.fingerprint.items() if changed[path] != version] == ["ds=1/a.parquet"]
    with pytest.raises(ValueError, match="no such file or directory; did you mean 'log'"):
        readers.infer("s3://shop/logg")


def test_formats_that_cannot_be_inferred_are_refused(tmp_path):
    (tmp_path / "a.csv").write_text("a\n1\n")
    pq.write_table(TABLE, tmp_path / "b.parquet")
    with pytest.raises(ValueError, match=r"files of several formats \(.*a\.csv, .*b\.parquet\)"):
        readers.infer(str(tmp_path))
    (tmp_path / "c.jsonl").write_text("{}")
    with pytest.raises(ValueError, match=r"c\.jsonl: its name ends in none of"):
        readers.infer(str(tmp_path / "c.jsonl"))
