"""The path grammar: what each piece resolves to, and which piece an error blames."""

import json
import os
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from recsys_core import uri


def write(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)


def paths(root: Path, source: str) -> list[str]:
    return [os.path.relpath(location.path, root) for location in uri.resolve(source)]


def test_a_file_is_taken_whatever_its_ending(tmp_path: Path):
    write(tmp_path, "a.dat")
    assert paths(tmp_path, f"{tmp_path}/a.dat") == ["a.dat"]


def test_a_relative_path_starts_at_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write(tmp_path, "log/a.parquet")
    monkeypatch.chdir(tmp_path)
    assert [location.path for location in uri.resolve("log")] == [str(tmp_path / "log/a.parquet")]


def test_a_directory_is_searched_through_and_sorted_without_temporary_files(tmp_path: Path):
    write(tmp_path, "b/2.parquet", "b/1.csv.gz", "a.orc", "b/_tmp.parquet", ".part/x.parquet", "_SUCCESS", "b/a.crc")
    assert paths(tmp_path, f"{tmp_path}/") == ["a.orc", "b/1.csv.gz", "b/2.parquet"]
    assert paths(tmp_path, f"{tmp_path}/b") == ["b/1.csv.gz", "b/2.parquet"]


def test_a_directory_below_a_hidden_one_is_read(tmp_path: Path):
    write(tmp_path, ".cache/a.parquet")
    assert paths(tmp_path, f"{tmp_path}/.cache") == [".cache/a.parquet"]


def test_globs_are_sorted_and_directories_they_match_are_searched(tmp_path: Path):
    write(
        tmp_path, "ds=2024-01-02/z.parquet", "ds=2024-01-01/b.parquet", "ds=2024-01-01/a.parquet", "ds=2024-02-01/c.csv"
    )
    assert paths(tmp_path, f"{tmp_path}/ds=2024-01-*") == [
        "ds=2024-01-01/a.parquet",
        "ds=2024-01-01/b.parquet",
        "ds=2024-01-02/z.parquet",
    ]
    assert paths(tmp_path, f"{tmp_path}/*/*.csv") == ["ds=2024-02-01/c.csv"]


def test_a_name_with_glob_characters_that_exists_is_itself(tmp_path: Path):
    write(tmp_path, "a[1].csv", "a1.csv")
    assert paths(tmp_path, f"{tmp_path}/a[1].csv") == ["a[1].csv"]


def test_a_list_keeps_its_order(tmp_path: Path):
    write(tmp_path, "b.csv", "a.csv")
    assert paths(tmp_path, f"{tmp_path}/b.csv, {tmp_path}/a.csv") == ["b.csv", "a.csv"]


def test_hive_partitions_are_read_off_the_folders():
    values = uri.partitions("/log/ds=2024-01-01/city=S%C3%A3o Paulo/shop=__HIVE_DEFAULT_PARTITION__/a=b.parquet")
    assert values == {"ds": "2024-01-01", "city": "São Paulo", "shop": None}


def test_resolve_names_the_partitions(tmp_path: Path):
    write(tmp_path, "ds=2024-01-01/hour=07/a.parquet")
    (location,) = uri.resolve(str(tmp_path))
    assert location.partitions == {"ds": "2024-01-01", "hour": "07"}


def test_a_scheme_is_opened_through_fsspec(object_store: MemoryFileSystem):
    object_store.pipe({"/shop/ds=1/b.parquet": b"b", "/shop/ds=1/a.parquet": b"a"})
    found = uri.resolve("memory://shop/")
    assert [location.path for location in found] == ["/shop/ds=1/a.parquet", "/shop/ds=1/b.parquet"]
    assert found[0].filesystem.cat(found[0].path) == b"a"
    before = uri.fingerprint(found)
    object_store.pipe("/shop/ds=1/a.parquet", b"longer")
    assert uri.fingerprint(found) != before


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{0}/log/,,", "an empty piece between commas"),
        ("{0}/log, {0}/lgo", "{0}/lgo: no such file or directory; did you mean 'log'"),
        ("{0}/none/x", "{0}/none/x: no such file or directory$"),
        ("{0}/log/*.orc", r"{0}/log/\*.orc: no file matches"),
        ("{0}/empty", "{0}/empty: a directory without any .parquet"),
        ("s3://", "s3://: names nothing behind its scheme"),
        ("warp://bucket/a", "warp://bucket/a: cannot open 'warp' paths"),
    ],
)
def test_an_error_names_the_piece(tmp_path: Path, source: str, message: str):
    write(tmp_path, "log/a.parquet")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=message.format(tmp_path)):
        uri.resolve(source.format(tmp_path))


