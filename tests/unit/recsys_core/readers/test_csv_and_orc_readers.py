"""The CSV and ORC readers: blocks, headers, types, gzip members, and what they say of damaged files."""

import gzip

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import orc

from recsys_core.readers import _csv_text
from recsys_core.readers import csv as csv_reader
from recsys_core.readers import orc as orc_reader


def opened(path, **keys):
    return csv_reader.Reader(csv_reader.Config(path=str(path), options=csv_reader.Options(**keys)))


def rows(reader, columns=None):
    names = columns or reader.schema.names
    return pa.concat_tables([reader.read(block, names) for block in range(len(reader.block_rows))])


def lines(count, start=0):
    return "".join(f"{row},{row / 2},name {row}\n" for row in range(start, start + count))


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(_csv_text, "BLOCK_BYTES", 200)
    monkeypatch.setattr(_csv_text, "_GZIP_BYTES", 64)


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
    assert len(reader._texts[0]._bytes._places) > 5
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


def test_a_value_that_does_not_fit_the_given_type_is_refused_with_its_line(tmp_path, small_blocks):
    (tmp_path / "a.csv").write_text("a,b\n" + "1,2\n" * 200 + "\n1,many\n")
    reader = opened(tmp_path, types={"b": "int64"})
    with pytest.raises(
        ValueError, match=r"a\.csv: line 203: conversion error to int64: invalid value 'many'; mend it,"
    ):
        rows(reader)


@pytest.mark.parametrize("late", ["007", "x", "1.5", "0x1F", "18446744073709551615", "2024-01-02", "true"])
def test_a_column_has_the_type_of_all_of_its_values_in_all_files(tmp_path, small_blocks, late):
    """Whatever stands in the first block, and in the first file."""
    (tmp_path / "a.csv").write_text("a,b\n" + "1,2\n" * 200)
    (tmp_path / "b.csv").write_text("a,b\n" + "1,2\n" * 200 + f"{late},2\n")
    found = rows(opened(tmp_path))
    expected = [*["1"] * 400, late] if late != "1.5" else [*[1.0] * 400, 1.5]
    assert found["a"].to_pylist() == expected
    assert found["b"].to_pylist() == [2] * 401


def test_numbers_are_those_that_would_be_written_as_they_are(tmp_path):
    (tmp_path / "a.csv").write_text(
        "zeros,fraction,hexadecimal,long,large,negative,time,one\n"
        '007,0.5,0x1F,18446744073709551615,9007199254740993,-5,03:04:05,"07"\n'
        "70,1e-3,7,1,1,-07,03:04:05,7\n"
    )
    found = rows(opened(tmp_path)).to_pydict()
    assert found["zeros"] == ["007", "70"]
    assert found["fraction"] == [0.5, 0.001]
    assert found["hexadecimal"] == ["0x1F", "7"]
    assert found["long"] == ["18446744073709551615", "1"]
    assert found["large"] == [9007199254740993, 1]
    assert found["negative"] == ["-5", "-07"]
    assert found["one"] == ["07", "7"]


def test_integers_that_no_double_holds_stay_as_they_are_beside_fractions(tmp_path, small_blocks):
    (tmp_path / "a.csv").write_text("a\n" + "9007199254740993\n" * 50 + "0.5\n" * 100)
    assert set(rows(opened(tmp_path))["a"].to_pylist()) == {"9007199254740993", "0.5"}


@pytest.mark.parametrize(
    ("encoding", "keys"),
    [
        ("utf-8-sig", {}),
        ("utf-16", {}),
        ("utf-32", {}),
        ("latin-1", {"encoding": "latin-1"}),
        ("utf-16-be", {"encoding": "utf-16-be"}),
        ("cp1252", {"encoding": "windows-1252"}),
    ],
)
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("suffix", [".csv", ".csv.gz"])
def test_encodings_and_ends_of_lines(tmp_path, small_blocks, encoding, keys, ending, suffix):
    text = ending.join(["navn,n", *(f"Bokmål Ø {n},{n}" for n in range(100))]) + ending
    content = text.encode(encoding)
    (tmp_path / f"a{suffix}").write_bytes(gzip.compress(content) if suffix.endswith("gz") else content)
    reader = opened(tmp_path, **keys)
    assert len(reader.block_rows) > 3
    again = csv_reader.Reader(csv_reader.Config(path=str(tmp_path), options=reader._options), reader.state())
    for one in (reader, again):
        assert rows(one).to_pydict() == {"navn": [f"Bokmål Ø {n}" for n in range(100)], "n": list(range(100))}
    assert reader.place(1) == (str(tmp_path / f"a{suffix}"), int(reader.block_rows[0]))


