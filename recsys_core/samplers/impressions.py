r"""Negatives that were shown and not clicked, mixed with weighted ones; with replacement, shared by the batch.

    p(i) = ratio * shown(i) / Σ shown + (1 - ratio) * weight(i) / Σ weight

shown(i) counts the rows of an impressions table in which item i was offered and not clicked, weight(i) is what
`weighted` draws by. A mixture of two distributions is how Yang et al. 2020 (Mixed Negative Sampling for Learning
Two-tower Neural Networks in Recommendations) draw theirs. p is exact, so the loss corrects by it as ever (logQ):
what is shown and left is drawn more often, each time with less weight, and the softmax that is approached stays the one
over all items. A negative is one for all users of a batch, as those of `weighted` are: which user left it only decides
how often it is drawn.
"""

import datetime
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, PositiveInt, field_validator

from recsys_core import columns, readers
from recsys_core.artifacts import ComponentConfig
from recsys_core.datasets import base as days
from recsys_core.datasets.labelled import labelled_days
from recsys_core.samplers import base, weighted


class Config(ComponentConfig):
    """YAML section `sampler`."""

    kind: Literal["impressions"] = "impressions"
    source: str = Field(
        description="labelled rows by day, as `dayline data join-impressions` writes them: a local folder of "
        "ds=YYYY-MM-DD, or a path with {day}"
    )
    item: str = Field(default="item_id", description="their column of items")
    label: str = Field(default="click", description="their column of 0 and 1; rows of 0 are counted")
    window_days: PositiveInt = Field(default=7, description="the newest days that are counted, the run's own included")
    ratio: float = Field(default=0.5, gt=0, lt=1, description="the share of the draws that is of shown items")
    num_negatives: int = Field(default=2048, ge=1, description="negatives shared by one rank's batch")

    @field_validator("source")
    @classmethod
    def _by_day(cls, source: str) -> str:
        return labelled_days.Config(source=source).source


class Sampler(base.Sampler):
    """Draws by weights that preprocess has mixed, see `mixed`."""

    def __init__(self, config: Config, weights: np.ndarray) -> None:
        """`weights` [num_items]: not negative, not all zero.

        Raises:
            ValueError: a weight is negative or not finite, or all are zero.
        """
        self._weighted = weighted.Sampler(weighted.Config(num_negatives=config.num_negatives), weights)
        self.num_negatives, self.log_probability = config.num_negatives, self._weighted.log_probability

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """See `base.Sampler.draw`."""
        return self._weighted.draw(rng)


def parts(config: Config, day: datetime.date) -> dict[datetime.date, readers.Part]:
    """Return the days that a run for `day` counts: `day` itself, and those before it, without a gap.

    Raises:
        ValueError: a day is missing.
    """
    found = labelled_days.days(
        labelled_days.Config(source=config.source), days.days_before(day, config.window_days - 1), day
    )
    first = min(found, default=day)
    for number in range((day - first).days + 1):
        if (at := first + datetime.timedelta(days=number)) not in found:
            raise ValueError(
                f"sampler.source {config.source}: no impressions of {at}; join them first (`dayline data "
                "join-impressions`), or count fewer days (sampler.window_days)"
            )
    return found


def fingerprint(config: Config, day: datetime.date) -> str:
    """Return a digest that changes when one of these days does."""
    return labelled_days.fingerprint(parts(config, day))


def mixed(config: Config, day: datetime.date, items: pa.Array, weights: np.ndarray) -> np.ndarray:
    """Return [num_items] float64, the probability of each of `items`; `weights` [num_items] are those of `weighted`.

    Shown items that are none of `items`, as they were withdrawn, are not counted.

    Raises:
        ValueError: see `parts`; a column is not there or of no such type; or none of the shown items is one of `items`.
    """
    shown = np.zeros(len(items), np.int64)
    wanted, num_rows = columns.ids(items), 0
    for part in parts(config, day).values():
        reader = readers.build(readers.infer(part.path))
        for block in range(len(reader.block_rows)):
            ids = _not_clicked(config, reader, block)
            if len(ids) and ids.type != wanted.type:
                raise ValueError(
                    f"{reader.place(block).path}: column {config.item!r} is {ids.type} where the item table's ids are "
                    f"{wanted.type}; write them alike"
                )
            rows = pc.index_in(ids.cast(wanted.type), value_set=wanted).drop_null().to_numpy()
            shown += np.bincount(rows, minlength=len(items))
            num_rows += len(ids)
    if not shown.any():
        raise ValueError(
            f"sampler.source {config.source}: of {num_rows} rows without a click none is of an item of the item table; "
            "check sampler.item and sampler.label"
        )
    return config.ratio * shown / shown.sum() + (1 - config.ratio) * weights / weights.sum()


def _not_clicked(config: Config, reader: readers.Reader, block: int) -> pa.Array:
    """Return the items of a block's rows that were not clicked."""
    place, names = reader.place(block), [config.item, config.label]
    if missing := [name for name in names if name not in reader.schema.names]:
        key = "item" if missing[0] == config.item else "label"
        raise ValueError(f"{place.path}: no column {missing[0]!r}, which sampler.{key} names")
    table = reader.read(block, names)
    try:
        ids = columns.by_chunk(columns.ids, table[config.item]).combine_chunks()
        label = columns.by_chunk(columns.ids, table[config.label]).combine_chunks()
    except columns.RowError as error:
        raise ValueError(f"{place.path}: row {place.first_row + error.row}: {error.reason}") from None
    except ValueError as error:
        raise ValueError(f"{place.path}: {error}") from None
    known = (
        pc.is_in(label, value_set=pa.array([0, 1])) if pa.types.is_int64(label.type) else pa.array([False] * len(ids))
    )
    if not pc.all(known, min_count=0).as_py():
        row = pc.index(known, pa.scalar(False)).as_py()  # noqa: FBT003 - a value
        found = f"column {config.label!r}: {label[row].as_py()!r}"
        raise ValueError(f"{place.path}: row {place.first_row + row}, {found} is neither 0 nor 1")
    return ids.filter(pc.equal(label, 0)).drop_null()
