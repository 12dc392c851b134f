"""The item table of ready-made examples, and how often each item is drawn as a negative."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys_core import columns, readers, uri
from recsys_core.columns import RowError
from recsys_core.datasets import examples
from recsys_core.retrieval.ingest.tables import Table, opened
from recsys_core.samplers import _weights
from recsys_core.samplers._weights import Weights

WEIGHT = "sampling_weight"
_ATTRIBUTES = "attrs"


def read(
    data: examples.Config, items: readers.Part | None, negatives: readers.Part | None
) -> tuple[pa.Table, list[Table]]:
    """Return item_id, the items' columns and, if there are negatives, their weight; and what was read for it.

    Raises:
        ValueError: a table cannot be read, has no rows, lacks a column, or an id is none or there twice; or items and
            negatives are not the same items. Names file, column and row.
    """
    read: list[Table] = []
    weights = fields = None
    if negatives is not None:
        weights, fields = _negatives(data, negatives, read)
    if items is not None:
        read.append(table := opened(data, "items", items.path))
        fields = _items(table)
    assert fields is not None, "the config names one of the two"
    if weights is not None:
        ids = fields["item_id"].combine_chunks()
        given = weights.weights if items is None else _weights.matched(weights, ids)
        fields = fields.append_column(WEIGHT, pa.array(given, pa.float64()))
    return fields, read


def _items(table: Table) -> pa.Table:
    rows = table.rows()
    if not rows.num_rows:
        raise ValueError(f"{table.path}: no rows; the item table has everything that can be recommended")
    if WEIGHT in rows.column_names:
        raise ValueError(f"{table.path}: column {WEIGHT!r} is made here; rename it with data.columns")
    ids = table.ids("item_id", rows)
    coded = ids.dictionary_encode().indices.to_numpy()
    _, firsts = np.unique(coded, return_index=True)
    if len(firsts) < len(coded):
        again = np.ones(len(coded), bool)
        again[firsts] = False
        row = int(again.argmax())
        raise table.error(row, "item_id", f"item {ids[row].as_py()!r} is there a second time; drop one")
    return rows.set_column(rows.column_names.index("item_id"), "item_id", ids)


def _negatives(data: examples.Config, part: readers.Part, read: list[Table]) -> tuple[Weights, pa.Table]:
    """Return the negatives' weights, and item_id and the columns that they have beside them."""
    if (path := _as_text(part.path)) is not None:
        weights = _weights.checked(_weights.of_text(path))
        fields = pa.table({"item_id": weights.ids})
        return weights, _with_attributes(data, weights, fields, None)
    read.append(table := opened(data, "negatives", part.path))
    rows = table.rows()
    ids, weight = table.ids("item_id", rows), table.column("weight", rows).combine_chunks()
    if not columns.is_number(weight.type):
        raise ValueError(f"{table.path}: column 'weight' is {weight.type}; give numbers")
    numbers = weight.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    attributes = None
    if data.attributes and _ATTRIBUTES in table.names:
        attributes = columns.by_chunk(columns.plain, rows[_ATTRIBUTES]).combine_chunks()
        if not pa.types.is_string(attributes.type):
            raise ValueError(f"{table.path}: column {_ATTRIBUTES!r} is {attributes.type}; give text")
    weights = _weights.checked(Weights(table.path, ids, numbers, 0, attributes))
    own = rows.drop_columns(["weight"] if attributes is None else ["weight", _ATTRIBUTES])
    own = own.set_column(own.column_names.index("item_id"), "item_id", ids)
    return weights, _with_attributes(data, weights, own, table)


def _as_text(path: uri.Source) -> Path | None:
    """Return the local file that holds graph-learn's table of nodes; None: it is another table."""
    if isinstance(path, str) and path.startswith("odps://"):
        return None
    locations = uri.resolve(path, of_any_format=True)
    if len(locations) != 1 or not locations[0].is_local or not _weights.is_text(Path(locations[0].path)):
        return None
    return Path(locations[0].path)


def _with_attributes(data: examples.Config, weights: Weights, fields: pa.Table, table: Table | None) -> pa.Table:
    """Append the attributes that the config names as columns of their types."""
    attributes = weights.attributes
    if not data.attributes:
        if attributes is not None and "items" not in data.source:
            raise ValueError(
                f"{weights.path}: what its attributes are is not known; name them and their types, in order, in "
                "data.attributes, or give the items' columns as source.items"
            )
        return fields
    if attributes is None:
        raise ValueError(f"{weights.path}: has no column {_ATTRIBUTES!r}, which data.attributes names the parts of")
    parts = pc.split_pattern(attributes.fill_null(""), data.attribute_separator)
    found, wanted = pc.list_value_length(parts).to_numpy(), len(data.attributes)
    if (found != wanted).any():
        row = int(np.argmax(found != wanted))
        raise _refused(
            weights,
            table,
            row,
            f"{attributes[row].as_py()!r} has {found[row]} attributes, split at {data.attribute_separator!r}, where "
            f"data.attributes names {wanted}; mend the row, or data.attribute_separator",
        )
    flat = pc.list_flatten(parts)
    for number, (name, kind) in enumerate(data.attributes.items()):
        if name in fields.column_names:
            raise ValueError(f"data.attributes: {weights.path} has a column {name!r} already; name it otherwise")
        texts = flat.take(pa.array(np.arange(number, len(flat), wanted)))
        texts = pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts)
        try:
            values = columns.cast(texts, pa.type_for_alias(kind), columns.shown)
        except RowError as error:
            raise _refused(
                weights, table, error.row, f"attribute {name!r}: {error.reason} is no {kind} (data.attributes)"
            ) from None
        fields = fields.append_column(name, values)
    return fields


def _refused(weights: Weights, table: Table | None, row: int, reason: str) -> ValueError:
    if table is not None:
        return table.error(row, _ATTRIBUTES, reason)
    return ValueError(f"{weights.path}, row {weights.first + row}: {reason}")
