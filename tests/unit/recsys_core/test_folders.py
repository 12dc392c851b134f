"""Which files belong to a folder: what is read, what is left to other programs, and what is refused by name."""

import os
import socket
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from recsys_core import folders


def write(root: Path, *names: str, content: bytes = b"x") -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def names(root: Path) -> list[str]:
    return [str(path.relative_to(root)) for path in folders.local_files(root)]


def test_files_of_every_spelling_and_depth_belong_to_a_folder(tmp_path: Path) -> None:
    there = [
        "A.PARQUET",
        "b/hour=13/c.Parquet",
        "b/hour=14/d.parq",
        "e.pq",
        "f.ORC",
        "g.CSV.GZ",
        "h.tsv",
        "x.parquet/i.csv",
    ]
    write(tmp_path, *there)
    assert names(tmp_path) == sorted(there)
    assert [folders.format_by_name(name) for name in there] == ["parquet"] * 4 + ["orc", "csv", "csv", "csv"]


def test_what_other_programs_mark_as_theirs_is_never_read(tmp_path: Path) -> None:
    hidden = [".part.parquet", "_part.parquet", "_SUCCESS", "_temporary/0/a.parquet", ".hive-staging/a.parquet"]
    write(tmp_path, "a.parquet", "a.parquet.crc", ".a.parquet.crc", "ds=1_$folder$", *hidden)
    (tmp_path / ".broken").symlink_to("nothing")
    assert names(tmp_path) == ["a.parquet"]


def test_hidden_is_what_lies_below_the_folder_not_above_it(tmp_path: Path) -> None:
    write(tmp_path, ".cache/_runs/a.parquet")
    assert names(tmp_path / ".cache/_runs") == ["a.parquet"]


def test_a_file_without_a_suffix_is_what_it_begins_as(tmp_path: Path) -> None:
    write(tmp_path, "000000_0", "000001_0_copy_1", content=b"PAR1....")
    write(tmp_path, "part-m-00000", content=b"ORC.....")
    assert names(tmp_path) == ["000000_0", "000001_0_copy_1", "part-m-00000"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("notes.txt", b"x", "ends in none of .parquet"),
        ("part.parquet.tmp", b"PAR1", "ends in none of .parquet"),
        ("x.json", b"{}", "ends in none of .parquet"),
        ("a.csv.zst", b"x", "ends in none of .parquet"),
        ("README", b"x", "has no suffix, and it begins as neither Parquet nor ORC"),
        ("000001_0", b"", "has no suffix, and it begins as neither Parquet nor ORC"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    write(tmp_path, "a.parquet")
    write(tmp_path, f"ds=1/{name}", content=content)
    with pytest.raises(ValueError, match=rf"/ds=1/{name}: its name {message}.*move it out of the folder$"):
        folders.local_files(tmp_path)


def test_a_fifo_and_a_socket_are_refused_without_being_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=r"x.parquet: a FIFO, socket or device and no file"):
        folders.local_files(tmp_path)
    (tmp_path / "x.parquet").unlink()
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(str(tmp_path / "y.parquet"))
        with pytest.raises(ValueError, match=r"y.parquet: a FIFO, socket or device and no file"):
            folders.local_files(tmp_path)


def test_links_are_followed_unless_they_lead_nowhere_or_in_a_circle(tmp_path: Path) -> None:
    write(tmp_path, "data/a.parquet", "elsewhere/b.parquet")
    (tmp_path / "data/linked").symlink_to(tmp_path / "elsewhere")
    assert names(tmp_path / "data") == ["a.parquet", "linked/b.parquet"]
    for target, message in (
        ("nothing", "more.parquet: a link to what is not there; restore"),
        ("more.parquet", "more.parquet: cannot be reached"),
        ("..", r"more.parquet: a link to a folder that it is in|data: a link to a folder that it is in"),
        (".", "more.parquet: a link to a folder that it is in"),
    ):
        (tmp_path / "data/more.parquet").symlink_to(target)
        with pytest.raises(ValueError, match=message):
            folders.local_files(tmp_path / "data")
        (tmp_path / "data/more.parquet").unlink()


def test_a_file_that_is_there_twice_is_refused_but_not_in_two_partitions(tmp_path: Path) -> None:
    write(tmp_path, "ds=1/a.parquet")
    (tmp_path / "ds=2").symlink_to("ds=1")
    assert names(tmp_path) == ["ds=1/a.parquet", "ds=2/a.parquet"]
    (tmp_path / "ds=1/latest.parquet").symlink_to("a.parquet")
    with pytest.raises(
        ValueError, match=r"latest.parquet: the same file as .*a.parquet, so its rows would count twice"
    ):
        folders.local_files(tmp_path / "ds=1")
    (tmp_path / "ds=1/latest.parquet").unlink()
    os.link(tmp_path / "ds=1/a.parquet", tmp_path / "ds=1/b.parquet")
    with pytest.raises(ValueError, match=r"b.parquet: the same file as .*a.parquet"):
        folders.local_files(tmp_path / "ds=1")


@pytest.mark.parametrize("marker", ["_delta_log/0.json", ".hoodie/hoodie.properties"])
def test_a_folder_with_rows_of_older_versions_is_refused(tmp_path: Path, marker: str) -> None:
    write(tmp_path, "a.parquet", "b.parquet", marker)
    with pytest.raises(ValueError, match="whose folder has rows of older versions too; export the present one"):
        folders.local_files(tmp_path)


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"a\xff.parquet")).write_bytes(b"x")
    with pytest.raises(ValueError, match=r"a\\udcff.parquet': its name is not UTF-8"):
        folders.local_files(tmp_path)


def test_a_store_is_read_by_the_same_rule(object_store: MemoryFileSystem) -> None:
    object_store.pipe(
        {f"/lake/{name}": b"PAR1" for name in ("b/1_0", "a.PARQUET", "_SUCCESS", ".x/a.parquet", "b/_y.parquet")}
    )
    assert folders.files(object_store, "/lake") == ["/lake/a.PARQUET", "/lake/b/1_0"]
    object_store.pipe("/lake/b/notes.txt", b"x")
    with pytest.raises(ValueError, match="/lake/b/notes.txt: its name ends in none"):
        folders.files(object_store, "/lake")
    assert "/lake/b/notes.txt" in folders.files(object_store, "/lake", of_any_format=True)
