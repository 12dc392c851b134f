"""Rows of shown items: what the request and the item table say of each, in columns whose types stay the same.

Legend: R requests of one batch, I items of all their lists.
"""

import datetime
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys_core import columns, placeholders, readers
from recsys_core.features.columns import types
from recsys_core.redaction import redact
from recsys_core.serving.impressions.options import ITEM_ID, OWN, Options
from recsys_core.serving.impressions.request_log import Lists


class Columns:
    """The columns of the requests that rows have, and their types: given, or learnt of the first day."""

    def __init__(self, options: Options, known: Mapping[str, str] | None) -> None:
        """`known` are the types of a table that is there; None: it is to be made."""
        self.types = {**(known or {}), **options.types}
        self._is_open, self._left_out = known is None, frozenset(options.leave_out)
        self._taken = {*OWN, options.label}
        self._learnt: dict[str, pa.DataType] = {}

    @property
    def names(self) -> list[str]:
        """The columns that are known by now."""
        return [*self.types, *self._learnt]

    def observe(self, lists: Lists) -> None:
        """Take note of the columns of requests, and of the types of those that are not known.

        Raises:
            ValueError: a column is new to a table that is there, has values of several types, has the name of one of
                the join's own, or was hashed or dropped in the log.
        """
        given = [item for one in lists.given for item in one]
        for rows, is_own in ((lists.columns, ()), (given, (ITEM_ID,))):
            for name in dict.fromkeys(name for row in rows for name in row):
                if name in is_own:
                    self._refuse_veiled(lists, name, "the items that were shown are not known: join other paths")
                    continue
                if name in self._left_out:
                    continue
                self._refuse(lists, name)
                if name not in self.types:
                    self._learn(lists, name, [row.get(name) for row in rows])

    def settle(self) -> None:
        """End the first day.

        Raises:
            ValueError: a column has no value in any request.
        """
        for name, kind in self._learnt.items():
            if _has_null(kind):
                raise ValueError(
                    f"column {name!r} of the requests holds nothing but nulls, so its type is not known: "
                    f"--type {name}=TYPE, or --leave-out {name}"
                )
            self.types[name] = types.name_of(kind)
        self._is_open = False

    def _refuse(self, lists: Lists, name: str) -> None:
        if name in self._taken:
            raise ValueError(
                f"{lists.place}: column {name!r} of the requests has the name of one that the join makes; "
                f"--leave-out {name}, or call the label otherwise"
            )
        self._refuse_veiled(lists, name, f"no model should learn from it: --leave-out {name}")
        if not self._is_open and name not in self.types:
            raise ValueError(
                f"{lists.place}: column {name!r} of the requests is new to the table, which has "
                f"{', '.join(self.types)}: --type {name}=TYPE adds it from this day on, --leave-out {name} does not"
            )

    @staticmethod
    def _refuse_veiled(lists: Lists, name: str, consequence: str) -> None:
        if any(name in veiled for veiled in lists.veiled):
            raise ValueError(
                f"{lists.place}: column {name!r} is hashed or dropped in the log, so {consequence}, or serve without "
                "it in --log-hash and --log-drop"
            )

    def _learn(self, lists: Lists, name: str, values: list[Any]) -> None:
        try:
            self._learnt[name] = _joined(self._learnt.get(name, pa.null()), _inferred(values))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{lists.place}: column {name!r} of the requests: {error}") from None


class Items:
    """The fields of an item table, by item."""

    def __init__(self, path: str, id_column: str, day: datetime.date) -> None:
        """Read the table as of `day`, which stands where `{day}` does.

        Raises:
            ValueError: it has no such column, or an id twice or none; names the row.
        """
        self._name = redact(placeholders.fill(path, day))
        reader = readers.build(readers.infer(placeholders.fill(path, day)))
        if id_column not in reader.schema.names:
            raise ValueError(
                f"{self._name}: no column {id_column!r} (there are {', '.join(reader.schema.names)}); --items-id "
                "names the one of ids"
            )
        columns.refuse_twice(self._name, reader.schema.names)
        table = readers.read_all(reader)
        try:
            self.ids = columns.by_chunk(columns.ids, table[id_column]).combine_chunks()
        except ValueError as error:
            raise ValueError(f"{self._name}, column {id_column!r}: {error}") from None
        if self.ids.null_count:
            row = int(self.ids.is_null().to_numpy(zero_copy_only=False).argmax())
            raise ValueError(f"{self._name}, row {row}: {id_column} is null; drop the row")
        codes = self.ids.dictionary_encode().indices.to_numpy()
        again = np.ones(len(codes), bool)
        again[np.unique(codes, return_index=True)[1]] = False
        if again.any():
            row = int(again.argmax())
            raise ValueError(
                f"{self._name}, row {row}: item {self.ids[row].as_py()!r} is there a second time; keep one row of each"
            )
        self.fields = table.drop_columns(id_column).combine_chunks()

    def refuse(self, taken: Iterable[str]) -> None:
        """Refuse a field that has the name of another column of the rows."""
        if both := [name for name in self.fields.column_names if name in {*taken}]:
            raise ValueError(
                f"{self._name}: column {both[0]!r} is one of the requests too, or of the join's own; rename it, or "
                f"--leave-out {both[0]} of the requests"
            )

    def of(self, ids: pa.Array) -> tuple[pa.Table, int]:
        """Return the fields of each of `ids`, null for those that the table does not have, and how many these are."""
        if len(ids) and ids.type != self.ids.type:
            raise ValueError(f"{self._name}: items are {self.ids.type}, and {ids.type} in the log; write them alike")
        rows = pc.index_in(ids.cast(self.ids.type), value_set=self.ids)
        return self.fields.take(rows), rows.null_count