def test_the_fingerprint_follows_size_time_and_names_but_not_the_place(tmp_path: Path):
    write(tmp_path, "one/ds=1/a.parquet")
    first = tmp_path / "one/ds=1/a.parquet"
    os.utime(first, (1, 1))
    before = uri.fingerprint(uri.resolve(f"{tmp_path}/one"))
    (tmp_path / "one").rename(tmp_path / "two")
    moved = tmp_path / "two/ds=1/a.parquet"
    assert uri.fingerprint(uri.resolve(f"{tmp_path}/two")) == before
    os.utime(moved, (2, 2))
    assert uri.fingerprint(uri.resolve(f"{tmp_path}/two")) != before
    os.utime(moved, (1, 1))
    write(tmp_path, "two/ds=1/b.parquet")
    assert uri.fingerprint(uri.resolve(f"{tmp_path}/two")) != before


def test_a_path_through_the_parent_hides_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write(tmp_path, "log/a.parquet", "here/x.csv")
    monkeypatch.chdir(tmp_path / "here")
    assert [location.path for location in uri.resolve("../log")] == [str(tmp_path / "log/a.parquet")]


def test_wildcards_stand_for_no_hidden_name_unless_the_pattern_begins_like_one(tmp_path: Path):
    write(tmp_path, "a.csv", ".b.csv", "_c.csv", "_d/e.csv", "_SUCCESS", "f/g.csv")
    assert paths(tmp_path, f"{tmp_path}/*") == ["a.csv", "f/g.csv"]
    assert paths(tmp_path, f"{tmp_path}/**/*.csv") == ["a.csv", "f/g.csv"]
    assert paths(tmp_path, f"{tmp_path}/_*.csv") == ["_c.csv"]
    assert paths(tmp_path, f"{tmp_path}/_d/*.csv") == ["_d/e.csv"]


def test_what_two_wildcards_of_one_pattern_match_counts_once(tmp_path: Path):
    write(tmp_path, "a/b/x.csv", "a/y.csv")
    assert paths(tmp_path, f"{tmp_path}/a/**") == ["a/b/x.csv", "a/y.csv"]


def test_a_file_that_a_list_names_twice_is_refused(tmp_path: Path):
    write(tmp_path, "a/x.csv", "a/y.csv")
    with pytest.raises(ValueError, match=r"a/x.csv is named twice, so its rows would count twice"):
        uri.resolve(f"{tmp_path}/a,{tmp_path}/a/*x.csv")


ODD = (
    "a,b",
    "a b ",
    "*",
    "x[1]",
    "r#1",
    "50%",
    "%20",
    "what?",
    "k=v",
    "café",
    "日本",
    "a::b",
    "~x",
    "{day}",
    "a'\"&;$b",
)


@pytest.mark.parametrize("name", ODD)
def test_a_path_and_a_name_that_exists_are_taken_as_they_are(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write(tmp_path, f"{name}/ds=1/{name}.csv")
    monkeypatch.chdir(tmp_path)
    for source in (tmp_path / name, Path(name), str(tmp_path / name), name):
        (found,) = uri.resolve(source)
        assert found.path == str(tmp_path / name / "ds=1" / f"{name}.csv")
        assert found.filesystem.cat_file(found.path) == f"{name}/ds=1/{name}.csv".encode()
        # Of a path that was made or given, folders above it are no partitions.
        assert found.partitions == (
            {"ds": "1"} if isinstance(source, Path) else {"ds": "1"} | uri.partitions(f"{name}/")
        )
        again = json.loads(json.dumps(uri.to_state([found])))
        assert uri.from_state(again)[0].path == found.path
        assert uri.from_state(again)[0].partitions == found.partitions
        assert [at.path for at in uri.resolve((uri.address(found),))] == [found.path]


def test_a_path_that_is_not_there_names_the_nearest(tmp_path: Path):
    write(tmp_path, "a,b/x.csv")
    with pytest.raises(ValueError, match="a,c: no such file or directory; did you mean 'a,b'"):
        uri.resolve(tmp_path / "a,c")
    (tmp_path / "none,").mkdir()
    with pytest.raises(ValueError, match="none,: a directory without any .parquet"):
        uri.resolve(tmp_path / "none,")


def test_the_fingerprint_follows_folders_that_are_no_partitions(tmp_path: Path):
    write(tmp_path, "a/x.csv", "b/y.csv", "b/z.csv")
    before = uri.fingerprint(uri.resolve(tmp_path))
    (tmp_path / "b/y.csv").rename(tmp_path / "a/y.csv")
    assert uri.fingerprint(uri.resolve(tmp_path)) != before


def test_files_without_a_suffix_have_the_format_of_their_first_bytes(tmp_path: Path):
    (tmp_path / "000000_0").write_bytes(b"PAR1 and so on")
    (tmp_path / "000001_0").write_bytes(b"ORC and so on")
    assert uri.format_of(str(tmp_path / "000000_0")) == "parquet"
    assert uri.format_of(str(tmp_path / "000001_0")) == "orc"
    with pytest.raises(ValueError, match=r"files of several formats \(.*000000_0, .*000001_0\)"):
        uri.format_of(tmp_path)
