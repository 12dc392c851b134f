"""Artifacts: the frozen records that stages hand to each other, and the only way they reach the disk.

A stage writes its files into a directory that no reader sees; `Pending.commit` writes the manifest last and renames
the directory into place. A directory without a manifest is therefore never an artifact, whatever killed its writer.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import xxhash
from pydantic import BaseModel, ConfigDict

import recsys_core
from recsys_core import integrity
from recsys_core.integrity import digest_of, digest_of_file, read_record, sealed, write_text

MANIFEST = "manifest.json"
# In a run's folder: its config with every default, and where its stages' artifacts lie.
RUN_CONFIG, RUN_STAGES = "config.yaml", "stages.json"
A = TypeVar("A", bound="Artifact")


class Frozen(BaseModel):
    """Base of every record and every component's `Config`: immutable, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ComponentConfig(Frozen):
    """Base of every component's `Config`, which narrows `kind` to its own: `kind: Literal["dlrm"] = "dlrm"`."""

    # A str. Fields can be assigned to as far as types go, so that no other type could be narrowed.
    kind: Any


class Request(Frozen):
    """What a stage needs, and nothing else: its own config section, artifacts, plain values, and where to write.

    Two requests with the same `key` make the same artifact: the key covers every field but the ones in `UNKEYED`,
    artifacts by their content and not by where they lie, and the code's version.
    """

    UNKEYED: ClassVar[frozenset[str]] = frozenset({"output", "config_hash"})

    output: Path
    config_hash: str
    code_version: str

    @property
    def key(self) -> str:
        """Digest of the inputs, 32 hexadecimal digits."""
        fields = self.model_dump(mode="json", exclude=set(self.UNKEYED))
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, Artifact):
                fields[name] = value.digest
        return digest_of([type(self).__module__, type(self).__qualname__, fields])


class FileRecord(Frozen):
    """One file of an artifact; `path` is relative to the artifact's directory, `digest` is xxh3-128 of its bytes."""

    path: str
    num_bytes: int
    digest: str


class Artifact(Frozen):
    """What one stage made. `digest` identifies its content; `key` identifies the inputs that it was made from."""

    stage: ClassVar[str]

    path: Path
    key: str
    digest: str
    num_rows: int
    config_hash: str
    code_version: str
    files: tuple[FileRecord, ...]

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Read the record back from `directory`; the directory may have been moved since it was written.

        Raises:
            ValueError: there is no manifest (an unfinished artifact), it is damaged, or a file is missing or has
                another size than it had when it was committed.
        """
        manifest = directory / MANIFEST
        if not manifest.exists():
            raise ValueError(f"{directory}: no {MANIFEST}, so no finished {cls.__name__}; run its stage again")
        record = read_record(cls, manifest, path=directory)
        for file in record.files:
            found = directory / file.path
            num_bytes = found.stat().st_size if found.is_file() else None
            if num_bytes != file.num_bytes:
                state = "is missing" if num_bytes is None else f"has {num_bytes} bytes"
                raise ValueError(f"{found}: {state} where the manifest says {file.num_bytes} bytes")
        return record

    def digests(self) -> dict[Path, str]:
        """Return the digest that each file had when it was committed, by its path."""
        return {self.path / file.path: file.digest for file in self.files}

    def verify(self, home: Path) -> None:
        """Compare the files with their digests; `home` is where it is remembered which files are verified.

        Raises:
            ValueError: one has changed since it was committed.
        """
        integrity.verify(self.digests(), self._memory(home))

    def verify_here(self) -> None:
        """Compare the files with their digests, for this process alone: an artifact that lies in no run.

        Raises:
            ValueError: one has changed since it was committed.
        """
        integrity.verify(self.digests())

    def remember(self, home: Path) -> None:
        """Take the files as verified: they have just been committed."""
        integrity.remember(self.digests(), memory=self._memory(home))

    def _memory(self, home: Path) -> Path:
        return home / "cache" / "verified" / f"{self.digest}.json"


class Pending:
    """A directory being filled. Files written below `path` become an artifact on `commit`, and never otherwise."""

    def __init__(self, destination: Path) -> None:
        """`destination` is where the artifact will appear; its parent is created."""
        self.destination = destination
        self.path = destination.with_name(f".{destination.name}.partial")

    def commit(self, record: type[A], request: Request, **fields: Any) -> A:
        """Digest the files, write the manifest last, and rename the directory into place."""
        for stray in self.path.glob(f".{MANIFEST}.*"):
            stray.unlink()
        files = tuple(_describe(self.path, file) for file in sorted(self.path.rglob("*")) if file.is_file())
        content = xxhash.xxh3_128()
        for file in files:
            content.update(f"{file.path}\0{file.digest}\0".encode())
        artifact = record(
            path=self.destination,
            key=request.key,
            digest=content.hexdigest(),
            config_hash=request.config_hash,
            code_version=request.code_version,
            files=files,
            **fields,
        )
        write_text(self.path / MANIFEST, sealed(artifact.model_dump(mode="json", exclude={"path"})))
        move_into_place(self.path, self.destination)
        return artifact


@contextlib.contextmanager
def pending(destination: Path, *, keep_partial: bool = False) -> Iterator[Pending]:
    """Open a directory to fill. On an error its files are removed, unless `keep_partial` (a stage that can resume)."""
    aside = Pending(destination)
    if not keep_partial and aside.path.exists():
        shutil.rmtree(aside.path)
    aside.path.mkdir(parents=True, exist_ok=True)
    try:
        yield aside
    except BaseException:
        if not keep_partial:
            shutil.rmtree(aside.path, ignore_errors=True)
        raise


def move_into_place(aside: Path, destination: Path) -> None:
    """Rename the directory `aside`; a directory that is there is never seen half deleted."""
    replaced = destination.with_name(f".{destination.name}.replaced")
    if destination.exists():
        shutil.rmtree(replaced, ignore_errors=True)
        destination.rename(replaced)
    aside.rename(destination)
    _sync(destination.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def code_version() -> str:
    """Return a digest of the core's own sources: a stage made by other code is another stage."""
    package = Path(recsys_core.__file__).parent
    sources = sorted(file for kind in ("*.py", "*.cpp") for file in package.rglob(kind))
    return digest_of([(str(f.relative_to(package)), digest_of_file(f)) for f in sources])[:12]


def _describe(root: Path, file: Path) -> FileRecord:
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
    return FileRecord(path=str(file.relative_to(root)), num_bytes=file.stat().st_size, digest=digest_of_file(file))


def _sync(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