def rows(
    lists: Lists, places: Sequence[np.ndarray], labels: np.ndarray, kinds: Mapping[str, str], options: Options
) -> pa.Table:
    """Return a row for each item that is kept, `places` [R] of them, in order; `labels` bool [I]. Item fields lack.

    Raises:
        ValueError: a value does not fit its column's type; names the column.
    """
    counts = np.array([len(one) for one in places])
    owner = pa.array(np.repeat(np.arange(len(counts)), counts))
    place_I = np.concatenate(places) if len(places) else np.zeros(0, np.int64)
    table = lists.own.take(owner).append_column("position", pa.array(place_I + 1, pa.int64()))
    table = table.append_column(
        ITEM_ID, item_ids(lists, [lists.items[r][p] for r, one in enumerate(places) for p in one])
    )
    scores = [lists.scores[r][p] for r, one in enumerate(places) for p in one]
    table = table.append_column("score", pa.array(scores, pa.float32()))
    given = [(lists.columns[r], lists.given[r][p]) for r, one in enumerate(places) for p in one]
    of_items = {name for _, item in given for name in item}
    for name, kind in kinds.items():
        if name in of_items:
            values = _typed(lists, name, [item.get(name, user.get(name)) for user, item in given], kind)
        else:
            values = _typed(lists, name, [user.get(name) for user in lists.columns], kind).take(owner)
        table = table.append_column(name, values)
    return table.append_column(options.label, pa.array(labels.astype(np.int8)))


def item_ids(lists: Lists, values: Sequence[Any]) -> pa.Array:
    """Return loose ids as int64 or string.

    Raises:
        ValueError: they are neither, or both.
    """
    try:
        return columns.ids(pa.array(values, from_pandas=True))
    except (ValueError, TypeError, pa.ArrowException) as error:
        raise ValueError(f"{lists.place}: ids of items: {' '.join(str(error).split())}") from None


def _typed(lists: Lists, name: str, values: list[Any], kind: str) -> pa.Array:
    try:
        return types.column(values, types.parse(kind))
    except ValueError as error:
        raise ValueError(
            f"{lists.place}: column {name!r} of the requests is {kind} in the table: {' '.join(str(error).split())}"
        ) from None


def _inferred(values: list[Any]) -> pa.DataType:
    entries = [value for value in values if isinstance(value, dict)]
    if entries:
        if any(value is not None and not isinstance(value, dict) for value in values):
            raise ValueError("some values are objects, and others are not")
        return pa.map_(pa.string(), _inferred([one for entry in entries for one in entry.values()]))
    return pa.array(values).type


def _joined(kind: pa.DataType, other: pa.DataType) -> pa.DataType:
    if kind == other or pa.types.is_null(other):
        return kind
    if pa.types.is_null(kind):
        return other
    if pa.types.is_list(kind) and pa.types.is_list(other):
        return pa.list_(_joined(kind.value_type, other.value_type))
    if pa.types.is_map(kind) and pa.types.is_map(other):
        return pa.map_(pa.string(), _joined(kind.item_type, other.item_type))
    if {kind, other} == {pa.int64(), pa.float64()}:
        return pa.float64()
    raise ValueError(f"it holds {kind} and {other}; --type says which it is, or --leave-out leaves it out")


def _has_null(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind):
        return _has_null(kind.value_type)
    return pa.types.is_null(kind) or (pa.types.is_map(kind) and _has_null(kind.item_type))
