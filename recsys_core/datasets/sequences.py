"""Text with a line for each user, `user item item …`, items in the order in which they were taken, without times.

The item at position p, from 0, was taken p seconds after midnight of `first_day`, so that each user's order is kept;
times of different users say nothing. All users and items are known from that day on. Ids are whole numbers if all of
them are, and else text.
"""

import datetime
from pathlib import Path
from typing import Literal

import pyarrow as pa

from recsys_core import uri
from recsys_core.datasets import _bare, _lists, base
from recsys_core.progress import Sink


class Config(base.Config):
    """`source` is a file of any name, plain or gzipped; of `first_day` is each user's first item."""

    kind: Literal["sequences"] = "sequences"
    source: str
    first_day: datetime.date = _bare.FIRST_DAY


def write(config: Config, root: Path, sink: Sink) -> base.Counts:
    """Stream the source into a log below `root`.

    Raises:
        ValueError: the file is missing, damaged, or has two lines of one user.
    """
    files = uri.resolve(uri.local(config.source), of_any_format=True)
    if len(files) > 1:
        raise ValueError(f"{config.source}: holds {len(files)} files; name the one with a line for each user")
    kinds = _lists.Kinds.of(files)
    bare = _bare.Bare(base.LogWriter(root, keeps_order=True))
    first = base.day_number(config.first_day)
    for file in files:
        for rows, positions in _lists.read(file, kinds, sink):
            times = pa.array(positions + first * base.DAY_SECONDS)
            bare.add(rows.append_column("timestamp", times), known_on=first)
    return bare.close()
