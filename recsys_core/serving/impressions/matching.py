"""Which shown items are those of a click at all, whenever: by key and item, before times are compared.

Legend: R requests of one batch, C clicks.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys_core import columns
from recsys_core.serving.impressions import table
from recsys_core.serving.impressions.attribution import Shown
from recsys_core.serving.impressions.clicks import Clicks
from recsys_core.serving.impressions.options import REQUEST_ID
from recsys_core.serving.impressions.request_log import Lists
from recsys_core.serving.service.recorder import hashed


class Matcher:
    """Pairs of key and item that some click has.

    Attributes:
        pair: int64 [C], the number of each click's pair.
    """

    def __init__(self, clicks: Clicks, key: str) -> None:
        """`key` is what the lists are joined by."""
        self._key = key
        self._keys, self._items = clicks.key.unique(), clicks.item.unique()
        keys, items = (
            pc.index_in(values, value_set=known).to_numpy().astype(np.int64)
            for values, known in ((clicks.key, self._keys), (clicks.item, self._items))
        )
        self._known, self.pair = np.unique(keys * len(self._items) + items, return_inverse=True)
        self._hashed: pa.Array | None = None

    def shown(self, lists: Lists, places: Sequence[np.ndarray]) -> Shown:
        """Return the items at `places` [R] that a click has the key and the item of.

        Raises:
            ValueError: ids of the log and of the clicks are of different types.
        """
        code_R = self._codes(lists)
        rows = [row for row in np.flatnonzero(code_R >= 0).tolist() if len(places[row])]
        if not rows:
            return Shown(*(np.zeros(0, np.int64) for _ in Shown._fields))
        counts = [len(places[row]) for row in rows]
        place_I, owner_I = np.concatenate([places[row] for row in rows]), np.repeat(rows, counts)
        ids = table.item_ids(lists, [lists.items[row][place] for row in rows for place in places[row]])
        self._refuse(lists, "items", ids.type, self._items.type)
        item_I = pc.index_in(ids, value_set=self._items).fill_null(-1).to_numpy().astype(np.int64)
        wanted_I = np.where(item_I >= 0, code_R[owner_I] * len(self._items) + item_I, -1)
        pair_I = np.searchsorted(self._known, wanted_I).clip(max=len(self._known) - 1)
        kept = self._known[pair_I] == wanted_I
        return Shown(pair_I[kept], lists.second[owner_I[kept]], lists.number[owner_I[kept]], place_I[kept])

    def _codes(self, lists: Lists) -> np.ndarray:
        """int64 [R]: the number of each request's key among those of the clicks, -1 for one that no click has."""
        values, code_R = keys(lists, self._key), np.full(len(lists.items), -1, np.int64)
        if not len(self._keys):
            return code_R
        is_hashed = np.array([self._key in veiled for veiled in lists.veiled])
        if is_hashed.any() and self._hashed is None:
            self._hashed = pa.array([hashed(value) for value in self._keys.to_pylist()], self._keys.type)
        for own, among in ((~is_hashed, self._keys), (is_hashed, self._hashed)):
            given = _ids(lists, self._key, [values[row] for row in np.flatnonzero(own).tolist()])
            if len(given) != given.null_count:
                assert among is not None
                self._refuse(lists, f"values of {self._key!r}", given.type, among.type)
                code_R[own] = pc.index_in(given, value_set=among).fill_null(-1).to_numpy()
                code_R[np.flatnonzero(own)[given.is_null().to_numpy(zero_copy_only=False)]] = -1
        return code_R

    @staticmethod
    def _refuse(lists: Lists, what: str, there: pa.DataType, wanted: pa.DataType) -> None:
        if there != wanted:
            raise ValueError(
                f"{lists.place}: {what} are {there} in the log and {wanted} among the clicks; write both alike"
            )


def keys(lists: Lists, key: str) -> list[Any]:
    """Return what each request is joined by, [R], None where it is not known.

    Raises:
        ValueError: no request has it, or the log has dropped it.
    """
    if key == REQUEST_ID:
        values = lists.own[REQUEST_ID].to_pylist()
        if None in values:
            raise ValueError(
                f"{lists.place}: the log is of an earlier service, which gave requests no id: --key COLUMN, one of "
                f"{', '.join(lists.columns[0]) or 'none'}"
            )
        return values
    values = [user.get(key) for user in lists.columns]
    if any(value is None and key in veiled for value, veiled in zip(values, lists.veiled, strict=True)):
        raise ValueError(
            f"{lists.place}: the log has dropped {key!r}, by which it is to be joined; hash it (--log-hash), or join "
            f"by {REQUEST_ID}"
        )
    return values


def _ids(lists: Lists, key: str, values: list[Any]) -> pa.Array:
    try:
        return columns.ids(pa.array(values, from_pandas=True))
    except (ValueError, TypeError, pa.ArrowException) as error:
        raise ValueError(f"{lists.place}: column {key!r} of --key: {' '.join(str(error).split())}") from None
