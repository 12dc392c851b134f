"""What the MovieLens releases share: ratings with two tables that they refer to, and titles that end in a year."""

import re
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys_core.datasets import base
from recsys_core.progress import Event, Sink

RATINGS = {"user_id": pa.int64(), "item_id": pa.int64(), "rating": pa.float32(), "timestamp": pa.int64()}


def title_and_year(text: str) -> tuple[str, int | None]:
    """Split `Toy Story (1995)` into its title and year; a text without a year is all title."""
    match = re.fullmatch(r"(.*?)\s*\((\d{4})\)\s*", text)
    return (match[1], int(match[2])) if match else (text.strip(), None)


def items(rows: Iterable[tuple[int, str, list[str]]]) -> pa.Table:
    """Return the item table of (id, title with year, genres); a film without a genre has a null."""
    ids, titles, genres = zip(*rows, strict=True)
    split = [title_and_year(title) for title in titles]
    return pa.table(
        {
            "item_id": pa.array(ids, pa.int64()),
            "title": pa.array([title for title, _ in split], pa.string()),
            "year": pa.array([year for _, year in split], pa.int32()),
            "genres": pa.array([list(names) or None for names in genres], pa.list_(pa.string())),
        }
    )


def with_zip_prefix(users: pa.Table) -> pa.Table:
    """Add `zip_prefix`, the zip code's first character: a part of the country, which new users share with old ones."""
    return users.append_column("zip_prefix", pc.utf8_slice_codeunits(users["zip_code"], 0, 1))


def write(
    log: base.LogWriter,
    ratings: Iterable[pa.Table],
    users: pa.Table,
    items: pa.Table,
    min_rating: float | None,
    sink: Sink,
) -> None:
    """Write `ratings` (user_id, item_id, timestamp; rating where known) and the tables that they refer to.

    A user is known from the day of the first rating, for MovieLens gives no other day; every film from the log's first.

    Raises:
        ValueError: ratings without a value for `min_rating` to judge, or of users or films that the tables lack.
    """
    active = base.FirstDays()
    first: int | None = None
    num_rows = 0
    for given in ratings:
        _refuse_unknown(given["user_id"], users["user_id"], "user")
        _refuse_unknown(given["item_id"], items["item_id"], "film")
        num_rows += given.num_rows
        table = given if min_rating is None else given.filter(pc.greater_equal(given["rating"], min_rating))
        if table.num_rows:
            days = pa.array(table["timestamp"].to_numpy() // base.DAY_SECONDS, pa.int32())
            active.add(table["user_id"], days)
            first = min(pc.min(days).as_py(), first if first is not None else np.iinfo(np.int32).max)
            log.add_interactions(table)
        sink(Event(stage=base.STAGE, done=num_rows, message="reading ratings"))
    if first is None:
        raise ValueError(
            f"no rating is left of {num_rows}" + (f"; lower min_rating {min_rating:g}" if min_rating else "")
        )
    base.write_known(log, "users", users, active)
    log.write_rows("items", base.day_of(first), [items])


def _refuse_unknown(ids: pa.ChunkedArray, known: pa.ChunkedArray, what: str) -> None:
    unknown = pc.unique(ids.filter(pc.invert(pc.is_in(ids, value_set=known))))
    if len(unknown):
        raise ValueError(
            f"ratings name {len(unknown)} {what}s that the {what} table lacks, such as {unknown[0]}; "
            "are all files of one release?"
        )
