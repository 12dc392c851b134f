"""Columns of ids as flat values: lists split from texts, cut to a length, and parted from their weights."""

import threading
from typing import Literal, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys_core.features import base
from recsys_core.features.columns.flat import bags as Columnsbags
from recsys_core.features.columns.flat import outside as Columnsoutside
from recsys_core.features.columns.flat import split

_BEFORE_WEIGHT = ":"


class LeftOut:
    """How many ids a feature has left out because they are no rows of its table; threads add to it at once."""

    def __init__(self) -> None:
        self._count, self._lock = 0, threading.Lock()

    def add(self, bags: "Bags") -> None:
        """Count those of `bags`."""
        if bags.left_out is not None:
            with self._lock:
                self._count += int(bags.left_out.sum())

    def report(self, out_of_range: Literal["refuse", "drop"]) -> dict[str, int]:
        """Return the figure for a feature that drops them."""
        return {"out_of_range": self._count} if out_of_range == "drop" else {}


class Bags(NamedTuple):
    """`values` int64 or string [N] without nulls, `lengths` int32 [B], and `weights` float32 [N] if there are any.

    `left_out` int32 [B] are how many ids of each row are not among them because their table has no such row.
    """

    values: pa.Array
    lengths: np.ndarray
    weights: np.ndarray | None
    left_out: np.ndarray | None = None

    def kept(self, wanted: np.ndarray) -> Self:
        """Leave out the values where `wanted`, bool [N], is false."""
        owners = np.repeat(np.arange(len(self.lengths)), self.lengths)
        return type(self)(
            self.values.filter(pa.array(wanted)),
            np.bincount(owners[wanted], minlength=len(self.lengths)).astype(np.int32),
            None if self.weights is None else self.weights[wanted],
        )

    def inside(self, size: int, out_of_range: Literal["refuse", "drop"]) -> Self:
        """Check that integers are rows of a table of `size`, and leave out those that are not.

        Raises:
            RowError: one is none, and `out_of_range` is refuse.
        """
        outside = Columnsoutside(self.values.to_numpy(zero_copy_only=False), self.lengths, size, out_of_range)
        if outside is None:
            return self
        kept = self.kept(~outside)
        return kept._replace(left_out=self.lengths - kept.lengths)

    def as_integers(self) -> Self:
        """Return ids that are texts only because weights stood behind them as the integers that rows of a table are."""
        if self.weights is None or not pa.types.is_string(self.values.type):
            return self
        return self._replace(values=self.values.cast(pa.int64()))

    def with_default(self, default: int | str) -> Self:
        """Give rows without values `default`, which weighs 1.

        Raises:
            ValueError: it is not of the values' type.
        """
        try:
            one = pa.array([default], self.values.type)
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            raise ValueError(f"holds {self.values.type}, and default {default!r} is none; write it as one") from None
        empty = self.lengths == 0
        starts = (np.cumsum(self.lengths) - self.lengths)[empty]
        places = np.insert(np.arange(len(self.values)), starts, len(self.values))
        return type(self)(
            pa.concat_arrays([self.values, one]).take(pa.array(places)),
            np.where(empty, 1, self.lengths).astype(np.int32),
            None if self.weights is None else np.insert(self.weights, starts, np.float32(1)),
        )


def read(column: pa.Array, config: base.SparseConfig) -> Bags:
    """Split, cut and flatten a column as `config` says; nulls are no values.

    Raises:
        ValueError: its type cannot hold ids, or a weight is no finite number.
    """
    if config.weighted and pa.types.is_map(column.type):
        kind = column.type
        entry = pa.struct([pa.field("key", kind.key_type, nullable=False), pa.field("value", kind.item_type)])
        column = column.cast(pa.list_(entry))
    column = _without_nan(split(column, config.separator))
    if config.max_length is not None and base.is_list(column.type):
        column = truncated(column, config.max_length, config.keep)
    if not config.weighted:
        return Bags(*_ids(*Columnsbags(column), integers=config.integers), None)
    if base.is_list(column.type) and pa.types.is_struct(column.type.value_type):
        lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False).astype(np.int32)
        entries = pc.list_flatten(column)
        named, _ = _ids(entries.field(0), lengths, integers=config.integers)
        if len(named) < len(entries):
            raise ValueError("a key of a map is NaN, which is no id; leave the entry out")
        return Bags(named, lengths, _weights(entries.field(1)))
    values, lengths = _ids(*Columnsbags(column))
    if not pa.types.is_string(values.type):
        return Bags(values, lengths, np.ones(len(values), np.float32))
    parts = pc.split_pattern(values, _BEFORE_WEIGHT, max_splits=1, reverse=True)
    several = pc.list_value_length(parts).to_numpy(zero_copy_only=False) > 1
    flat, first = parts.flatten(), np.cumsum(1 + several) - (1 + several)
    named, _ = _ids(flat.take(pa.array(first)), lengths, integers=config.integers)
    return Bags(named, lengths, _weights(flat.take(pa.array(first + 1, mask=~several))))


