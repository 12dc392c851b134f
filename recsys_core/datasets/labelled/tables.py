"""Labelled tables that any reader opens: MaxCompute, object stores or local files; they are copied once per content."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pyarrow as pa
from pydantic import Field, field_validator

from recsys_core import placeholders, readers
from recsys_core.artifacts import digest_of
from recsys_core.datasets.labelled import base
from recsys_core.progress import Event, Sink


class Config(base.Config):
    """`source` names the table of each split; `{day}` in a path becomes `day`, which `--day` sets."""

    kind: Literal["tables"] = "tables"
    source: dict[str, str] = Field(description="paths of train, and of valid and test if there are any")
    csv: readers.CsvOptions = Field(default=readers.CsvOptions(), description="how those of CSV are written")

    @field_validator("source")
    @classmethod
    def _known(cls, source: dict[str, str]) -> dict[str, str]:
        unknown = [name for name in source if name not in base.SPLITS]
        if unknown or "train" not in source:
            names = ", ".join(source) or "nothing"
            raise ValueError(f"names {names}; name train, and valid and test if there are any, each a path")
        for path in source.values():
            placeholders.check(path)
        return source

    def path(self, split: str) -> str:
        """Return the path of one split as of the config's day."""
        return placeholders.fill(self.source[split], self.day)

    def place(self, root: Path, split: str) -> str:  # noqa: ARG002 - the user does not know the copy's name
        """See `base.Config.place`: the table's path."""
        return self.path(split)


def fingerprint(config: Config) -> str:
    """Return a digest that changes when one of the tables does; no rows are read."""
    return digest_of({split: readers.fingerprint(config.path(split)) for split in config.source})


def write(config: Config, root: Path, sink: Sink) -> dict[str, int]:
    """Copy the splits below `root`.

    Raises:
        ValueError: a table cannot be opened or has no rows.
    """
    paths = {split: config.path(split) for split in base.SPLITS if split in config.source}
    opened, _ = readers.alike(paths, config.csv, "data.csv")
    total, counts = sum(reader.num_rows for reader in opened.values()), dict[str, int]()
    for split, reader in opened.items():
        if not reader.num_rows:
            raise ValueError(f"{config.path(split)}: no rows, which are to be the split {split}; name another table")
        counts[split] = base.write_split(root, split, _with_progress(reader, sink, sum(counts.values()), total))
        if counts[split] != reader.num_rows:
            raise ValueError(f"{config.path(split)}: {counts[split]} rows read of {reader.num_rows}; import it again")
    return counts


def _with_progress(reader: readers.Reader, sink: Sink, done: int, total: int) -> Iterator[pa.Table]:
    for block in range(len(reader.block_rows)):
        table = reader.read(block, reader.schema.names)
        done += table.num_rows
        sink(Event(stage="prepare", done=done, total=total, message="importing"))
        yield table
