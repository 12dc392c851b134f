"""Criteo's display advertising challenge: a label, 13 integers and 26 hashed strings a row, over seven days in order.

Columns become label, int_1 … int_13 (int64) and cat_1 … cat_26 (string); an empty field is a null. The rows have no
times. As in the DLRM reference the last seventh of them stands for the last day: its first half is `valid`, its second
half `test`, and all rows before are `train`. Files that are split already are taken as they are.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pyarrow as pa
from pydantic import Field

from recsys_core.datasets import _archive
from recsys_core.datasets.labelled import base
from recsys_core.progress import Event, Sink

COLUMNS: dict[str, pa.DataType] = {
    "label": pa.int64(),
    **{f"int_{number}": pa.int64() for number in range(1, 14)},
    **{f"cat_{number}": pa.string() for number in range(1, 27)},
}
_CHUNK_BYTES = 1 << 24


class Config(base.Config):
    """`source`: the folder or zip that holds the published train.txt (or .gz), or already split files.

    `files` names the file of each split, such as {train: train.csv, valid: dev.csv, test: test.csv}; without it
    train.txt is cut, its last `held_out_share` halved into valid and test. The published test.txt has no labels.
    """

    kind: Literal["criteo_kaggle"] = "criteo_kaggle"
    source: str
    files: dict[Literal["train", "valid", "test"], str] | None = None
    held_out_share: float = Field(default=1 / 7, gt=0, lt=1)


def write(config: Config, root: Path, sink: Sink) -> dict[str, int]:
    """Stream the source into splits below `root`.

    Raises:
        ValueError: a file is missing, or a row does not have a label, 13 integers and 26 strings.
    """
    with _archive.opened(config.source, None, root, sink) as archive:
        if config.files is not None:
            if "train" not in config.files:
                raise ValueError("data.files: names no file for train, which is what a model learns from")
            tables = {split: _with_progress(_rows(archive, name), split, sink) for split, name in config.files.items()}
            return {split: base.write_split(root, split, rows) for split, rows in tables.items()}
        num_rows = _count(archive, "train.txt")
        if num_rows < 3:
            raise ValueError(f"{config.source}: train.txt has {num_rows} rows, too few to part; is it the whole file?")
        held_out = max(2, round(num_rows * config.held_out_share))
        cuts = [0, num_rows - held_out, num_rows - held_out // 2, num_rows]
        pieces = _cut(_with_progress(_rows(archive, "train.txt"), "train.txt", sink), cuts)
        groups = itertools.groupby(pieces, key=lambda piece: piece[0])
        return {
            split: base.write_split(root, split, (rows for _, rows in group))
            for split, (_, group) in zip(base.SPLITS, groups, strict=True)
        }


def _rows(archive: _archive.Archive, name: str) -> Iterator[pa.Table]:
    return archive.csv(name, COLUMNS, delimiter="\t")


def _count(archive: _archive.Archive, name: str) -> int:
    with archive.open(name) as stream:
        num_lines, last = 0, b"\n"
        while chunk := stream.read(_CHUNK_BYTES):
            num_lines, last = num_lines + chunk.count(b"\n"), chunk[-1:]
    return num_lines + (last != b"\n")


def _cut(tables: Iterator[pa.Table], cuts: list[int]) -> Iterator[tuple[int, pa.Table]]:
    """Yield (number of the piece, rows), cutting the stream of rows at `cuts`."""
    start = 0
    for table in tables:
        for number in range(len(cuts) - 1):
            low, high = max(cuts[number] - start, 0), min(cuts[number + 1] - start, table.num_rows)
            if low < high:
                yield number, table.slice(low, high - low)
        start += table.num_rows


def _with_progress(tables: Iterator[pa.Table], name: str, sink: Sink) -> Iterator[pa.Table]:
    done = 0
    for table in tables:
        done += table.num_rows
        sink(Event(stage="prepare", done=done, message=f"importing {name}"))
        yield table
