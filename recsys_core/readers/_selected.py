"""Some rows of a table: those that a filter keeps, or a random share; to everything downstream, a table like others."""

import operator
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from recsys_core.artifacts import Frozen
from recsys_core.readers.base import Place, Reader

Condition = tuple[str, Literal["==", "!=", "<", "<=", ">", ">=", "in", "not in"], Any]
_THREADS = 4


class Selection(Frozen):
    """Which rows of a table are used. All conditions of `filter` must hold; a null fulfils none."""

    filter: tuple[Condition, ...] = Field(
        default=(), description='conditions such as ["age", ">=", 18] or ["city", "in", ["A", "B"]]; all must hold'
    )
    share: float = Field(default=1.0, gt=0, le=1, description="the share of the rows that is drawn, by chance")
    seed: int = Field(default=0, ge=0, description="which rows are drawn")


class Selected(Reader):
    """The chosen rows of `whole`. Opening it reads the filter's columns once, to know how many rows a block keeps."""

    def __init__(self, whole: Reader, selection: Selection, state: dict[str, Any] | None = None) -> None:
        """Count what is kept; with `state`, another process did.

        Raises:
            ValueError: a condition names no column, or compares it with what it cannot be compared with.
        """
        self._whole, self._selection = whole, selection
        self.schema = whole.schema
        self.fingerprint = whole.fingerprint
        names = list(dict.fromkeys(name for name, _, _ in selection.filter))
        unknown = [name for name in names if name not in whole.schema.names]
        if unknown:
            raise ValueError(f"filter: there is no column {unknown[0]!r}; there are {', '.join(whole.schema.names)}")
        self._names = names
        if state is None:
            # A block of which the store's statistics say that nothing is kept is not read.
            kept = whole.may_hold(expression(selection.filter)) if names else np.ones(len(whole.block_rows), bool)
            with ThreadPoolExecutor(_THREADS) as pool:
                counts = pool.map(lambda block: int(self._mask(block).sum()) if kept[block] else 0, range(len(kept)))
                self.block_rows = np.array(list(counts), dtype=np.int64)
        else:
            self.block_rows = np.array(state["block_rows"], dtype=np.int64)

    def read(self, block: int, columns: Sequence[str]) -> pa.Table:
        """See `Reader.read`."""
        needed = list(dict.fromkeys([*columns, *self._names]))
        table = self._whole.read(block, needed)
        return table.filter(pa.array(self._mask(block, table))).select(list(columns))

    def place(self, block: int) -> Place:
        """See `Reader.place`; rows count among those that are kept."""
        return self._whole.place(block)

    def state(self) -> dict[str, Any]:
        """See `Reader.state`: how many rows each block keeps."""
        return {"block_rows": self.block_rows.tolist()}

    def _mask(self, block: int, table: pa.Table | None = None) -> np.ndarray:
        """Return for each row of a block whether it is kept."""
        num_rows = int(self._whole.block_rows[block])
        kept = np.ones(num_rows, dtype=bool)
        if self._selection.share < 1:
            kept = np.random.default_rng((self._selection.seed, block)).random(num_rows) < self._selection.share
        if self._names:
            rows = self._whole.read(block, self._names) if table is None else table
            for name, relation, value in self._selection.filter:
                kept &= _holds(rows.column(name), name, relation, value)
        return kept


def expression(conditions: Sequence[Condition]) -> pc.Expression:
    """Return the conditions, one or more, as one Arrow expression."""
    return reduce(operator.and_, (_expression(pc.field(name), relation, value) for name, relation, value in conditions))


def _expression(field: pc.Expression, relation: str, value: Any) -> pc.Expression:
    if relation == "in":
        return field.isin(list(value))
    if relation == "not in":
        return ~field.isin(list(value))
    return _RELATIONS[relation](field, pa.scalar(value))


_RELATIONS: dict[str, Any] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_KERNELS: dict[str, Any] = {
    "==": pc.equal,
    "!=": pc.not_equal,
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
}


def _holds(column: pa.ChunkedArray, name: str, relation: str, value: Any) -> np.ndarray:
    try:
        if relation in _KERNELS:
            held = _KERNELS[relation](column, pa.scalar(value))
        else:
            held = pc.is_in(column, value_set=pa.array(value, column.type))
            held = held if relation == "in" else pc.and_(pc.invert(held), column.is_valid())
    except (pa.ArrowException, TypeError) as error:
        raise ValueError(f"filter: {name} is {column.type}, which {value!r} cannot be held against ({error})") from None
    return pc.fill_null(held, False).combine_chunks().to_numpy(zero_copy_only=False)  # noqa: FBT003
