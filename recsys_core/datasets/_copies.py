"""Rows by day in Parquet on this machine: read where they lie, or copied once and again when they have changed.

Beside the copies it is remembered what was found in each day, so that a day is looked at once.
"""

import datetime
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

import pyarrow as pa
from pydantic import Field

from recsys_core import artifacts, folders, integrity, readers, uri
from recsys_core.artifacts import FileRecord, Frozen, LabelledDay
from recsys_core.datasets import base
from recsys_core.progress import Event, Sink

M = TypeVar("M", bound=Frozen)

_CHECKED, _COPIED = ".checked", ".copied"


class Day(Frozen):
    """A day as it was found: with what fingerprint, where its files are, and what they hold."""

    fingerprint: str
    folder: Path
    files: tuple[FileRecord, ...] = ()
    num_rows: int = 0
    num_positives: int = 0
    columns: dict[str, str] = Field(default={})

    def are_there(self) -> bool:
        """Whether the files are as many bytes as they were: a copy may have been deleted."""
        paths = ((self.folder / file.path, file.num_bytes) for file in self.files)
        return all(path.is_file() and path.stat().st_size == num_bytes for path, num_bytes in paths)


class _Copy(Frozen):
    """A day that was copied, with what fingerprint."""

    fingerprint: str


def record(found: Mapping[datetime.date, Day], artifact: Path) -> tuple[LabelledDay, ...]:
    """Write the files of each day into the folder of a log's artifact, and return the days.

    The log's digest is that of this record, so it follows from the content and not from where that lies.
    """
    files = {str(day): [file.model_dump(mode="json") for file in one.files] for day, one in found.items()}
    artifacts.write_text(artifact / "files.json", json.dumps(files, indent=1))
    return tuple(
        LabelledDay(day=day, num_rows=one.num_rows, num_positives=one.num_positives, folder=one.folder)
        for day, one in found.items()
    )


class Copies(NamedTuple):
    """What looks at days, which `opened` opens, and copies below `home` those that are not read in place."""

    home: Path
    opened: Callable[[datetime.date, uri.Source], readers.Reader]
    sink: Sink

    def look(
        self, looked_at: str, day: datetime.date, part: readers.Part, num_positives: Callable[[readers.Reader], int]
    ) -> Day:
        """Return what there is of a day, as it is remembered or, if it has changed since, as it is found now.

        `num_positives` checks the rows and counts the positive ones; `looked_at` is a digest of what it checks by.

        Raises:
            ValueError: a file cannot be read, the rows change while they are, or `num_positives` refuses one.
        """
        mark = self.home / _CHECKED / looked_at / f"{day}.json"
        known = self._remembered(Day, mark)
        if known is not None and known.fingerprint == part.fingerprint and known.are_there():
            return known
        found = self._found(day, part, num_positives)
        artifacts.write_text(mark, integrity.sealed(found.model_dump(mode="json")))
        return found

    def _found(self, day: datetime.date, part: readers.Part, num_positives: Callable[[readers.Reader], int]) -> Day:
        own = part.path if isinstance(part.path, Path) else None
        if own is not None and not folders.local_files(own):
            return Day(fingerprint=part.fingerprint, folder=own)
        reader = self.opened(day, part.path)
        counted = num_positives(reader)
        folder = own if own is not None and uri.format_of(own) == "parquet" else self._copied(day, part, reader)
        return Day(
            fingerprint=part.fingerprint,
            folder=folder,
            files=tuple(
                FileRecord(
                    path=str(path.relative_to(folder)),
                    num_bytes=path.stat().st_size,
                    digest=artifacts.digest_of_file(path),
                )
                for path in (folders.local_files(folder) if reader.num_rows else ())
            ),
            num_rows=reader.num_rows,
            num_positives=counted,
            columns={field.name: str(field.type) for field in reader.schema},
        )

    def _copied(self, day: datetime.date, part: readers.Part, reader: readers.Reader) -> Path:
        """Return the folder of a day's copy in Parquet, which is made unless there is one of these very files."""
        copy, mark = self.home / base.partition(day), self.home / _COPIED / f"{day}.json"
        known = self._remembered(_Copy, mark)
        if known is not None and known.fingerprint == part.fingerprint and copy.is_dir():
            return copy
        integrity.discard(mark)
        aside = self.home / f".{day}.partial"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        try:
            num_rows = base.write_parquet(aside / "part-00000.parquet", _blocks(reader))
            if num_rows != reader.num_rows:
                raise ValueError(f"{part.path}: {num_rows} rows read of {reader.num_rows}; has it changed? run again")
            artifacts.move_into_place(aside, copy)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        artifacts.write_text(mark, integrity.sealed(_Copy(fingerprint=part.fingerprint).model_dump()))
        return copy

    def _remembered(self, record: type[M], mark: Path) -> M | None:
        """Return what was written down of a day; damaged notes count as none."""
        try:
            return integrity.read_record(record, mark) if mark.exists() else None
        except ValueError as error:
            self.sink(Event(stage=base.STAGE, message=f"warning: {error}; the day is looked at again"))
            return None


def _blocks(reader: readers.Reader) -> Iterator[pa.Table]:
    for block in range(len(reader.block_rows)):
        yield reader.read(block, reader.schema.names)
