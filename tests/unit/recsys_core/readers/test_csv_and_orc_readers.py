"""The CSV and ORC readers: blocks, headers, types, gzip members, and what they say of damaged files."""

import gzip

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import orc

from recsys_core.readers import csv as csv_reader
from recsys_core.readers import orc as orc_reader


def opened(path, **keys):
    return csv_reader.Reader(csv_reader.Config(path=str(path), **keys))


def rows(reader, columns=None):
    names = columns or reader.schema.names
    return pa.concat_tables([reader.read(block, names) for block in range(len(reader.block_rows))])


def lines(count, start=0):
    return "".join(f"{row},{row / 2},name {row}\n" for row in range(start, start + count))


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(csv_reader, "_BLOCK_BYTES", 200)
    monkeypatch.setattr(csv_reader, "_GZIP_BYTES", 64)


def test_a_large_file_is_cut_at_ends_of_lines(tmp_path, small_blocks):
    (tmp_path / "a.csv").write_text("id,half,name\n" + lines(100))
    reader = opened(tmp_path)
    assert len(reader.block_rows) > 5
    assert reader.num_rows == 100
    table = rows(reader)
    assert table["id"].to_pylist() == list(range(100))
    assert table["half"].to_pylist() == [row / 2 for row in range(100)]
    assert rows(reader, ["name"]).column_names == ["name"]


def test_gzip_members_are_one_text_and_any_block_can_be_read_first(tmp_path, small_blocks):
    text = "id,half,name\n" + lines(500)
    half = len(text) // 2
    content = gzip.compress(text[:half].encode()) + gzip.compress(text[half:].encode())
    (tmp_path / "a.csv.gz").write_bytes(content)
    reader = opened(tmp_path)
    assert len(reader._texts[0]._places) > 5
    backwards = [reader.read(block, ["id"]) for block in reversed(range(len(reader.block_rows)))]
    assert pa.concat_tables(backwards[::-1])["id"].to_pylist() == list(range(500))


def test_a_gzip_that_ends_in_the_middle_is_named(tmp_path, small_blocks):
    content = gzip.compress(lines(500).encode())
    (tmp_path / "a.csv.gz").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"a\.csv\.gz: the gzip file ends in the middle"):
        opened(tmp_path, header=False, column_names=["id", "half", "name"])


def test_empty_lines_carriage_returns_and_a_last_line_without_end(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"a,b\r\n1,x\r\n\r\n2,y\r\n\n3,z")
    assert rows(opened(tmp_path)).to_pydict() == {"a": [1, 2, 3], "b": ["x", "y", "z"]}


def test_types_nulls_and_tabs(tmp_path):
    (tmp_path / "a.tsv").write_text("1\t\\N\tx\n2\t7\t\n")
    reader = opened(tmp_path, header=False, column_names=["a", "b", "c"], types={"a": "string", "b": "float32"})
    assert reader.schema.types == [pa.string(), pa.float32(), pa.string()]
    assert rows(reader).to_pydict() == {"a": ["1", "2"], "b": [None, 7.0], "c": ["x", None]}


def test_a_column_without_values_in_the_first_block_is_text(tmp_path, small_blocks):
    (tmp_path / "a.csv").write_text("a,b\n" + "1,\n" * 100 + "2,late\n")
    reader = opened(tmp_path)
    assert rows(reader)["b"].to_pylist() == [None] * 100 + ["late"]


def test_a_value_that_does_not_fit_the_columns_type_is_told_with_its_place(tmp_path, small_blocks):
    (tmp_path / "a.csv").write_text("a\n" + "1\n" * 200 + "many\n")
    reader = opened(tmp_path)
    with pytest.raises(ValueError, match=r"a\.csv: bytes \d+ to \d+ cannot be read .* say the column's type in types"):
        rows(reader)


@pytest.mark.parametrize(
    ("text", "keys", "message"),
    [
        ("a,b\n1,2\n", {"types": {"c": "int64"}}, "types: there is no column 'c'; there are a, b"),
        ("a,b\n1,2\n", {"types": {"a": "integer"}}, "'integer' is no type that Arrow knows by name"),
        ("", {}, "no names of columns"),
        ("a,a\n1,2\n", {}, "two columns have one name"),
        ('a\n"x\ny"\n', {}, "cannot be read|hold 1 rows in 2 lines"),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path, text, keys, message):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        rows(opened(tmp_path, **keys))


def test_files_with_other_columns_are_named(tmp_path):
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    (tmp_path / "b.csv").write_text("a,c\n1,2\n")
    with pytest.raises(ValueError, match=r"b\.csv: its schema differs from that of .*a\.csv: b is absent there"):
        opened(tmp_path)


def test_a_header_alone_is_an_empty_table(tmp_path):
    (tmp_path / "a.csv").write_text("a,b\n")
    reader = opened(tmp_path, types={"a": "int64"})
    assert (reader.num_rows, reader.schema.types) == (0, [pa.int64(), pa.string()])


def test_an_orc_that_is_none_and_one_that_is_damaged_are_named(tmp_path):
    path = tmp_path / "a.orc"
    path.write_bytes(b"ORC and nothing else")
    with pytest.raises(ValueError, match=r"a\.orc: not a readable ORC file"):
        orc_reader.Reader(orc_reader.Config(path=str(path)))
    orc.write_table(pa.table({"a": np.arange(100_000), "s": ["text"] * 100_000}), path, stripe_size=64 * 1024)
    reader = orc_reader.Reader(orc_reader.Config(path=str(path)))
    assert len(reader.block_rows) > 1
    assert reader.read(1, []).num_rows == reader.block_rows[1]
    content = bytearray(path.read_bytes())
    content[3:-20_000] = b"\xff" * (len(content) - 20_003)
    path.write_bytes(bytes(content))
    with pytest.raises(ValueError, match=r"a\.orc: stripe 0 \(rows 0 to 1024\) cannot be read"):
        orc_reader.Reader(orc_reader.Config(path=str(path)), reader.state()).read(0, ["a"])
