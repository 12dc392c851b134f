"""Statistics of one column, whatever its type: lists are flattened, times are numbers, all else is counted only."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys_core.profile.records import ColumnProfile, Histogram, Lengths, Scalar, Top
from recsys_core.profile.values import Numbers, Texts

# Small enough to stay in the cache while it is sorted, large enough that a step costs little.
PIECE_ROWS = 1 << 17
_LEVELS = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
_BINS = 30
_CLIPPED_SHARE = 0.005
_MAX_TEXT = 200


class Column:
    """Takes a column's rows, piece by piece; memory does not grow with them."""

    def __init__(self, kind: pa.DataType) -> None:
        """`kind` is the column's type."""
        self.kind = kind
        self.rows = 0
        self.nulls = 0
        self.inner = _innermost(kind)
        self.lengths = Numbers() if self.inner != _plain(kind) else None
        self.values: Numbers | Texts | None = None
        if _is_text(self.inner):
            self.values = Texts()
        elif _as_number(self.inner) is not None:
            self.values = Numbers()

    @property
    def is_time(self) -> bool:
        """Whether the values are dates, times or durations."""
        return pa.types.is_temporal(self.inner)

    def add(self, column: pa.ChunkedArray) -> None:
        """Add rows of the column."""
        for chunk in column.chunks:
            for start in range(0, len(chunk), PIECE_ROWS):
                self._add(chunk.slice(start, PIECE_ROWS))

    def profile(self, num_top: int) -> ColumnProfile:
        """Return what was found."""
        known: dict[str, Any] = {"type": str(self.kind), "rows": self.rows, "nulls": self.nulls, "values": 0}
        lengths = self.lengths
        if isinstance(self.values, Texts):
            known |= _of_texts(self.values, num_top)
            lengths = lengths or self.values.lengths
        elif isinstance(self.values, Numbers):
            known |= _of_numbers(self.values, _shown(self.inner), num_top, is_time=self.is_time)
        if lengths is not None and lengths.moments.count:
            known["lengths"] = _lengths(lengths)
        return ColumnProfile(**known)

    def _add(self, piece: pa.Array) -> None:
        self.rows += len(piece)
        self.nulls += piece.null_count
        if self.values is None and self.lengths is None:
            return
        values = piece.drop_null() if piece.null_count else piece
        while (kind := values.type) != (plain := _plain(kind)) or _is_list(plain):
            if kind != plain:
                values = values.cast(plain) if not isinstance(values, pa.ExtensionArray) else values.storage
                continue
            assert self.lengths is not None
            if plain == _plain(self.kind):
                self.lengths.add(pc.list_value_length(values).to_numpy(zero_copy_only=False).astype(np.int64))
            values = pc.list_flatten(values)
        values = values.drop_null() if values.null_count else values
        if isinstance(self.values, Texts):
            self.values.add(*_bytes(values))
        elif isinstance(self.values, Numbers):
            number = _as_number(values.type)
            assert number is not None
            for step in number:
                values = values.cast(step)
            self.values.add(values.to_numpy(zero_copy_only=False))


def histogram(values: np.ndarray, weights: np.ndarray) -> Histogram | None:
    """Return equal bins over all but the outermost half percent of each side, whose values go to the last bins.

    `values` are numbers, rising, and `weights` how many each stands for. None: they lie too far apart for float64.
    """
    below = np.cumsum(weights)
    reached = np.searchsorted(below, [_CLIPPED_SHARE * below[-1], (1 - _CLIPPED_SHARE) * below[-1]])
    as_float = values.astype(np.float64)
    first, last = as_float[reached]
    if first == last:
        first, last = as_float[0], as_float[-1]
    with np.errstate(over="ignore"):
        width = last - first
    if not np.isfinite(width):
        return None
    if width == 0:
        half = max(0.5, abs(first) * 1e-6)
        edges = np.array([first - half, first + half])
    elif values.dtype.kind != "f" and width < _BINS:
        edges = np.arange(first, last + 2) - 0.5
    else:
        edges = np.linspace(first, last, _BINS + 1)
    counts, _ = np.histogram(np.clip(as_float, edges[0], edges[-1]), bins=edges, weights=weights)
    return Histogram(edges=tuple(edges.tolist()), counts=tuple(counts.astype(np.int64).tolist()))


def quantiles(values: np.ndarray, weights: np.ndarray, levels: tuple[float, ...] = _LEVELS) -> list[Any]:
    """Return for each level the least number that this share of the numbers does not exceed."""
    below = np.cumsum(weights)
    rows = np.searchsorted(below, np.ceil(np.array(levels) * below[-1]))
    return values[np.minimum(rows, len(values) - 1)].tolist()


