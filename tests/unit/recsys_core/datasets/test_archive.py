"""Archives: members by name, damage reported, URLs only with the right checksum, nothing written outside."""

import contextlib
import functools
import gzip
import hashlib
import http.server
import io
import itertools
import random
import stat
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest

from recsys_core.datasets import _archive, _download
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


def test_a_bomb_is_refused_before_it_unfolds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_archive, "_SMALL_BYTES", 1 << 16)
    zeros = bytes(1 << 20)
    archive = _archive.Archive(zipped(tmp_path / "a.zip", {"u.data": zeros, "small": bytes(1 << 10)}))
    with (
        pytest.raises(ValueError, match=r"a.zip: u.data unfolds from 1,\d+ to 1,048,576 bytes"),
        archive.open("u.data"),
    ):
        pass
    with archive.open("small") as stream:
        assert len(stream.read()) == 1 << 10
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x.dat.gz").write_bytes(gzip.compress(zeros))
    with pytest.raises(ValueError, match=r"x.dat.gz unfolds to more than 2\d\d,\d+ bytes"):
        list(_archive.Archive(tmp_path / "b").records("x.dat", ",", 2))
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w:gz") as packed:
        info = tarfile.TarInfo("raw.csv")
        info.size = len(zeros)
        packed.addfile(info, io.BytesIO(zeros))
    (tmp_path / "b" / "raw.csv.tar.gz").write_bytes(tar.getvalue())
    with pytest.raises(ValueError, match=r"raw.csv.tar.gz unfolds to more than"):
        list(_archive.Archive(tmp_path / "b").records("raw.csv", ",", 2))


def test_more_members_than_any_log_has_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_archive, "_MAX_MEMBERS", 3)
    with pytest.raises(ValueError, match=r"a.zip: a zip of more than 3 members"):
        _archive.Archive(zipped(tmp_path / "a.zip", {f"{number}": b"" for number in range(4)}))


def test_members_that_are_links_or_lead_out_or_are_encrypted_are_refused(tmp_path: Path):
    link = zipfile.ZipInfo("u.data")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.writestr(link, "/etc/passwd")
        packed.writestr("../u.item", "1")
        packed.writestr("u.user", "1")
    content = bytearray((tmp_path / "a.zip").read_bytes())
    # The last entry of the central directory: bit 0 of its flags.
    content[content.rindex(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "a.zip").write_bytes(content)
    archive = _archive.Archive(tmp_path / "a.zip")
    for name, message in (
        ("u.data", "a.zip: u.data is a link; refused"),
        ("u.item", r"a.zip: ../u.item has a path that leads out of the archive; refused"),
        ("u.user", "a.zip: u.user is encrypted; decrypt it"),
    ):
        with pytest.raises(ValueError, match=message), archive.open(name):
            pass
    for kind, name in ((tarfile.SYMTYPE, "raw.csv"), (tarfile.REGTYPE, "../raw.csv")):
        with tarfile.open(tmp_path / "raw.csv.tar.gz", "w:gz") as tar:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
        with (
            pytest.raises(ValueError, match="raw.csv is a link, or leads out of the archive"),
            _archive.Archive(tmp_path).open("raw.csv"),
        ):
            pass


def test_a_line_without_an_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_archive, "_MAX_LINE_BYTES", 100)
    monkeypatch.setattr(_archive, "_CHUNK_BYTES", 1_000)
    (tmp_path / "x.dat").write_bytes(b"1,2\n" + b"x" * 101)
    archive = _archive.Archive(tmp_path)
    with pytest.raises(ValueError, match="x.dat line 2 is longer than 100 bytes"):
        list(archive.records("x.dat", ",", 2))
    for text, message in (
        (b"u" * 101, "raw.csv: no header of names .longer than 100 bytes"),
        (b"user,\xff\n", "raw.csv: no header of names .*codec can't decode"),
        (b"user,clk\n" + b"1" * 3_000, "raw.csv: a line longer than 1,000 bytes"),
    ):
        (tmp_path / "raw.csv").write_bytes(text)
        with pytest.raises(ValueError, match=message):
            list(_archive.Archive(tmp_path).csv("raw.csv", COLUMNS, delimiter=",", header=True))


