"""Archives: members by name, damage told, URLs only with the right checksum, nothing written outside."""

import functools
import hashlib
import http.server
import io
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from recsys_core.datasets import _archive
from recsys_core.progress import Event, silent

COLUMNS = {"user": pa.int64(), "clk": pa.int64()}


def zipped(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Serve `tmp_path` over HTTP."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=tmp_path)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_member_is_found_in_any_subfolder_and_nothing_is_unpacked(tmp_path: Path):
    source = zipped(tmp_path / "a.zip", {"../../evil": b"x", "/etc/evil": b"x", "ml/u.data": b"1\n2\n"})
    before = sorted(tmp_path.rglob("*"))
    with _archive.opened(str(source), None, tmp_path, silent) as archive, archive.open("u.data") as stream:
        assert stream.read() == b"1\n2\n"
        assert archive.holds("u.data")
        assert not archive.holds("u.item")
    assert sorted(tmp_path.rglob("*")) == before
    assert not (tmp_path.parent.parent / "evil").exists()


def test_a_folder_may_hold_members_compressed_as_published(tmp_path: Path):
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w:gz") as packed:
        for name, content in (("notes", b"?"), ("raw.csv", b"user,clk \n7,1\n8,NULL\n")):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            packed.addfile(info, io.BytesIO(content))
    (tmp_path / "raw.csv.tar.gz").write_bytes(tar.getvalue())
    archive = _archive.Archive(tmp_path)
    rows = pa.concat_tables(archive.csv("raw.csv", COLUMNS, delimiter=",", header=True)).to_pylist()
    assert rows == [{"user": 7, "clk": 1}, {"user": 8, "clk": None}]


def test_a_tar_without_the_member_is_refused(tmp_path: Path):
    with tarfile.open(tmp_path / "raw.csv.tar.gz", "w:gz"):
        pass
    with (
        pytest.raises(ValueError, match=r"raw.csv.tar.gz: holds no raw.csv"),
        _archive.Archive(tmp_path).open("raw.csv"),
    ):
        pass


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({}, "one file u.data is needed, and it holds nothing"),
        ({"a/u.data": b"", "b/u.data": b""}, r"it holds several: a/u.data, b/u.data"),
        ({"u.item": b""}, r"it holds u.item$"),
    ],
)
def test_a_member_must_be_there_once(tmp_path: Path, members: dict[str, bytes], message: str):
    archive = _archive.Archive(zipped(tmp_path / "a.zip", members))
    with pytest.raises(ValueError, match=message), archive.open("u.data"):
        pass


def test_a_damaged_member_is_named(tmp_path: Path):
    content = bytearray(zipped(tmp_path / "a.zip", {"u.data": bytes(range(256)) * 40}).read_bytes())
    content[60:90] = bytes(30)
    (tmp_path / "a.zip").write_bytes(content)
    archive = _archive.Archive(tmp_path / "a.zip")
    with pytest.raises(ValueError, match=r"a.zip: u.data is damaged"), archive.open("u.data") as stream:
        stream.read()


def test_what_is_neither_folder_nor_zip_is_refused(tmp_path: Path):
    (tmp_path / "a.zip").write_bytes(b"<html>not found</html>")
    with pytest.raises(ValueError, match="neither a folder nor a zip"):
        _archive.Archive(tmp_path / "a.zip")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("user,click\n1,2\n", "raw.csv has no column 'clk', only user, click"),
        ("user,clk\n1,two\n", "raw.csv: .*two.*is it the published file"),
        ("user,clk\n1\n", "raw.csv: .*is it the published file"),
    ],
)
def test_a_csv_of_another_form_is_refused(tmp_path: Path, text: str, message: str):
    (tmp_path / "raw.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        list(_archive.Archive(tmp_path).csv("raw.csv", COLUMNS, delimiter=",", header=True))


def test_records_are_latin_1_and_complete(tmp_path: Path):
    (tmp_path / "x.dat").write_bytes("1::Amélie\r\n\r\n2::Léon::more\n".encode("latin-1"))
    archive = _archive.Archive(tmp_path)
    assert list(archive.records("x.dat", "::", 2)) == [["1", "Amélie"], ["2", "Léon", "more"]]
    with pytest.raises(ValueError, match=r"x.dat line 1 has 2 fields separated by '::' where 3 are needed"):
        list(archive.records("x.dat", "::", 3))


def test_parquet_must_be_readable_and_have_the_columns(tmp_path: Path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(ValueError, match=r"a.parquet: cannot be read as Parquet"):
        list(_archive.Archive(tmp_path).parquet("a.parquet", ["x"]))
    pa.parquet.write_table(pa.table({"item": [1]}), tmp_path / "a.parquet")  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="no column 'item_id'; did you mean 'item'"):
        list(_archive.Archive(tmp_path).parquet("a.parquet", ["item_id"]))


def test_a_url_needs_the_right_checksum(tmp_path: Path, served: str):
    content = zipped(tmp_path / "a.zip", {"u.data": b"1"}).read_bytes()
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    events: list[Event] = []
    for checksum in (hashlib.sha256(content).hexdigest(), f"md5:{hashlib.md5(content).hexdigest()}"):
        with _archive.opened(f"{served}/a.zip", checksum, scratch, events.append) as archive:
            assert archive.holds("u.data")
    assert (events[-1].done, events[-1].total, events[-1].unit) == (len(content), len(content), "bytes")
    with (
        pytest.raises(ValueError, match=f"its sha256 is .* where {'0' * 64} is pinned; refused"),
        _archive.opened(f"{served}/a.zip", f"sha256:{'0' * 64}", scratch, silent),
    ):
        pass


@pytest.mark.parametrize(
    ("source", "checksum", "error", "message"),
    [
        ("{url}/a.zip", None, ValueError, "needs a pinned checksum"),
        ("{url}/a.zip", "sha256:12", ValueError, "checksum 'sha256:12': write sha256: and 64"),
        ("{url}/a.zip", f"sha256:{'0' * 32}", ValueError, "write sha256: and 64"),
        ("{url}/b.zip", "0" * 32, ValueError, "the server answered 404"),
        ("ftp://127.0.0.1/a.zip", "0" * 32, ValueError, "over http or https only"),
        ("http://127.0.0.1:1/a.zip", "0" * 32, ConnectionError, "cannot be reached .*fetch it yourself"),
        ("{path}/a.zpi", None, ValueError, "no such file or directory; did you mean 'a.zip'"),
        ("{path}/a.zip", "0" * 32, ValueError, "its md5 is"),
        ("{path}", "0" * 32, ValueError, "a checksum is for one file"),
    ],
)
def test_what_cannot_be_opened_is_named(
    tmp_path: Path, served: str, source: str, checksum: str | None, error: type[Exception], message: str
):
    zipped(tmp_path / "a.zip", {"u.data": b"1"})
    with (
        pytest.raises(error, match=message),
        _archive.opened(source.format(url=served, path=tmp_path), checksum, tmp_path, silent),
    ):
        pass