def _of_numbers(
    numbers: Numbers, shown: Callable[[int | float], Scalar], num_top: int, *, is_time: bool
) -> dict[str, Any]:
    moments = numbers.moments
    floating: dict[str, Any] = {"nans": numbers.nans, "infinities": numbers.infinities}
    if moments.count == 0:
        return floating | {"distinct": 0}
    assert moments.minimum is not None
    assert moments.maximum is not None
    distinct, distinct_error = numbers.distinct()
    values, weights, quantile_error = numbers.weighted()
    top, top_error = numbers.top(num_top)
    levels = zip(_LEVELS, quantiles(values, weights), strict=True)
    found = {
        "values": moments.count,
        "distinct": distinct,
        "distinct_error": distinct_error,
        "min": shown(moments.minimum),
        "max": shown(moments.maximum),
        "quantiles": {f"{level:g}": shown(value) for level, value in levels},
        "quantile_error": quantile_error,
        "top": _tops([(shown(value), count) for value, count in top], moments.count),
        "top_error": top_error,
        "histogram": histogram(values, weights),
    }
    if is_time:
        return found
    return found | floating | {"zeros": moments.zeros, "mean": _finite(moments.mean), "std": _finite(moments.std)}


def _of_texts(texts: Texts, num_top: int) -> dict[str, Any]:
    if texts.count == 0:
        return {"distinct": 0}
    assert texts.minimum is not None
    assert texts.maximum is not None
    distinct, distinct_error = texts.distinct()
    top, top_error = texts.top(num_top)
    return {
        "values": texts.count,
        "distinct": distinct,
        "distinct_error": distinct_error,
        "min": _text(texts.minimum),
        "max": _text(texts.maximum),
        "top": _tops([(_text(value), count) for value, count in top], texts.count),
        "top_error": top_error,
    }


def _lengths(numbers: Numbers) -> Lengths:
    values, weights, _ = numbers.weighted()
    return Lengths(
        min=int(numbers.moments.minimum or 0),
        max=int(numbers.moments.maximum or 0),
        mean=numbers.moments.mean,
        quantiles={f"{level:g}": value for level, value in zip(_LEVELS, quantiles(values, weights), strict=True)},
    )


def _tops(pairs: list[tuple[Any, int]], total: int) -> tuple[Top, ...]:
    return tuple(Top(value=value, count=count, share=count / total) for value, count in pairs)


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _text(value: bytes) -> str:
    text = value.decode("utf-8", "backslashreplace")
    return text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}…"


def _bytes(values: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """Return texts as bytes, and their lengths: texts in characters, bytes in bytes."""
    wide = pa.types.is_large_string(values.type) or pa.types.is_large_binary(values.type)
    counted = pc.binary_length(values)
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        counted = pc.utf8_length(values)
    lengths = counted.to_numpy(zero_copy_only=False).astype(np.int64)
    return values.cast(pa.large_binary() if wide else pa.binary()), lengths


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _is_text(kind: pa.DataType) -> bool:
    return kind in (pa.string(), pa.large_string(), pa.binary(), pa.large_binary())


def _plain(kind: pa.DataType) -> pa.DataType:
    """Return the type that `kind` is cast to before it is looked at."""
    if isinstance(kind, pa.BaseExtensionType):
        return _plain(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    if pa.types.is_string_view(kind):
        return pa.large_string()
    if pa.types.is_binary_view(kind) or pa.types.is_fixed_size_binary(kind):
        return pa.large_binary()
    if pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind):
        return pa.large_list(kind.value_type)
    return kind


def _innermost(kind: pa.DataType) -> pa.DataType:
    plain = _plain(kind)
    return _innermost(plain.value_type) if _is_list(plain) else plain


def _as_number(kind: pa.DataType) -> list[pa.DataType] | None:
    """Return the casts that make numbers of `kind`; None if there are none."""
    if pa.types.is_integer(kind) or pa.types.is_float32(kind) or pa.types.is_float64(kind):
        return []
    if pa.types.is_boolean(kind):
        return [pa.uint8()]
    if pa.types.is_float16(kind):
        return [pa.float32()]
    if pa.types.is_decimal(kind):
        return [pa.float64()]
    if pa.types.is_temporal(kind) and not pa.types.is_interval(kind):
        return [pa.int32(), pa.int64()] if kind.bit_width == 32 else [pa.int64()]
    return None


def _shown(kind: pa.DataType) -> Callable[[int | float], Scalar]:
    """Return what turns a number back into what `kind` means by it, in JSON's terms."""
    if pa.types.is_boolean(kind):
        return bool
    if pa.types.is_temporal(kind):
        number = pa.int32() if kind.bit_width == 32 else pa.int64()
        return lambda value: _moment(pa.scalar(value, number).cast(kind))
    return lambda value: value


def _moment(value: pa.Scalar) -> str:
    try:
        return str(value)
    except OverflowError:
        # Outside of the years 1 to 9999 there are numbers, and no dates that Python could write.
        return f"{value.value} ({value.type})"
