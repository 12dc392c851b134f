"""Whether a file still holds what was written to it: JSON that a crash has emptied, bytes that a disk has changed.

JSON carries a checksum of itself. Other files are compared with the digest that a manifest has of them, several at
once, and once per file and change: a file of the same inode, size and time is taken to be the one that was read before.
"""

import json
import os
import shutil
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import xxhash
from pydantic import BaseModel, ValidationError

M = TypeVar("M", bound=BaseModel)

SEAL = "digests.json"
_CHECKSUM = "checksum"
_CHUNK_BYTES = 1 << 20
_MAX_THREADS = 8
_Stamp = tuple[int, int, int, int]
_verified: dict[str, tuple[_Stamp, str]] = {}


class DamagedError(ValueError):
    """A file of our own is not as it was written; the message names it, and the catcher knows the way out."""


def digest_of(value: object) -> str:
    """Return the xxh3-128 of `value`'s canonical JSON; records count by their JSON form."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    return xxhash.xxh3_128(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def digest_of_file(path: Path) -> str:
    """Return the xxh3-128 of the file's bytes, read in chunks."""
    content, buffer = xxhash.xxh3_128(), bytearray(_CHUNK_BYTES)
    with path.open("rb", buffering=0) as file:
        while num_bytes := file.readinto(buffer):
            content.update(memoryview(buffer)[:num_bytes])
    return content.hexdigest()


def sealed(fields: Mapping[str, Any]) -> str:
    """Return JSON values as text with a checksum, which `read_json` compares."""
    return json.dumps({**fields, _CHECKSUM: digest_of(fields)}, indent=2)


def read_json(path: Path) -> Any:
    """Return the JSON in `path`; of a sealed object, without its checksum.

    Raises:
        ValueError: no file, not JSON, or not what was sealed; names the file.
    """
    if not path.is_file():
        raise DamagedError(f"{path}: is {'no file' if path.exists() else 'missing'}")
    try:
        fields = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{path}: damaged, not JSON ({error})") from None
    if isinstance(fields, dict) and _CHECKSUM in fields:
        checksum = fields.pop(_CHECKSUM)
        if checksum != digest_of(fields):
            raise DamagedError(f"{path}: damaged, its content does not have its checksum")
    return fields


def read_record(record: type[M], path: Path, /, **known: Any) -> M:
    """Return the JSON object in `path` as a record; `known` are fields that are not in it.

    Raises:
        ValueError: as `read_json`, or no such record; one line that names the file and the first field that is wrong.
    """
    fields = read_json(path)
    if not isinstance(fields, dict):
        found = json.dumps(fields)[:40]
        raise DamagedError(f"{path}: damaged, holds {found} and not a {record.__name__}")
    return validated(record, {**fields, **known}, str(path))


def validated(record: type[M], fields: Mapping[str, Any], where: str) -> M:
    """Return `fields` as a record.

    Raises:
        ValueError: no such record; one line that starts with `where` and names the first field that is wrong.
    """
    try:
        return record.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise DamagedError(f"{where}: damaged, no {record.__name__}: {place or 'it'}: {first['msg']}") from None


def verify(digests: Mapping[Path, str], memory: Path | None = None) -> None:
    """Compare files with their digests.

    What was compared is remembered in this process, and in the file `memory` for the processes to come. That file is
    only ever replaced whole, so that of two processes that write it at once the last one counts.

    Raises:
        ValueError: a file is missing, or its content has changed; names the first one.
    """
    known = dict(_verified) | (_read_memory(memory) if memory else {})
    stamps = {path: _stamp(path) for path in digests}
    unknown = [path for path, digest in digests.items() if known.get(str(path)) != (stamps[path], digest)]
    with ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1)) as threads:
        for path, found in zip(unknown, threads.map(digest_of_file, unknown), strict=True):
            if found != digests[path]:
                raise DamagedError(
                    f"{path}: damaged, its content is not what was written (digest {found}, and {digests[path]} then)"
                )
    if unknown or memory:
        remember(digests, stamps, memory)


def remember(
    digests: Mapping[Path, str], stamps: Mapping[Path, _Stamp] | None = None, memory: Path | None = None
) -> None:
    """Take files as verified, as they have been written or read just now."""
    stamps = stamps or {path: _stamp(path) for path in digests}
    fresh = {str(path): (stamps[path], digest) for path, digest in digests.items()}
    _verified.update(fresh)
    if memory is not None and fresh != _read_memory(memory):
        write_text(memory, sealed({"files": fresh}))


def seal(directory: Path, known: Mapping[str, str]) -> None:
    """Write down the digests of a folder's files beside them, as `verify_sealed` compares them.

    `known` are those that files had where they were copied from, by their path below `directory`.

    Raises:
        ValueError: a copy has changed.
    """
    verify({directory / name: digest for name, digest in known.items()})
    paths = sorted(path for path in directory.rglob("*") if path.is_file())
    names = [path.relative_to(directory).as_posix() for path in paths]
    digests = {name: known.get(name) or digest_of_file(path) for name, path in zip(names, paths, strict=True)}
    write_text(directory / SEAL, sealed({"digests": digests}))


def verify_sealed(directory: Path) -> bool:
    """Compare a folder's files with what `seal` wrote down of them; False where it did not.

    Raises:
        ValueError: a file is missing, or has changed; names it.
    """
    if not (directory / SEAL).exists():
        return False
    verify({directory / name: digest for name, digest in read_record(_Seal, directory / SEAL).digests.items()})
    return True


def write_text(path: Path, text: str) -> None:
    """Write `text` so that a reader sees all of it or the file that was there before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    with aside.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.rename(path)


def discard(path: Path) -> None:
    """Delete a file, if there is one, or the folder that lies in its place."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message."""
    return str(error).partition("\n")[0]


def _stamp(path: Path) -> _Stamp:
    try:
        found = path.stat()
    except OSError as error:
        raise DamagedError(f"{path}: cannot be read ({error.strerror})") from None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _read_memory(memory: Path) -> dict[str, tuple[_Stamp, str]]:
    """Return what was verified; nothing where there is no memory or a damaged one, and it is verified again then."""
    try:
        return read_record(_Memory, memory).files if memory.exists() else {}
    except ValueError:
        return {}


class _Seal(BaseModel):
    """Digests of a folder's files by their path below it."""

    digests: dict[str, str]


class _Memory(BaseModel):
    """Stamp and digest of files by path."""

    files: dict[str, tuple[_Stamp, str]]
