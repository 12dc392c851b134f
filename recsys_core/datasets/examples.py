"""Ready-made examples: training rows, evaluation rows, an item table and a weighted table of negatives; no log.

    train        a row per example: item_id, the positive item, and the query's columns, click sequences included
    evaluation   user_id (of a user or a request), the query's columns, and gt_items, the items that are relevant: a
                 list, or text that `separator` splits; without gt_items, item_id, one of them a row. seen_items may
                 be there: they are not recommended
    items        item_id and the item's columns, of everything there is to recommend
    negatives    item_id and weight, how often an item is drawn as a negative; without `items` the item's columns too.
                 Any table, or graph-learn's text, see `sampler.weights`, whose attributes `attributes` names

Rows of one user_id are one query. A path with `{day}`, such as `data/train/ds={day}`, is a table by day: a run of a day
learns from the rows up to that day, takes that day's items and negatives, and is measured on the evaluation rows of the
day that follows. One without is taken on every day; training rows without are those of `day`.

Days of training rows in Parquet below a local `…/ds={day}`, or a local folder, are read in place, others are copied.
"""

import datetime
from pathlib import Path
from typing import ClassVar, Literal, Self

import pyarrow as pa
from pydantic import Field, field_validator, model_validator

from recsys_core import readers, uri
from recsys_core.artifacts import digest_of
from recsys_core.datasets import _by_day, base

_NEEDED, _OF_ITEMS = ("train", "evaluation"), ("items", "negatives")
_PARTITION = f"/ds={_by_day.DAY}"


class Config(base.Config):
    """`source` names the tables, in any of which `columns` renames, as in `{adgroup_id: item_id}`."""

    in_place: ClassVar[bool] = True

    kind: Literal["examples"] = "examples"
    source: dict[str, str] = Field(description="paths of train, evaluation, and items or negatives or both")
    day: datetime.date | None = Field(
        default=None, description="the day of training rows whose path has no {day}; `--day` sets it"
    )
    columns: dict[str, str] = Field(default={}, description="names in the tables to names here")
    separator: str | None = Field(
        default=None, min_length=1, description="splits gt_items and seen_items where they are text"
    )
    attributes: dict[str, str] = Field(
        default={}, description="names and Arrow types of what attrs of the negatives holds, in its order"
    )
    attribute_separator: str = Field(default=":", min_length=1, description="between the attributes, such as \\x02")
    csv: readers.CsvOptions = Field(default=readers.CsvOptions(), description="how files of CSV are written")

    @field_validator("source")
    @classmethod
    def _names_tables(cls, source: dict[str, str]) -> dict[str, str]:
        known = (*_NEEDED, *_OF_ITEMS)
        if unknown := [name for name in source if name not in known]:
            raise ValueError(f"names {unknown[0]}{uri.nearest(unknown[0], list(known))}; tables are {', '.join(known)}")
        if missing := [name for name in _NEEDED if name not in source]:
            raise ValueError(f"names no {missing[0]}; give its path")
        if not any(name in source for name in _OF_ITEMS):
            raise ValueError("names neither items nor negatives; give the path of one or of both")
        for path in source.values():
            if _by_day.DAY in path:
                _by_day.require(path)
        return source

    @field_validator("attributes")
    @classmethod
    def _has_types(cls, attributes: dict[str, str]) -> dict[str, str]:
        for name, kind in attributes.items():
            try:
                pa.type_for_alias(kind)
            except ValueError:
                raise ValueError(f"{name}: Arrow knows no type {kind!r}; such are int64, double and string") from None
        return attributes

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if self.attributes and "negatives" not in self.source:
            raise ValueError("attributes: they are of source.negatives, which is not given; remove them")
        if self.attributes and "items" in self.source:
            raise ValueError("attributes: the items' columns are those of source.items; remove attributes, or items")
        if self.is_by_day("train") == (self.day is not None):
            raise ValueError(
                "day: the training rows are by day, so nothing reads it; remove it"
                if self.day
                else f"day: needed, as the path of the training rows has no {_by_day.DAY}; say of which day they are"
            )
        return self

    def of_day(self, day: datetime.date | None) -> Self:
        """Return the same of training rows that are those of `day`, unless they are by day, or None is given."""
        return self if self.day is None or day is None else self.model_copy(update={"day": day})

    def is_by_day(self, table: str) -> bool:
        """Return whether a table is by day."""
        return _by_day.DAY in self.source[table]


def days(config: Config, table: str, first: datetime.date, last: datetime.date) -> dict[datetime.date, readers.Part]:
    """Return the rows of each day from `first` to `last` that a table by day has; no content is read.

    Raises:
        ValueError: see `_by_day.days`.
    """
    path = config.source[table]
    if table == "train" and not uri.is_remote(path) and path.rstrip("/").endswith(_PARTITION):
        # As a folder of partitions it is read in place.
        path = path.rstrip("/").removesuffix(_PARTITION)
    return _by_day.days(path, first, last, of_any_format=table == "negatives")


def whole(config: Config, table: str) -> readers.Part:
    """Return all rows of a table that is not by day; no content is read.

    Raises:
        ValueError: the path names nothing, or a folder of partitions by day.
    """
    path = config.source[table]
    if path.startswith("odps://"):
        return readers.Part(path, digest_of(readers.fingerprint(path)))
    folder = None if uri.is_remote(path) else uri.local(path)
    place = folder if folder is not None and folder.is_dir() else path
    locations = uri.resolve(place, of_any_format=table == "negatives")
    if isinstance(place, Path) and any("ds" in location.partitions for location in locations):
        raise ValueError(
            f"{path}: holds partitions ds=…, which are rows by day; write {path.rstrip('/')}{_PARTITION}, or name files"
        )
    return readers.Part(place, uri.fingerprint(locations))
