"""MovieLens 1M (Harper & Konstan 2015): the published archive, or Parquet that keeps only the order of the ratings.

Every rating of the archive is an interaction, on the UTC day on which it was given. The Parquet has no times but each
user's order (`position`) and a leave-one-out split. It becomes a log of three days from `first_day` on: the train rows
are the first day, the validation rows the second and the test rows the third, each `position` seconds after midnight.
So the order within a user's history is kept, and a run for the second day is measured on the test rows. Times of
different users say nothing.
"""

import datetime
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from recsys_core.datasets import _archive, _movielens, base
from recsys_core.progress import Sink

_BLOCK_BYTES = 1 << 20
_SPLITS = pa.array(["train", "valid", "test"])


class Config(base.Config):
    """`source`: ml-1m.zip, its folder or URL; or a folder with interactions, users and movies as Parquet.

    `checksum` (sha256:… or md5:…) is required of a URL. `min_rating` drops what was rated lower; null keeps all, and
    the Parquet, which has no ratings, allows no other. `first_day` is where the Parquet's three days start.
    """

    kind: Literal["movielens_1m"] = "movielens_1m"
    source: str
    checksum: str | None = None
    min_rating: float | None = None
    first_day: datetime.date = datetime.date(2000, 1, 1)


def write(config: Config, root: Path, sink: Sink) -> base.Counts:
    """Stream the source into a log below `root`.

    Raises:
        ValueError: a file is missing, damaged or of another format, or rates what is not in its tables.
    """
    # Many ratings are of one second, and each user's stand in an order.
    log = base.LogWriter(root, keeps_order=True)
    with _archive.opened(config.source, config.checksum, log.scratch, sink) as archive:
        if archive.holds("interactions.parquet"):
            if config.min_rating is not None:
                raise ValueError(f"{config.source}: has no ratings for min_rating to judge; leave min_rating out")
            ratings = _parquet_interactions(archive, base.day_number(config.first_day))
            columns = ["user_id", "gender", "age", "occupation", "zip_code"]
            users = pa.concat_tables(archive.parquet("users.parquet", columns))
            items = pa.concat_tables(archive.parquet("movies.parquet", ["movie_id", "title", "year", "genres"]))
            items = items.rename_columns(["item_id", "title", "year", "genres"])
        else:
            ratings = _ratings(archive)
            users = _users(archive)
            items = _movielens.items(
                (int(row[0]), row[1], row[2].split("|")) for row in archive.records("movies.dat", "::", 3)
            )
        _movielens.write(log, ratings, _movielens.with_zip_prefix(users), items, config.min_rating, sink)
    return log.close()


def _parquet_interactions(archive: _archive.Archive, first: int) -> Iterator[pa.Table]:
    for table in archive.parquet("interactions.parquet", ["user_id", "movie_id", "position", "split"]):
        split = pc.index_in(table["split"], value_set=_SPLITS)
        if (
            split.null_count
            or not 0 <= pc.min(table["position"]).as_py() <= pc.max(table["position"]).as_py() < base.DAY_SECONDS
        ):
            raise ValueError(
                f"{archive.source}: interactions.parquet: split must be train, valid or test, "
                f"and position between 0 and {base.DAY_SECONDS - 1}"
            )
        midnight = pc.multiply(pc.cast(pc.add(split, first), pa.int64()), base.DAY_SECONDS)
        timestamp = pc.add(midnight, pc.cast(table["position"], pa.int64()))
        yield pa.table({"user_id": table["user_id"], "item_id": table["movie_id"], "timestamp": timestamp})


def _ratings(archive: _archive.Archive) -> Iterator[pa.Table]:
    # Arrow's CSV reader takes one character between fields; these lines hold digits only, so nothing else can be ::
    with archive.open("ratings.dat") as stream:
        while lines := stream.readlines(_BLOCK_BYTES):
            try:
                yield pacsv.read_csv(
                    io.BytesIO(b"".join(lines).replace(b"::", b",")),
                    pacsv.ReadOptions(column_names=list(_movielens.RATINGS), use_threads=False),
                    convert_options=pacsv.ConvertOptions(column_types=_movielens.RATINGS),
                )
            except pa.ArrowInvalid as error:
                raise ValueError(f"{archive.source}: ratings.dat: {error}; is it the published file?") from None


def _users(archive: _archive.Archive) -> pa.Table:
    rows = list(archive.records("users.dat", "::", 5))
    return pa.table(
        {
            "user_id": pa.array([int(row[0]) for row in rows], pa.int64()),
            "gender": pa.array([row[1] for row in rows], pa.string()),
            "age": pa.array([int(row[2]) for row in rows], pa.int32()),
            "occupation": pa.array([int(row[3]) for row in rows], pa.int32()),
            "zip_code": pa.array([row[4] for row in rows], pa.string()),
        }
    )