def test_a_zip_in_any_state_is_read_or_refused_in_one_line(tmp_path: Path):
    whole = zipped(tmp_path / "a.zip", {"u.data": b"1,2\n" * 300, "b/u.item": b"1\n"}).read_bytes()
    generator, messages = random.Random(7), []
    for number in range(60):
        damaged = bytearray(whole)
        if number % 3:
            for _ in range(4):
                damaged[generator.randrange(len(whole))] = generator.randrange(256)
        else:
            del damaged[generator.randrange(len(whole)) :]
        (tmp_path / "a.zip").write_bytes(damaged)
        try:
            archive = _archive.Archive(tmp_path / "a.zip")
            list(archive.records("u.data", ",", 2))
        except ValueError as error:
            messages.append(str(error))
    assert len(messages) > 30
    assert [text for text in messages if not text.startswith(f"{tmp_path}/a.zip") or "\n" in text] == []


class Answer(http.server.BaseHTTPRequestHandler):
    """Answers as the path says, and not as HTTP has it."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        what = self.path.partition("?")[0].strip("/")
        if what.startswith("to-"):
            target = {"to-file": "file:///etc/passwd", "to-ftp": "ftp://127.0.0.1/a", "to-itself": "/to-itself"}[what]
            self.send_response(302)
            self.send_header("Location", target)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if what == "rubbish":
            self.wfile.write(b"\x00\xff no HTTP\r\n\r\n")
            self.close_connection = True
            return
        self.send_response(200)
        lengths = {"short": "1000", "huge": str(1 << 60), "page": "24"}
        if what in lengths:
            self.send_header("Content-Length", lengths[what])
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.wfile.write(b"<html>log in first</html>"[: int(lengths.get(what, "25"))])
            while what in ("endless", "drip"):
                self.wfile.write(b"x" * (4_096 if what == "endless" else 1))
                self.wfile.flush()
                if what == "drip":
                    time.sleep(0.02)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def answering() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("what", "error", "message"),
    [
        ("page", ValueError, "is pinned; refused; it is a page of HTML"),
        ("short", ConnectionError, "cannot be reached .peer closed connection"),
        ("huge", ValueError, r"1,152,921,504,606,846,976 bytes, and the disk of .* has room for"),
        ("endless", ValueError, "more than 100,000 bytes, without an end"),
        ("drip", ConnectionError, "bytes in 61 s, which is too slow"),
        ("rubbish", ConnectionError, "cannot be reached"),
        ("to-file", ValueError, "no file to fetch there .Request URL has an unsupported protocol 'file://'"),
        ("to-ftp", ValueError, "no file to fetch there .Request URL has an unsupported protocol 'ftp://'"),
        ("to-itself", ValueError, "no file to fetch there .Exceeded maximum allowed redirects"),
    ],
)
def test_whatever_a_server_answers_has_bounds_and_is_named(
    tmp_path: Path,
    answering: str,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
    error: type[Exception],
    message: str,
):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(_download, "_MAX_UNANNOUNCED_BYTES", 100_000)
    monkeypatch.setattr(_download, "_SPARE_BYTES", 0)
    if what == "drip":
        # Between one look at the clock and the next a minute and more goes by.
        monkeypatch.setattr(_download, "time", SimpleNamespace(monotonic=itertools.count(0, 61).__next__))
    url = f"{answering}/{what}?token=s3cret&Signature=s3cret"
    with pytest.raises(error, match=message) as raised, _archive.opened(url, "0" * 32, tmp_path, silent):
        pass
    assert "s3cret" not in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "url",
    ["http://u:s3cr@et/pw@127.0.0.1:1/a", "http://127.0.0.1:1/a?password=s3cret", "http://u:s3cret@[::1/a", "http://"],
)
def test_credentials_of_an_address_are_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises((ValueError, ConnectionError)) as raised, _archive.opened(url, "0" * 32, tmp_path, silent):
        pass
    assert "s3cr" not in str(raised.value)
    assert "et/pw" not in str(raised.value)
