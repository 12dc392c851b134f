"""Frappe: which app a person used in which context (Baltrunas et al. 2015), in the splits of BARS' Frappe_x1.

A positive is an app that was used, a negative one that was drawn at random for the same person and context.
"""

from pathlib import Path
from typing import Literal

from recsys_core.datasets import _archive
from recsys_core.datasets.labelled import base
from recsys_core.progress import Event, Sink

_COLUMNS = (
    "label",
    "user",
    "item",
    "daytime",
    "weekday",
    "isweekend",
    "homework",
    "cost",
    "weather",
    "country",
    "city",
)


class Config(base.Config):
    """`source`: a folder with train.parquet, valid.parquet and test.parquet."""

    kind: Literal["frappe"] = "frappe"
    source: str


def write(config: Config, root: Path, sink: Sink) -> dict[str, int]:
    """Copy the splits below `root`.

    Raises:
        ValueError: a file or a column is missing.
    """
    counts: dict[str, int] = {}
    with _archive.opened(config.source, None, root, sink) as archive:
        for split in base.SPLITS:
            counts[split] = base.write_split(root, split, archive.parquet(f"{split}.parquet", [*_COLUMNS]))
            sink(Event(stage="prepare", done=sum(counts.values()), message=f"importing {split}"))
    return counts
