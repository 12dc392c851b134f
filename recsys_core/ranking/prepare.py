"""The first stage of ranking: import the labelled tables, check all of them, and fit the features on `train`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from recsys_core import artifacts, folders, ingest, lookup, readers
from recsys_core.artifacts import LabelledData, LabelledSplit, digest_of_file
from recsys_core.datasets.labelled import base
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
    tables = {name: readers.opened(folder) for name, folder in base.splits(root).items()}
    engine = Engine.build(request.features)
    total, done = sum(reader.num_rows for reader in tables.values()), 0
    splits: list[LabelledSplit] = []
    for name, reader in tables.items():
        _require_columns(root / name, reader, engine, request.config)
        num_positives = num_rows = 0
        for table in _blocks(reader, [*filter(None, (request.config.label, request.config.sample_weight))]):
            num_positives += _positives(root / name, table, request.config, num_rows)
            num_rows += table.num_rows
            done += table.num_rows
            sink(Event(stage="prepare", done=done, total=total))
        if num_rows != reader.num_rows:
            raise ValueError(f"{root / name}: {num_rows} rows read of {reader.num_rows}; write the split again")
        splits.append(LabelledSplit(name=name, num_rows=reader.num_rows, num_positives=num_positives))
    if not 0 < splits[0].num_positives < splits[0].num_rows:
        raise ValueError(
            f"{root / 'train'}: {splits[0].num_positives} of {splits[0].num_rows} rows are positive; a model learns "
            "from rows of both labels"
        )
    train = tables["train"]
    engine.fit(_blocks(train, engine.columns("query")), _blocks(train, engine.columns("item")))
    filled = {f"{kind}/{name}": float(n) for name, kinds in engine.report.items() for kind, n in kinds.items()}
    sink(Event(stage="prepare", done=total, total=total, metrics=filled))
    with artifacts.pending(request.output) as aside:
        # The digest of these files is the data's, so it follows from the content and not from where it lies.
        files = [file for name in tables for file in folders.local_files(root / name)]
        digests = [(str(file.relative_to(root)), digest_of_file(file)) for file in files]
        artifacts.write_text(aside.path / "files.json", "\n".join(f"{name} {digest}" for name, digest in digests))
        engine.save(aside.path / "features")
        return aside.commit(
            LabelledData,
            request,
            num_rows=train.num_rows,
            root=root,
            splits=tuple(splits),
            columns={field.name: str(field.type) for field in train.schema},
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


def _blocks(reader: readers.Reader, columns: list[str]) -> Iterator[pa.Table]:
    for block in range(len(reader.block_rows)) if columns else ():
        yield reader.read(block, columns)


def _require_columns(where: Path, reader: readers.Reader, engine: Engine, config: Config) -> None:
    asked = {
        "ranking.label": config.label,
        "ranking.sample_weight": config.sample_weight,
        "ranking.group": config.group,
    }
    wanted = {column: key for key, column in asked.items() if column is not None}
    wanted = {column: "features" for side in ("query", "item") for column in engine.columns(side)} | wanted
    for column, key in wanted.items():
        if column not in reader.schema.names:
            raise ValueError(
                f"{where}: no column {column!r}, which {key} names (there are: {', '.join(reader.schema.names)})"
            )
    if config.label in {column for side in ("query", "item") for column in engine.columns(side)}:
        raise ValueError(f"features: one of them reads {config.label!r}, the label, and a model must not see that")


def _positives(where: Path, table: pa.Table, config: Config, start: int) -> int:
    """Return how many rows are positive; `start` is the number of the first."""
    labels = table.column(config.label)
    if pa.types.is_boolean(labels.type):
        labels = labels.cast(pa.int8())
    zero_or_one = pa.array([0, 1]).cast(labels.type) if _is_number(labels.type) else None
    held = zero_or_one and pc.is_in(labels, value_set=zero_or_one)
    _require(where, labels, held, f"{config.label!r}", start, "a label is 0 or 1 (ranking.label)")
    if config.sample_weight is not None:
        weights = table.column(config.sample_weight)
        held = None
        if _is_number(weights.type):
            held = pc.and_(pc.is_finite(weights), pc.greater_equal(weights, pa.scalar(0, weights.type)))
        remedy = "a weight is a number from 0 on (ranking.sample_weight)"
        _require(where, weights, held, f"{config.sample_weight!r}", start, remedy)
    return int(pc.sum(labels).as_py() or 0)


def _require(
    where: Path, values: pa.ChunkedArray, held: pa.ChunkedArray | None, name: str, start: int, remedy: str
) -> None:
    """Refuse values that do not hold; `held` is None for a type of which none does."""
    if held is None:
        raise ValueError(f"{where}: column {name} is {values.type}; {remedy}")
    held = pc.fill_null(held, False)  # noqa: FBT003
    row = pc.index(held, pa.scalar(False)).as_py()  # noqa: FBT003
    if row >= 0:
        raise ValueError(
            f"{where}: column {name} holds {values[row].as_py()} in row {start + row} of rows {start} to "
            f"{start + len(values)}; {remedy}"
        )


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)
