"""MovieLens 100K (Harper & Konstan 2015): the published archive, or the same tables as Parquet.

Every rating is an interaction, on the UTC day on which it was given.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from recsys_core.datasets import _archive, _movielens, base
from recsys_core.progress import Sink

_USERS = {
    "user_id": pa.int64(),
    "age": pa.int32(),
    "gender": pa.string(),
    "occupation": pa.string(),
    "zip_code": pa.string(),
}
_NUM_ITEM_FIELDS = 5


class Config(base.Config):
    """`source`: ml-100k.zip, its folder or URL; or a folder with interactions, users and items as Parquet.

    `checksum` (sha256:… or md5:…) is required of a URL. `min_rating` drops what was rated lower; null keeps all.
    """

    kind: Literal["movielens_100k"] = "movielens_100k"
    source: str
    checksum: str | None = None
    min_rating: float | None = None


def write(config: Config, root: Path, sink: Sink) -> base.Counts:
    """Stream the source into a log below `root`.

    Raises:
        ValueError: a file is missing, damaged or of another format, or rates what is not in its tables.
    """
    log = base.LogWriter(root)
    with _archive.opened(config.source, config.checksum, log.scratch, sink) as archive:
        if archive.holds("interactions.parquet"):
            ratings = _parquet_ratings(archive)
            users = pa.concat_tables(archive.parquet("users.parquet", list(_USERS)))
            items = pa.concat_tables(archive.parquet("items.parquet", ["item_id", "title", "year", "genres"]))
        else:
            ratings = archive.csv("u.data", _movielens.RATINGS, delimiter="\t")
            users = pa.concat_tables(archive.csv("u.user", _USERS, delimiter="|"))
            items = _items(archive)
        _movielens.write(log, ratings, _movielens.with_zip_prefix(users), items, config.min_rating, sink)
    return log.close()


def _parquet_ratings(archive: _archive.Archive) -> Iterator[pa.Table]:
    for table in archive.parquet("interactions.parquet", ["user_id", "item_id", "rating", "timestamp"]):
        seconds = pc.cast(table["timestamp"], pa.timestamp("s"), safe=False)
        yield table.set_column(3, "timestamp", pc.cast(seconds, pa.int64()))


def _items(archive: _archive.Archive) -> pa.Table:
    # u.genre gives each flag's position, which is how u.item's last fields are to be read.
    genres = {int(position): name for name, position in archive.records("u.genre", "|", 2)}
    names = [genres[position] for position in sorted(genres)]
    rows = archive.records("u.item", "|", _NUM_ITEM_FIELDS + len(names))
    return _movielens.items(
        (int(row[0]), row[1], [name for name, flag in zip(names, row[_NUM_ITEM_FIELDS:], strict=True) if flag == "1"])
        for row in rows
    )
