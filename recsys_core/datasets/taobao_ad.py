"""Taobao's display-ad log: the published CSV files, or the clicks alone as Parquet, split into train and test.

Every ad and every user is known from the log's first day. A user without a profile has nulls for all fields.

The Parquet has no times: its train rows are one day, 2017-05-12 by default, and its test rows the next, all at that
day's first second. Order therefore carries no information, and histories must be built with `history.mode: others`.
Its codes use 0 for what is missing in pvalue_level, new_user_class_level and brand; these become nulls, as they are in
the published files.
"""

import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from recsys_core.datasets import _archive, base
from recsys_core.progress import Event, Sink

_LOG = {"user": pa.int64(), "time_stamp": pa.int64(), "adgroup_id": pa.int64(), "clk": pa.int64()}
_USER_FIELDS = (
    "cms_segid",
    "cms_group_id",
    "final_gender_code",
    "age_level",
    "pvalue_level",
    "shopping_level",
    "occupation",
    "new_user_class_level",
)
_USERS = {"userid": pa.int64()} | {name: pa.int32() for name in _USER_FIELDS}
_ITEMS = {"adgroup_id": pa.int64()} | {name: pa.int32() for name in ("cate_id", "campaign_id", "customer", "brand")}
_ITEMS |= {"price": pa.float32()}
_MISSING_AS_ZERO = ("pvalue_level", "new_user_class_level", "brand")


class Config(base.Config):
    """`source`: a zip, its folder or URL; or a folder with train, test, users and items as Parquet.

    A folder or zip holds raw_sample, ad_feature and user_profile, each as .csv, .csv.gz or .csv.tar.gz. `checksum`
    (sha256:… or md5:…) is required of a URL. `clicks_only: false` takes impressions too, with column `clk`.
    `utc_offset_hours` shifts the published times, so that a partition is a day where the log was written (China);
    `first_day` is the day of the Parquet's train rows.
    """

    kind: Literal["taobao_ad"] = "taobao_ad"
    source: str
    checksum: str | None = None
    clicks_only: bool = True
    utc_offset_hours: int = 8
    first_day: datetime.date = datetime.date(2017, 5, 12)


def write(config: Config, root: Path, sink: Sink) -> base.Counts:
    """Stream the source into a log below `root`.

    Raises:
        ValueError: a file is missing, damaged or of another format, or the log names ads that ad_feature lacks.
    """
    log = base.LogWriter(root)
    with _archive.opened(config.source, config.checksum, log.scratch, sink) as archive:
        if archive.holds("train.parquet"):
            interactions = _parquet_interactions(archive, base.day_number(config.first_day))
            users = pa.concat_tables(archive.parquet("users.parquet", ["user_id", *_USER_FIELDS]))
            items = pa.concat_tables(
                archive.parquet("items.parquet", ["adgroup_id", "cate_id", "brand", "price_level"])
            ).rename_columns({"adgroup_id": "item_id"})
            users, items = _zero_to_null(users), _zero_to_null(items)
        else:
            interactions = _interactions(archive, config)
            users = _table(archive, "user_profile.csv", _USERS, {"userid": "user_id"})
            items = _table(archive, "ad_feature.csv", _ITEMS, {"adgroup_id": "item_id"})
        _write(log, interactions, users, items, sink)
    return log.close()


def _write(log: base.LogWriter, interactions: Iterator[pa.Table], users: pa.Table, items: pa.Table, sink: Sink) -> None:
    active_users, active_items = base.FirstDays(), base.FirstDays()
    num_rows = 0
    for table in interactions:
        days = pa.array(table["timestamp"].to_numpy() // base.DAY_SECONDS, pa.int32())
        active_users.add(table["user_id"], days)
        active_items.add(table["item_id"], days)
        log.add_interactions(table)
        num_rows += table.num_rows
        sink(Event(stage=base.STAGE, done=num_rows, message="reading the log"))
    if not num_rows:
        raise ValueError("the log has no rows; is it complete?")
    unknown = _absent(active_items, items["item_id"])
    if len(unknown):
        raise ValueError(f"the log names {len(unknown)} ads that ad_feature lacks, such as {unknown[0]}")
    unknown = _absent(active_users, users["user_id"])
    nameless = pa.table({"user_id": unknown})
    first = base.day_of(pc.min(active_users.table()["day_min"]).as_py())
    log.write_rows("users", first, [pa.concat_tables([users, nameless], promote_options="default")])
    log.write_rows("items", first, [items])


def _absent(active: base.FirstDays, known: pa.ChunkedArray) -> pa.ChunkedArray:
    ids = active.table()["id"]
    ids = ids.filter(pc.invert(pc.is_in(ids, value_set=known)))
    return ids.take(pc.sort_indices(ids))


def _parquet_interactions(archive: _archive.Archive, first: int) -> Iterator[pa.Table]:
    for number, name in enumerate(("train.parquet", "test.parquet")):
        midnight = (first + number) * base.DAY_SECONDS
        for table in archive.parquet(name, ["user_id", "adgroup_id"]):
            timestamp = pa.repeat(pa.scalar(midnight, pa.int64()), table.num_rows)
            yield table.rename_columns(["user_id", "item_id"]).append_column("timestamp", timestamp)


def _interactions(archive: _archive.Archive, config: Config) -> Iterator[pa.Table]:
    for table in archive.csv("raw_sample.csv", _LOG, delimiter=",", header=True):
        clicks = table.filter(pc.equal(table["clk"], 1)) if config.clicks_only else table
        if clicks.num_rows:
            columns = {
                "user_id": clicks["user"],
                "item_id": clicks["adgroup_id"],
                "timestamp": pc.add(clicks["time_stamp"], config.utc_offset_hours * 3600),
            }
            yield pa.table(columns if config.clicks_only else columns | {"clk": clicks["clk"]})


def _table(archive: _archive.Archive, name: str, columns: dict[str, pa.DataType], renamed: dict[str, str]) -> pa.Table:
    return pa.concat_tables(archive.csv(name, columns, delimiter=",", header=True)).rename_columns(
        [renamed.get(column, column) for column in columns]
    )


def _zero_to_null(table: pa.Table) -> pa.Table:
    for name in set(_MISSING_AS_ZERO).intersection(table.column_names):
        column = table[name]
        position = table.column_names.index(name)
        missing = pa.scalar(None, column.type)
        table = table.set_column(position, name, pc.if_else(pc.equal(column, 0), missing, column))
    return table
