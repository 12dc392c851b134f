"""The first stage of ranking: import the labelled tables, check all of them, and fit the features on `train`."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from recsys_core import artifacts, columns, folders, ingest, lookup, readers
from recsys_core.artifacts import LabelledData, LabelledSplit, digest_of_file
from recsys_core.columns import RowError
from recsys_core.datasets import _ids
from recsys_core.datasets.labelled import base, splits
from recsys_core.features import Config as Features
from recsys_core.features import Engine
from recsys_core.progress import Event, Sink
from recsys_core.ranking import Config

CATALOGUE = "recsys_core.datasets.labelled"
Data = Annotated[base.Config, lookup.OneOf(CATALOGUE)]
"""The YAML section `data` of a ranking config: the `Config` of whichever kind it names."""


class Request(artifacts.Request):
    """`fingerprint` is that of the source: where the tables lie or are imported to does not count."""

    UNKEYED: ClassVar[frozenset[str]] = artifacts.Request.UNKEYED | {"import_root"}

    config: Config
    data: Data
    features: Features
    import_root: Path
    fingerprint: str


def fingerprint(data: base.Config) -> str:
    """Return a digest of the source, from names, sizes and times; no content is read."""
    return ingest.source_fingerprint(data, CATALOGUE)


def run(request: Request, sink: Sink) -> LabelledData:
    """Import what is not yet in splits, check labels and weights, and fit the feature engine.

    Raises:
        ValueError: a bad source, a split without one of the columns, or labels other than 0 and 1; nothing is written.
    """
    root = ingest.prepare(request.data, request.import_root, sink, CATALOGUE)
    options = request.data.csv if isinstance(request.data, splits.Config) else readers.CsvOptions()
    tables, options = readers.alike(base.splits(root), options, "data.csv")
    places = {name: request.data.place(root, name) for name in tables}
    engine = Engine.build(request.features)
    _require_columns(places, tables, engine, request.config)
    for column in engine.columns_of_ids():
        if (said := _ids.message(column, tables["train"].schema.field(column).type)) is not None:
            sink(Event(stage="prepare", message=said))
    total, done = sum(reader.num_rows for reader in tables.values()), 0
    checked: list[LabelledSplit] = []
    for name, reader in tables.items():
        _require_ids(_where(places[name], reader, request.data), reader, engine)
        where, num_positives, num_rows = _where(places[name], reader, request.data), 0, 0
        used = [*filter(None, (request.config.label, request.config.sample_weight))]
        for block, table in enumerate(_blocks(reader, used)):
            num_positives += _positives(where(block), table, request.config)
            num_rows += table.num_rows
            done += table.num_rows
            sink(Event(stage="prepare", done=done, total=total))
        if num_rows != reader.num_rows:
            raise ValueError(f"{places[name]}: {num_rows} rows read of {reader.num_rows}; write the split again")
        checked.append(LabelledSplit(name=name, num_rows=reader.num_rows, num_positives=num_positives))
    if not 0 < checked[0].num_positives < checked[0].num_rows:
        raise ValueError(
            f"{places['train']}: {checked[0].num_positives} of {checked[0].num_rows} rows are positive; a model learns "
            "from rows of both labels"
        )
    train = tables["train"]
    _fit(engine, train, None if request.data.in_place else places["train"])
    filled = {f"{kind}/{name}": float(n) for name, kinds in engine.report.items() for kind, n in kinds.items()}
    sink(Event(stage="prepare", done=total, total=total, metrics=filled))
    with artifacts.pending(request.output) as aside:
        # The digest of these files is the data's, so it follows from the content and not from where it lies.
        files = [file for name in tables for file in folders.local_files(root / name)]
        digests = [(str(file.relative_to(root)), digest_of_file(file)) for file in files]
        message = [f"{name} {digest}" for name, digest in digests]
        # How CSV is read makes other rows of the same files.
        read_by = options.model_dump(mode="json") if options != readers.CsvOptions() else None
        message += [json.dumps(read_by, sort_keys=True)] if read_by else []
        artifacts.write_text(aside.path / "files.json", "\n".join(message))
        engine.save(aside.path / "features")
        return aside.commit(
            LabelledData,
            request,
            num_rows=train.num_rows,
            root=root,
            splits=tuple(checked),
            columns={field.name: str(field.type) for field in train.schema},
            csv=read_by,
            engine_digest=engine.digest,
        )


def require_splits(data: LabelledData, measured: str, *, validates: bool) -> None:
    """Check that the data has the split that is `measured`, and `valid` if training `validates`, before it is trained.

    Raises:
        ValueError: it has not; names the key.
    """
    names = [split.name for split in data.splits]
    wanted = {measured: "evaluate.split"}
    if validates:
        wanted["valid"] = "train.evaluate_every_steps, train.evaluate_every_epochs"
    for split, key in wanted.items():
        if split not in names:
            raise ValueError(
                f"{key}: the data has no split {split!r}, only {', '.join(names)}; change the key or the data"
            )


def _blocks(reader: readers.Reader, names: list[str]) -> Iterator[pa.Table]:
    for block in range(len(reader.block_rows)) if names else ():
        yield reader.read(block, names)


def _where(place: str, reader: readers.Reader, data: base.Config) -> Callable[[int], readers.Place]:
    """Return a function that gives a block's place: in a file of the user's, or among the rows of its table."""
    if data.in_place:
        return reader.place
    return lambda block: readers.Place(place, int(reader.block_rows[:block].sum()))


def _fit(engine: Engine, train: readers.Reader, place: str | None) -> None:
    try:
        engine.fit(_texts(train, engine.columns("query")), _texts(train, engine.columns("item")))
    except RowError as error:
        path, row = train.locate(error.row) if place is None else (place, error.row)
        raise ValueError(f"{path}: row {row}: {error.reason}") from None


def _texts(train: readers.Reader, names: list[str]) -> Iterator[pa.Table]:
    """Yield the blocks of `train`, whose texts are looked at.

    Raises:
        RowError: bytes that are no text.
    """
    start = 0
    for table in _blocks(train, names):
        for name in table.column_names:
            try:
                columns.by_chunk(lambda chunk: columns.require_text(columns.plain(chunk)), table.column(name))
            except RowError as error:
                raise RowError(start + error.row, f"column {name!r}: {error.reason}") from None
        yield table
        start += table.num_rows


def _require_columns(
    places: Mapping[str, str], tables: Mapping[str, readers.Reader], engine: Engine, config: Config
) -> None:
    """Refuse splits without a column that is used, or with one of another kind than in `train`; others may differ."""
    asked = {
        "ranking.label": config.label,
        "ranking.sample_weight": config.sample_weight,
        "ranking.group": config.group,
    }
    wanted = {column: key for key, column in asked.items() if column is not None}
    wanted = {column: "features" for side in ("query", "item") for column in engine.columns(side)} | wanted
    first = tables["train"].schema
    for name, reader in tables.items():
        names = reader.schema.names
        for column, key in wanted.items():
            if column not in names:
                raise ValueError(
                    f"{places[name]}: no column {column!r}, which {key} names (there are: {', '.join(names)})"
                )
            own, there = reader.schema.field(column).type, first.field(column).type
            if not _mean_the_same(columns.plain_type(own), columns.plain_type(there)):
                raise ValueError(
                    f"{places[name]}: column {column!r} is {own}, and {there} in {places['train']}; write both alike"
                )
    if config.label in {column for side in ("query", "item") for column in engine.columns(side)}:
        raise ValueError(f"features: one of them reads {config.label!r}, the label, and a model must not see that")


def _mean_the_same(one: pa.DataType, other: pa.DataType) -> bool:
    """Return whether features make the same of equal values; a column beside nulls is often double for being int64."""
    if columns.is_list(one) and columns.is_list(other):
        return _mean_the_same(one.value_type, other.value_type)
    return columns.united(one, other) is not None or (_is_number(one) and _is_number(other))


def _require_ids(where: Callable[[int], readers.Place], reader: readers.Reader, engine: Engine) -> None:
    """Refuse ids that are none: training, and all that is done for it, comes after."""
    doubtful = [name for name in engine.columns_of_ids() if _ids.is_doubtful(reader.schema.field(name).type)]
    for block, table in enumerate(_blocks(reader, doubtful)):
        for name in doubtful:
            _ids.require(table.column(name), name, *where(block))


def _positives(where: readers.Place, table: pa.Table, config: Config) -> int:
    """Return how many rows are positive."""
    labels = columns.by_chunk(columns.plain, table.column(config.label))
    if pa.types.is_boolean(labels.type):
        labels = labels.cast(pa.int8())
    zero_or_one = pa.array([0, 1]).cast(pa.float64()) if _is_number(labels.type) else None
    held = zero_or_one and pc.is_in(labels.cast(pa.float64(), safe=False), value_set=zero_or_one)
    _require(where, labels, held, f"{config.label!r}", "a label is 0 or 1 (ranking.label)")
    if config.sample_weight is not None:
        weights = columns.by_chunk(columns.plain, table.column(config.sample_weight))
        held = None
        if _is_number(weights.type):
            held = pc.and_(pc.is_finite(weights), pc.greater_equal(weights, pa.scalar(0).cast(weights.type)))
        remedy = "a weight is a number from 0 on (ranking.sample_weight)"
        _require(where, weights, held, f"{config.sample_weight!r}", remedy)
    return int(pc.sum(labels).as_py() or 0)


def _require(
    where: readers.Place, values: pa.ChunkedArray, held: pa.ChunkedArray | None, name: str, remedy: str
) -> None:
    """Refuse values that do not hold; `held` is None for a type of which none does."""
    if held is None:
        raise ValueError(f"{where.path}: column {name} is {values.type}; {remedy}")
    held = pc.fill_null(held, False)  # noqa: FBT003
    row = pc.index(held, pa.scalar(False)).as_py()  # noqa: FBT003
    if row >= 0:
        start = where.first_row
        raise ValueError(
            f"{where.path}: column {name} holds {values[row].as_py()} in row {start + row} of rows {start} to "
            f"{start + len(values)}; {remedy}"
        )


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