def test_characters_of_several_bytes(tmp_path, small_blocks):
    # U+0A0A and U+0D0A hold the bytes of line ends.
    text = "a,b\n" + "ਊഊ,1\n" * 100
    (tmp_path / "a.csv").write_bytes(text.encode("utf-16"))
    assert rows(opened(tmp_path))["a"].to_pylist() == ["ਊഊ"] * 100
    (tmp_path / "a.csv").write_bytes("名,数\n商品,1\n".encode("gb18030"))
    assert rows(opened(tmp_path, encoding="gb18030")).to_pydict() == {"名": ["商品"], "数": [1]}


def test_quotes_escapes_and_delimiters(tmp_path):
    (tmp_path / "a.csv").write_text("a;'b;c'\n'x;y';'it\\'s'\n")
    found = rows(opened(tmp_path, delimiter=";", quote="'", escape="\\"))
    assert found.to_pydict() == {"a": ["x;y"], "b;c": ["it's"]}
    (tmp_path / "a.csv").write_text('a,b\n"5"" pipe",x\n7" tube,"y"\n8" tube,1\n')
    assert rows(opened(tmp_path)).to_pydict() == {"a": ['5" pipe', '7" tube', '8" tube'], "b": ["x", "y", "1"]}
    (tmp_path / "a.csv").write_text('a,b\n"5,1\n')
    assert rows(opened(tmp_path, quote=None)).to_pydict() == {"a": ['"5'], "b": [1]}


@pytest.mark.parametrize(
    ("text", "keys", "message"),
    [
        (b"a,b\n1,2\n", {"types": {"c": "int64"}}, "types: there is no column 'c'; there are a, b"),
        (b"a,b\n1,2\n", {"types": {"a": "integer"}}, "'integer' is no type that Arrow knows by name"),
        (b"a,b\n1,2\n", {"encoding": "klingon"}, "'klingon' is no encoding of text"),
        (b"a,b\n1,2\n", {"encoding": "base64"}, "'base64' is no encoding of text"),
        (b"a,b\n1,2\n", {"encoding": "cp037"}, "'cp037': its commas and line feeds are not those of ASCII"),
        (b"a,b\n1,2\n", {"delimiter": '"'}, "they are different signs"),
        (b"a,b\n1,2\n", {"delimiter": "\n"}, "write one character of ASCII that ends no line"),
        (b"a,b\n1,2\n", {"column_names": ["a", "b"]}, "column_names: the header names the columns"),
        (
            b"1,2\n",
            {"column_names": ["a", "a"], "header": False},
            "column_names: the column 'a' is there more than once",
        ),
        (b"", {}, r"a\.csv: no names of columns"),
        (b"a,b,a\n1,2,3\n", {}, r"a\.csv: the column 'a' is there more than once"),
        (b"a;b\n1;2\n", {}, r"a\.csv: the header 'a;b' is one column if values are split at ','; say csv.delimiter"),
        (b'a\n"x\ny"\n', {}, r"a\.csv: line 2: a quoted value does not end on its line"),
        (b'a,b\n1,2\n\n3,"x\n', {}, r"a\.csv: line 4: a quoted value does not end on its line; close the quote"),
        (b'a,b\n1,"2\n3,4\n5,6\n', {}, r"a\.csv: line 2: a quoted value does not end on its line"),
        (b"a,b\n1,2\n\n3\n", {}, r"a\.csv: line 4: 1 values where there are 2 columns: '3'; mend the line"),
        (b"a,b\n1,2\n3,4,5\n", {}, r"a\.csv: line 3: 3 values where there are 2 columns: '3,4,5'"),
        (b"a,b\n1,2\nx,\xe9\n", {}, r"a\.csv: line 3: byte 0xe9 is not utf-8; say the file's encoding in csv.enc"),
        (b"a,b\n1,2\nx\0,3\n", {}, r"a\.csv: line 3: a NUL byte, which no text holds; say the file's encoding"),
        ("a,b\n1,2\n".encode("utf-16-le"), {}, r"a\.csv: line 1: a NUL byte"),
        (b"a,b\n1,2\nx\ry,3\n", {}, r"a\.csv: line 3: a carriage return inside of the line"),
        (b"a,b\r1,2\rx\ny,3\r", {}, r"a\.csv: line 1: a carriage return inside of the line"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_line(tmp_path, text, keys, message):
    (tmp_path / "a.csv").write_bytes(text)
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
