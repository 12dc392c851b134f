"""What a crash, a disk or a hand has changed is seen, and named in one line."""

import json
import os
import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from recsys_core import artifacts, integrity
from recsys_core.artifacts import Artifact, Frozen, HeldOut, Request

# What is left of a JSON file after a crash of the machine, an editor, or a program that writes something else.
RUBBISH = [
    b"",
    b"null",
    b"[]",
    b"{}",
    b"7",
    b'"text"',
    b"[" * 100_000,
    b"\x00" * 64,
    b"\x80\x04\x95\x00",
    "{}".encode("utf-16"),
    b'{"a": 1e999}',
    b"{'key': 1}",
]


class Inputs(Request):
    pass


def make(directory: Path, content: bytes = b"some rows") -> HeldOut:
    request = Inputs(output=directory, config_hash="c", code_version="v1")
    with artifacts.pending(directory) as aside:
        (aside.path / "a.bin").write_bytes(content)
        return aside.commit(HeldOut, request, num_rows=3, loss=0.5, sampled_recall={"1": 0.25})


def mutated(whole: bytes, generator: random.Random) -> Iterator[bytes]:
    """Yield what may become of a file: rubbish, its beginning, flipped bits, values of other types."""
    yield from RUBBISH
    for _ in range(16):
        yield whole[: generator.randrange(len(whole))]
    for _ in range(16):
        flipped = bytearray(whole)
        flipped[generator.randrange(len(whole))] ^= 1 << generator.randrange(8)
        yield bytes(flipped)
    for _ in range(16):
        fields = json.loads(whole)
        # Without its checksum, as manifests were before they had one.
        del fields["checksum"]
        fields[generator.choice(sorted(fields))] = generator.choice([None, [], {}, "x", -1, 1.5, True, [[None]], "\0"])
        yield json.dumps(fields).encode()


def test_a_manifest_in_any_state_is_read_or_refused_in_one_line_that_names_it(tmp_path: Path) -> None:
    made = make(tmp_path / "made")
    manifest = made.path / artifacts.MANIFEST
    whole = manifest.read_bytes()
    messages: list[str] = []
    for content in mutated(whole, random.Random(5)):
        manifest.write_bytes(content)
        # What is not refused has lost a blank, or holds another value of the right type.
        try:
            HeldOut.load(made.path)
        except ValueError as error:
            messages.append(str(error))
    assert len(messages) >= 50
    assert [text for text in messages if not text.startswith(str(made.path)) or "\n" in text] == []
    manifest.unlink()
    manifest.mkdir()
    with pytest.raises(ValueError, match=r"manifest.json: is no file"):
        HeldOut.load(made.path)


def test_a_flipped_figure_is_seen(tmp_path: Path) -> None:
    made = make(tmp_path / "made")
    manifest = made.path / artifacts.MANIFEST
    manifest.write_text(manifest.read_text().replace('"loss": 0.5', '"loss": 0.1'))
    with pytest.raises(ValueError, match=r"manifest.json: damaged, its content does not have its checksum"):
        HeldOut.load(made.path)


def test_a_manifest_without_a_checksum_is_read_as_before(tmp_path: Path) -> None:
    made = make(tmp_path / "made")
    (made.path / artifacts.MANIFEST).write_text(made.model_dump_json(exclude={"path"}, indent=2))
    assert HeldOut.load(made.path) == made


def test_what_was_sealed_is_read_back(tmp_path: Path) -> None:
    fields = {"text": "ä€\U0001f600", "number": 0.1, "big": 2**70, "none": None, "list": [[1], {"a": 1e-300}]}
    integrity.write_text(tmp_path / "a.json", integrity.sealed(fields))
    assert integrity.read_json(tmp_path / "a.json") == fields


class Entry(Frozen):
    path: Path


def test_no_record_is_named_with_its_first_field(tmp_path: Path) -> None:
    file = tmp_path / "entry.json"
    for text, expected in [
        ("[1]", r"entry.json: damaged, holds \[1\] and not a Entry"),
        ("{}", "entry.json: damaged, no Entry: path: Field required"),
        ('{"path": 1}', "entry.json: damaged, no Entry: path: "),
        ('{"path": "a", "b": 1}', "entry.json: damaged, no Entry: b: Extra inputs"),
    ]:
        file.write_text(text)
        with pytest.raises(ValueError, match=expected):
            integrity.read_record(Entry, file)
    with pytest.raises(ValueError, match=r"other.json: is missing"):
        integrity.read_record(Entry, tmp_path / "other.json")


def flip(path: Path, *, keep_time: bool = False) -> None:
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[len(content) * 2 // 5] ^= 0x10
    with path.open("r+b") as file:
        file.write(content)
    if keep_time:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    else:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))


def test_one_flipped_bit_is_seen_and_the_file_named(tmp_path: Path) -> None:
    made = make(tmp_path / "made", os.urandom(3 << 20))
    integrity.verify(made.digests())
    flip(made.path / "a.bin")
    HeldOut.load(made.path)  # the size is the same
    with pytest.raises(ValueError, match=r"a.bin: damaged, its content is not what was written"):
        integrity.verify(made.digests())
    flip(made.path / "a.bin")
    integrity.verify(made.digests())
    (made.path / "a.bin").unlink()
    with pytest.raises(ValueError, match=r"a.bin: cannot be read \(No such file"):
        integrity.verify(made.digests())


def test_a_file_is_read_once_per_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, memory = make(tmp_path / "made"), tmp_path / "verified.json"
    read: list[Path] = []
    real = integrity.digest_of_file
    monkeypatch.setattr(integrity, "digest_of_file", lambda path: read.append(path) or real(path))
    for _ in range(2):
        integrity.verify(made.digests(), memory)
    assert len(read) == 1
    # Another process.
    monkeypatch.setattr(integrity, "_verified", {})
    integrity.verify(made.digests(), memory)
    assert len(read) == 1
    flip(made.path / "a.bin")
    flip(made.path / "a.bin")
    integrity.verify(made.digests(), memory)
    assert len(read) == 2
    # Of a damaged memory nothing is believed, and a whole one takes its place.
    monkeypatch.setattr(integrity, "_verified", {})
    for content in RUBBISH:
        memory.write_bytes(content)
        monkeypatch.setattr(integrity, "_verified", {})
        integrity.verify(made.digests(), memory)
    assert len(read) == 2 + len(RUBBISH)


def test_several_that_verify_at_once_leave_a_whole_memory(tmp_path: Path) -> None:
    made, memory = make(tmp_path / "made"), tmp_path / "verified.json"
    begun = threading.Barrier(4)

    def verify() -> None:
        begun.wait()
        integrity.verify(made.digests(), memory)

    with ThreadPoolExecutor(4) as threads:
        for done in [threads.submit(verify) for _ in range(4)]:
            done.result()
    assert list(integrity.read_json(memory)["files"]) == [str(made.path / "a.bin")]


def test_digests_are_of_the_files(tmp_path: Path) -> None:
    made: Artifact = make(tmp_path / "made")
    assert made.digests() == {made.path / "a.bin": integrity.digest_of_file(made.path / "a.bin")}
