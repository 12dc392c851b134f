"""The contract of this catalogue, and the layout that its kinds write.

    ROOT/train/   the rows to learn from, in files of Parquet, ORC or CSV
    ROOT/valid/   rows by which training is stopped and versions are chosen (may be absent)
    ROOT/test/    rows that are measured at the end (may be absent)

A kind has a `Config`; one that is not in this layout also has `write(config, root, sink) -> dict[str, int]`, which
writes the splits below `root`, mostly with `write_split`, and returns their rows.
"""

import datetime
import os
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
from pydantic import Field

from recsys_core.datasets import base

SPLITS = ("train", "valid", "test")


class Config(base.Config):
    """One kind's YAML section; `day` is the day as of which the tables stand, by which runs are named and ordered."""

    day: datetime.date = Field(description="the day as of which the tables stand; runs are named by it")

    def place(self, root: Path, split: str) -> str:
        """Return what a split is called in messages; `root` is where it lies, or was copied to."""
        return str(root / split)


def splits(root: Path) -> dict[str, Path]:
    """Return the folder of each split that is there.

    Raises:
        ValueError: there is no folder train, or something else where a split's folder should be.
    """
    there = {name: root / name for name in SPLITS if os.path.lexists(root / name)}
    for folder in there.values():
        if not folder.is_dir():
            raise ValueError(f"{folder}: no folder; a split is a folder of files, so make it one or remove it")
    if "train" not in there:
        raise ValueError(f"{root}: has no folder train; labelled tables lie in {', '.join(SPLITS)}")
    return there


def write_split(root: Path, split: str, tables: Iterable[pa.Table]) -> int:
    """Write one split and return its rows.

    Raises:
        ValueError: it has none.
    """
    assert split in SPLITS
    num_rows = base.write_parquet(root / split / "part-00000.parquet", tables)
    if not num_rows:
        raise ValueError(f"the source holds no rows for {split}; is it complete?")
    return num_rows
