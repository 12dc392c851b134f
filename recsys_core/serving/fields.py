"""The fields of a bundle's items: what a filter may ask for, and what a ranking model reads of the candidates."""

import collections
import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recsys_core.features.columns import types
from recsys_core.serving import asked, base, tables
from recsys_core.serving.search import Allowed, Search, allowed, plain

_ID = "item_id"
_KEPT_FILTERS = 64
_BOUNDS = ("min", "max")


class _Coded(NamedTuple):
    """A column whose values stand in `codes` as places in `values`, -1 for null; of lists also int64 [items + 1]."""

    values: pa.Array
    codes: np.ndarray
    offsets: np.ndarray | None


class Fields:
    """Columns by item, in the order of the index."""

    def __init__(self, table: pa.Table) -> None:
        """`table`: a row for each row of the index."""
        self.table = table.combine_chunks()
        self._coded: dict[str, _Coded] = {}
        self._kept: collections.OrderedDict[str, Allowed] = collections.OrderedDict()
        self._lock = threading.Lock()

    @classmethod
    def read(cls, path: Path, search: Search) -> Self:
        """Read a table of items, `item_id` among its columns.

        Raises:
            ValueError: it is damaged, or its items are not those of the index in their order.
        """
        table = base.read(path, pq.read_table)
        if _ID not in table.column_names or not plain(table[_ID].combine_chunks()).equals(plain(search.ids)):
            raise ValueError(f"{path}: its items are not those of the index; {base.AGAIN}")
        return cls(table)

    @property
    def kinds(self) -> dict[str, pa.DataType]:
        """What a filter may ask for: fields of texts, numbers, true and false, or lists of these, and their types."""
        found = {field.name: types.parse(types.name_of(field.type)) for field in self.table.schema}
        return {name: kind for name, kind in found.items() if _is_plain(_leaf(kind))}

    def allowed(self, wanted: Mapping[str, Any]) -> Allowed:
        """Return the items whose fields are as `wanted`, all of them; an item whose field is null is none of them.

        A value, or one of a list of values; of a field of lists one of its entries. Of numbers also an object of
        `min` and `max`, both included.

        Raises:
            ValueError: there is no such field, or a value is not of its type; names the field.
        """
        key = json.dumps(wanted, sort_keys=True)
        with self._lock:
            if (kept := self._kept.get(key)) is not None:
                self._kept.move_to_end(key)
                return kept
        mask = np.ones(self.table.num_rows, bool)
        if _ID in self.table.column_names:  # null where an item was removed
            mask &= self.table[_ID].is_valid().to_numpy()
        for name, value in wanted.items():
            mask &= self._mask(name, value)
        made = allowed(mask)
        with self._lock:
            self._kept[key] = made
            if len(self._kept) > _KEPT_FILTERS:
                self._kept.popitem(last=False)
        return made

    def _mask(self, name: str, value: Any) -> np.ndarray:
        kinds = self.kinds
        if name not in kinds:
            raise ValueError(f"filter: there is no field {asked.shown(name)}; there are {', '.join(kinds)}")
        kind = kinds[name]
        if isinstance(value, Mapping):
            return self._between(name, kind, value)
        values = value if isinstance(value, list) else [value]
        leaf = _leaf(kind)
        wanted = tables.typed(values, f"filter.{name}", leaf, f"{leaf}, or a list of them")
        coded = self._codes(name)
        hits = np.isin(coded.codes, pc.index_in(wanted.drop_null(), coded.values).drop_null().to_numpy())
        if coded.offsets is None:
            return hits
        counts = np.concatenate([[0], np.cumsum(hits)])
        return counts[coded.offsets[1:]] > counts[coded.offsets[:-1]]

    def _between(self, name: str, kind: pa.DataType, bounds: Mapping[str, Any]) -> np.ndarray:
        if pa.types.is_string(kind) or pa.types.is_boolean(kind) or pa.types.is_list(kind):
            raise ValueError(f"filter.{name} is {kind}, and has no min and max; give a value, or a list of them")
        if not bounds or bounds.keys() - set(_BOUNDS):
            raise ValueError(
                f"filter.{name} has {', '.join(map(asked.shown, bounds)) or 'nothing'}; give min, max or both"
            )
        column = self.table[name]
        mask = column.is_valid()
        for bound, compare in zip(_BOUNDS, (pc.greater_equal, pc.less_equal), strict=True):
            if bounds.get(bound) is not None:
                limit = tables.typed([bounds[bound]], f"filter.{name}.{bound}", pa.float64(), "a number")[0]
                mask = pc.and_(mask, compare(column, limit).fill_null(fill_value=False))
        return mask.to_numpy()

    def _codes(self, name: str) -> _Coded:
        """Return a column's values by number, made once: a filter then compares numbers, and no texts."""
        if (known := self._coded.get(name)) is not None:
            return known
        column = self.table[name].combine_chunks()
        kind = types.parse(types.name_of(column.type))
        offsets = None
        if pa.types.is_list(kind):
            lengths = pc.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False)
            offsets, column = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]), column.flatten()
        distinct = column.cast(_leaf(kind)).dictionary_encode()
        codes = distinct.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        made = self._coded[name] = _Coded(distinct.dictionary, codes, offsets)
        return made


def _leaf(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_list(kind) else kind


def _is_plain(kind: pa.DataType) -> bool:
    kinds = (pa.types.is_integer, pa.types.is_floating, pa.types.is_string, pa.types.is_boolean)
    return any(is_one(kind) for is_one in kinds)