def _without_nan(column: pa.Array) -> pa.Array:
    """Return lists of floating numbers with null for NaN, which is no id, before lists are cut to a length."""
    if not (base.is_list(column.type) and pa.types.is_floating(column.type.value_type)):
        return column
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    entries = pc.list_flatten(column)
    known = pc.if_else(pc.is_nan(entries), pa.scalar(None, entries.type), entries)
    return pa.ListArray.from_arrays(pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32()), known)


def _ids(values: pa.Array, lengths: np.ndarray, *, integers: bool = False) -> tuple[pa.Array, np.ndarray]:
    """Bring flat values without nulls to ids, of which a NaN is none; a refused one is named by its row.

    Texts are read as whole numbers if they are `integers`.
    """
    try:
        named = base.ids(values)
        if integers and pa.types.is_string(named.type):
            named = base.integers(named)
    except base.RowError as error:
        row = int(np.searchsorted(np.cumsum(lengths), error.row, side="right"))
        raise base.RowError(row, error.reason) from None
    if not named.null_count:
        return named, lengths
    valid = named.is_valid().to_numpy(zero_copy_only=False)
    owners = np.repeat(np.arange(len(lengths)), lengths)
    return named.drop_null(), np.bincount(owners[valid], minlength=len(lengths)).astype(np.int32)


def _weights(values: pa.Array) -> np.ndarray:
    """float32 [N], 1 for a null."""
    try:
        weights = pc.fill_null(values.cast(pa.float64()), 1.0).to_numpy(zero_copy_only=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ValueError(f"a weight is no number ({error}); write ids as id{_BEFORE_WEIGHT}weight") from None
    if not np.isfinite(weights).all():
        raise ValueError(f"a weight is {weights[~np.isfinite(weights)][0]}; weights are finite numbers")
    return weights.astype(np.float32)


def truncated(
    column: pa.Array, max_length: int, keep: Literal["last", "first"], *, drop_nulls: bool = True
) -> pa.Array:
    """Shorten lists to `max_length` entries, whatever the entries are; nulls are none, if they are to be dropped."""
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    entries = pc.list_flatten(column)
    if drop_nulls and entries.null_count:
        valid = entries.is_valid().to_numpy(zero_copy_only=False)
        lengths = np.bincount(np.repeat(np.arange(len(lengths)), lengths)[valid], minlength=len(lengths))
        entries = entries.drop_null()
    if lengths.max(initial=0) > max_length:
        whole = base.Jagged(np.arange(len(entries)), lengths)
        kept = whole.last(max_length) if keep == "last" else whole.first(max_length)
        entries, lengths = entries.take(pa.array(kept.values)), kept.lengths
    return pa.ListArray.from_arrays(pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32()), entries)


def pooled(rows: np.ndarray, lengths: np.ndarray, bags: Bags, config: base.SparseConfig) -> base.Jagged:
    """Return a feature's rows of its table, with weights, no more of them than a tile takes.

    `rows` may be several for each value, as many for every one, which then share its weight.
    """
    weights = bags.weights
    if weights is not None and len(rows) != len(weights):
        weights = np.repeat(weights, len(rows) // max(len(weights), 1))
    found = base.Jagged(rows, lengths, weights, bags.left_out)
    return found if config.tile_length is None else found.first(config.tile_length)
