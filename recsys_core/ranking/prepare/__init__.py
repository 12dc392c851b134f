"""Stage `prepare` of ranking on splits: import the labelled tables, check all of them, and fit the features on `train`.

Of rows by day see `days`.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, ClassVar

from recsys_core import artifacts, folders, ingest, lookup, readers
from recsys_core.artifacts import LabelledData, LabelledSplit, digest_of_file
from recsys_core.datasets import _ids
from recsys_core.datasets import base as datasets
from recsys_core.datasets.labelled import base, splits
from recsys_core.features import Config as Features
from recsys_core.features import Engine
from recsys_core.progress import Event, Sink
from recsys_core.ranking import Config
from recsys_core.ranking.prepare.agreement import fit, require_columns, require_ids
from recsys_core.ranking.prepare.labels import blocks, positives

CATALOGUE = "recsys_core.datasets.labelled"
Data = Annotated[datasets.Config, lookup.OneOf(CATALOGUE)]
"""The YAML section `data` of a ranking config: the `Config` of whichever kind it names."""
SplitData = Annotated[base.Config, lookup.OneOf(CATALOGUE)]
"""That section where rows lie in splits, and not by day."""


class Request(artifacts.Request):
    """`fingerprint` is that of the source: where the tables lie or are imported to does not count."""

    UNKEYED: ClassVar[frozenset[str]] = artifacts.Request.UNKEYED | {"import_root"}

    config: Config
    data: SplitData
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
    require_columns(places, tables, engine, request.config)
    for column in engine.columns_of_ids():
        if (said := _ids.message(column, tables["train"].schema.field(column).type)) is not None:
            sink(Event(stage="prepare", message=said))
    total, done = sum(reader.num_rows for reader in tables.values()), 0
    checked: list[LabelledSplit] = []
    for name, reader in tables.items():
        require_ids(_where(places[name], reader, request.data), reader, engine)
        where, num_positives, num_rows = _where(places[name], reader, request.data), 0, 0
        used = [*request.config.label_columns, *request.config.weight_columns]
        for block, table in enumerate(blocks(reader, used)):
            num_positives += positives(where(block), table, request.config)
            num_rows += table.num_rows
            done += table.num_rows
            sink(Event(stage="prepare", done=done, total=total))
        if num_rows != reader.num_rows:
            raise ValueError(f"{places[name]}: {num_rows} rows read of {reader.num_rows}; write the split again")
        checked.append(LabelledSplit(name=name, num_rows=reader.num_rows, num_positives=num_positives))
    # Values may well all be positive.
    first = next(iter(request.config.named.values()))
    if first.predicts == "probability" and not 0 < checked[0].num_positives < checked[0].num_rows:
        raise ValueError(
            f"{places['train']}: {checked[0].num_positives} of {checked[0].num_rows} rows are positive; a model learns "
            "from rows of both labels"
        )
    train = tables["train"]
    fit(engine, train, None if request.data.in_place else places["train"])
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


def _where(place: str, reader: readers.Reader, data: base.Config) -> Callable[[int], readers.Place]:
    """Return a function that gives a block's place: in a file of the user's, or among the rows of its table."""
    if data.in_place:
        return reader.place
    return lambda block: readers.Place(place, int(reader.block_rows[:block].sum()))
