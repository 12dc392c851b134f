"""`train.txt` and `test.txt` as LightGCN publishes its data sets (He et al. 2020): `user item item …` on each line.

The train rows are one day, and the test rows the next, all at their day's first second: a run of the first day is
measured on the test rows. Order carries no information, so histories are to be built with `history.mode: others`. All
users and items of both files are known from the first day on.
"""

import datetime
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from recsys_core import uri
from recsys_core.datasets import _bare, _lists, base
from recsys_core.progress import Sink

_FILES = ("train.txt", "test.txt")


class Config(base.Config):
    """`source` is a folder with both files; `first_day` is the day of the train rows."""

    kind: Literal["lightgcn"] = "lightgcn"
    source: str
    first_day: datetime.date = _bare.FIRST_DAY


def write(config: Config, root: Path, sink: Sink) -> base.Counts:
    """Stream the source into a log below `root`.

    Raises:
        ValueError: a file is missing, damaged or empty, or has two lines of one user.
    """
    paths = [uri.local(config.source) / name for name in _FILES]
    for path in paths:
        if not path.is_file():
            raise ValueError(f"{path}: no such file; source is a folder with {' and '.join(_FILES)}")
    files = [uri.resolve(path, of_any_format=True)[0] for path in paths]
    kinds = _lists.Kinds.of(files)
    bare = _bare.Bare(base.LogWriter(root, keeps_order=True))
    first = base.day_number(config.first_day)
    for number, file in enumerate(files):
        midnight, num_rows = (first + number) * base.DAY_SECONDS, 0
        for rows, _ in _lists.read(file, kinds, sink):
            times = pa.array(np.full(len(rows), midnight))
            bare.add(rows.append_column("timestamp", times), known_on=first)
            num_rows += len(rows)
        if not num_rows:
            raise ValueError(f"{file.path}: has no interactions; is it complete?")
    return bare.close()
