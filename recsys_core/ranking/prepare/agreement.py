"""That tables have the columns which features and labels need, alike, and what the features learn of them."""

from collections.abc import Callable, Iterator, Mapping

import pyarrow as pa

from recsys_core import columns, readers
from recsys_core.columns import RowError
from recsys_core.datasets import _ids
from recsys_core.features import Engine
from recsys_core.ranking import Config
from recsys_core.ranking.prepare.labels import blocks


def fit(engine: Engine, train: readers.Reader, place: str | None) -> None:
    """Let the features learn from all rows of `train`, which is called `place`, or by its files.

    Raises:
        ValueError: a feature cannot take a row's value; names the row.
    """
    try:
        engine.fit(_texts(train, engine.training_columns("query")), _texts(train, engine.training_columns("item")))
    except RowError as error:
        path, row = train.locate(error.row) if place is None else (place, error.row)
        raise ValueError(f"{path}: row {row}: {error.reason}") from None


def _texts(train: readers.Reader, names: list[str]) -> Iterator[pa.Table]:
    """Yield the blocks of `train`, whose texts are looked at.

    Raises:
        RowError: bytes that are no text.
    """
    start = 0
    for table in blocks(train, names):
        for name in table.column_names:
            try:
                columns.by_chunk(lambda chunk: columns.require_text(columns.plain(chunk)), table.column(name))
            except RowError as error:
                raise RowError(start + error.row, f"column {name!r}: {error.reason}") from None
        yield table
        start += table.num_rows


def require_columns(
    places: Mapping[str, str],
    tables: Mapping[str, readers.Reader],
    engine: Engine,
    config: Config,
    sliced: Mapping[str, str] | None = None,
) -> None:
    """Refuse splits without a column that is used, or with one of another kind than in `train`; others may differ.

    `sliced` are the columns that slices are made by, by the key that names each.

    Raises:
        ValueError: names the split, as it is called in `places`, and the column; or a feature reads the label.
    """
    asked = {
        **{config.label_key(name): task.label for name, task in config.named.items()},
        **{key: column for column, key in config.weight_columns.items()},
        "ranking.group": config.group,
        "ranking.item": config.item,
        **(sliced or {}),
    }
    wanted = {column: key for key, column in asked.items() if column is not None}
    wanted = {column: "features" for side in ("query", "item") for column in engine.training_columns(side)} | wanted
    first = tables["train"].schema
    for name, reader in tables.items():
        names = reader.schema.names
        for column, key in wanted.items():
            if column not in names:
                raise ValueError(
                    f"{places[name]}: no column {column!r}, which {key} names (there are: {', '.join(names)})"
                )
            own, there = reader.schema.field(column).type, first.field(column).type
            if not columns.alike(own, there):
                raise ValueError(
                    f"{places[name]}: column {column!r} is {own}, and {there} in {places['train']}; write both alike"
                )
    read = {column for side in ("query", "item") for column in engine.training_columns(side)}
    if seen := [label for label in config.label_columns if label in read]:
        raise ValueError(f"features: one of them reads {seen[0]!r}, the label, and a model must not see that")


def require_ids(where: Callable[[int], readers.Place], reader: readers.Reader, engine: Engine) -> None:
    """Refuse ids that are none: training, and all that is done for it, comes after.

    Raises:
        ValueError: names the row.
    """
    doubtful = [name for name in engine.columns_of_ids() if _ids.is_doubtful(reader.schema.field(name).type)]
    for block, table in enumerate(blocks(reader, doubtful)):
        for name in doubtful:
            _ids.require(table.column(name), name, *where(block))
