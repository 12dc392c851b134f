"""The contract of this catalogue, and the layout that its kinds write.

    ROOT/train/   the rows to learn from, in files of Parquet, ORC or CSV
    ROOT/valid/   rows by which training is stopped and versions are chosen (may be absent)
    ROOT/test/    rows that are measured at the end (may be absent)

A kind has a `Config`; one that is not in this layout also has `write(config, root, sink) -> dict[str, int]`, which
writes the splits below `root`, mostly with `write_split`, and returns their rows.
"""

import datetime
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
from pydantic import Field

from recsys_core.datasets import base

SPLITS = ("train", "valid", "test")


class Config(base.Config):
    """One kind's YAML section; `day` is the day as of which the tables stand, by which runs are named and ordered."""

    day: datetime.date = Field(description="the day as of which the tables stand; runs are named by it")


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
