"""Stage `preprocess` on ready-made examples: their columns that features read, popularity, and fitted features.

It writes what `preprocess` writes of a log. Items count by the examples that the run learns from; evaluation rows with
one user_id are one query. Memory: the item table and the evaluation rows; training rows pass through it in blocks.
"""

import datetime
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from recsys_core import artifacts, columns, holdout, readers
from recsys_core.artifacts import ExampleLog, Learned, NextDay, TrainingData
from recsys_core.columns import RowError
from recsys_core.datasets import _ids
from recsys_core.features import Config as Features
from recsys_core.features import Engine, unknown
from recsys_core.gate import Values
from recsys_core.progress import Event, Sink
from recsys_core.retrieval.ingest import ITEM, SEEN, TRUTH
from recsys_core.retrieval.ingest.items import WEIGHT
from recsys_core.retrieval.preprocess import Config, fitting
from recsys_core.retrieval.preprocess.fitting import CHUNK_ROWS, COMPUTED, STAGE, counted, written
from recsys_core.retrieval.preprocess.queries import USER, grouped


class Request(artifacts.Request):
    """What preprocessing `day` needs; see `preprocess.Request`."""

    UNKEYED: ClassVar[frozenset[str]] = artifacts.Request.UNKEYED | {"base_engine"}

    config: Config
    features: Features
    log: ExampleLog
    day: datetime.date
    base_learned: Learned | None = None
    base_engine: Path | None = None
    base_engine_digest: str | None = None
    live_columns: tuple[str, ...] = ()
    sliced_by: dict[str, Values] = Field(default={})

    @model_validator(mode="after")
    def _whole_base(self) -> Self:
        given = {part is not None for part in (self.base_learned, self.base_engine, self.base_engine_digest)}
        assert len(given) == 1, "base_learned, base_engine and base_engine_digest go together"
        return self


class _Examples(NamedTuple):
    """The training rows. `names` are those of the columns here by those in the files; `num_rows` is ingest's count."""

    source: str
    reader: readers.Reader
    names: dict[str, str]
    num_rows: int

    @property
    def types(self) -> dict[str, pa.DataType]:
        """The columns' types."""
        found: list[str] = self.reader.schema.names
        return {self.names.get(name, name): self.reader.schema.field(name).type for name in found}

    def blocks(self, wanted: Sequence[str]) -> Iterator[tuple[readers.Place, pa.Table]]:
        """Yield all rows, in order, with the columns `wanted`, in plain layout, whose texts are looked at.

        Raises:
            ValueError: a text is none (names file and row), or there are other rows than ingest counted.
        """
        of = {name: own for own in self.reader.schema.names if (name := self.names.get(own, own)) in wanted}
        num_rows = 0
        for block in range(len(self.reader.block_rows)):
            place = self.reader.place(block)
            table = self.reader.read(block, [of[name] for name in wanted]).rename_columns(list(wanted))
            yield place, pa.table({name: _plain(place, name, table[name]) for name in wanted})
            num_rows += table.num_rows
        if num_rows != self.num_rows:
            raise ValueError(
                f"{self.source}: {num_rows} training rows where ingest counted {self.num_rows}; they have changed "
                "since, so run again"
            )


def run(request: Request, sink: Sink) -> TrainingData:
    """Write the training data of `request.day`.

    Raises:
        ValueError: a column is in neither table, or of another kind in the evaluation than in the training rows; an
            example's item is not in the item table; rows of one query differ; a value cannot be taken by a feature, or
            the base engine is not the one of the digest. Names file, column and row.
    """
    log, day = request.log, request.day
    there = {one.day: one for one in log.days if one.num_rows}
    plan = holdout.plan(NextDay(), day, list(there), request.base_learned, request.config.window_days)
    learned_days = [there[part.day] for part in plan.train]
    reader = readers.opened(tuple(one.folder for one in learned_days))
    examples = _Examples(log.source, reader, log.names, sum(one.num_rows for one in learned_days))
    evaluation = readers.read_all(readers.opened(log.evaluation))
    items = readers.read_all(readers.opened(log.items)).combine_chunks()
    engine = Engine.build(request.features, base=fitting.base_engine(request.base_engine, request.base_engine_digest))
    query = _query_columns(request, engine, examples, evaluation.schema)
    sliced = _sliced(request, evaluation.schema, items.schema)
    _item_columns(engine, items.schema)
    _require_ids(engine, items, evaluation, log, sink)
    ranked = _ranked(items, _positives(examples, items[ITEM].combine_chunks()), request.config)
    kept = [name for name in (*query, *request.live_columns, *sliced) if name in evaluation.column_names]
    queries = grouped(evaluation, list(dict.fromkeys(name for name in kept if name != USER)), log.evaluation_source)
    with artifacts.pending(request.output) as out:
        num_items = sum(table.num_rows for table in written([ranked], out.path / "items"))
        rows = counted(_rows(examples, query, engine), examples.num_rows, sink)
        rows = written(rows, out.path / "examples")
        engine = fitting.fitted(engine, rows, [ranked], out.path / "features", None, reader.locate)
        num_queries = sum(table.num_rows for table in written(_chunks(queries), out.path / "ground_truth"))
        filled = {f"{kind}/{name}": float(n) for name, kinds in engine.report.items() for kind, n in kinds.items()}
        sink(Event(stage=STAGE, done=examples.num_rows, total=examples.num_rows, metrics=filled))
        return out.commit(
            TrainingData,
            request,
            num_rows=examples.num_rows,
            day=day,
            first_day=plan.train[0].day,
            ground_truth_day=plan.held_out.day,
            num_items=num_items,
            num_queries=num_queries,
            num_ground_truth=pc.sum(pc.list_value_length(queries[TRUTH])).as_py(),
            engine_digest=engine.digest,
            learned=plan.learned,
        )


def _query_columns(request: Request, engine: Engine, examples: _Examples, evaluation: pa.Schema) -> list[str]:
    """Return the columns of training rows that features read; the evaluation has them too, alike."""
    types, query = examples.types, engine.columns("query")
    for name in query:
        if name in (ITEM, TRUTH, SEEN):
            raise ValueError(f"features.query: column {name!r} is part of the answer; drop it")
        if name not in types:
            raise ValueError(f"features.query: {unknown('column', name, list(types))} of {examples.source}")
        if name not in evaluation.names:
            raise ValueError(
                f"{request.log.evaluation_source}: no column {name!r}, which features.query reads of the training rows "
                f"(there are: {', '.join(evaluation.names)}); write it there too"
            )
        if not columns.alike(evaluation.field(name).type, types[name]):
            raise ValueError(
                f"{request.log.evaluation_source}: column {name!r} is {evaluation.field(name).type}, and {types[name]} "
                f"in {examples.source}; write both alike"
            )
    return query


def _item_columns(engine: Engine, items: pa.Schema) -> None:
    allowed = [*(name for name in items.names if name != WEIGHT), *COMPUTED]
    for name in engine.columns("item"):
        if name not in allowed:
            raise ValueError(f"features.item: {unknown('column', name, allowed)} of the item table")
    if "num_interactions" in items.names:
        raise ValueError("items have a column 'num_interactions', which preprocess computes; rename it in data.columns")


def _sliced(request: Request, evaluation: pa.Schema, items: pa.Schema) -> list[str]:
    fields, item_fields = ({field.name: str(field.type) for field in schema} for schema in (evaluation, items))
    sliced = fitting.sliced(request.sliced_by, fields, item_fields)
    for name, values in request.sliced_by.items():
        schema = evaluation if values.column in sliced else items
        values.require(schema.field(values.column).type, f"gate.slices.{name}")
    return sliced


def _require_ids(engine: Engine, items: pa.Table, evaluation: pa.Table, log: ExampleLog, sink: Sink) -> None:
    """Look at columns that are ids, of items and of evaluation rows, whose type does not promise it."""
    for table, place in ((items, "the item table"), (evaluation, log.evaluation_source)):
        for name in engine.columns_of_ids():
            if name in table.column_names and _ids.is_doubtful(kind := table.schema.field(name).type):
                _ids.require(table[name], name, place, 0)
                if (said := _ids.message(name, kind)) is not None:
                    sink(Event(stage=STAGE, message=said))


def _positives(examples: _Examples, items: pa.Array) -> np.ndarray:
    """Count how often each item is the positive of an example, int64 [items].

    Raises:
        ValueError: an example's item is not in the item table; names file and row.
    """
    counts = np.zeros(len(items), np.int64)
    for place, table in examples.blocks([ITEM]):
        found = _item_ids(place, table, items.type)
        at = pc.index_in(found, value_set=items)
        if at.null_count:
            row = int(np.argmax(at.is_null().to_numpy(zero_copy_only=False)))
            raise ValueError(
                f"{place.path}: column {ITEM!r}, row {place.first_row + row}: item {found[row].as_py()!r} is not in "
                "the item table; add it there, drop the row, or learn from fewer days (preprocess.window_days)"
            )
        counts += np.bincount(at.to_numpy(), minlength=len(items))
    return counts


def _item_ids(place: readers.Place, table: pa.Table, kind: pa.DataType) -> pa.Array:
    try:
        found = columns.by_chunk(columns.ids, table[ITEM]).combine_chunks()
    except RowError as error:
        raise ValueError(f"{place.path}: column {ITEM!r}, row {place.first_row + error.row}: {error.reason}") from None
    except ValueError as error:
        raise ValueError(f"{place.path}: column {ITEM!r}: {error}") from None
    if found.type != kind:
        raise ValueError(
            f"{place.path}: column {ITEM!r} has ids of type {found.type} where the item table's are {kind}; write both "
            "alike"
        )
    return found


def _ranked(items: pa.Table, counts: np.ndarray, config: Config) -> pa.Table:
    """Return the item table, with how often each was taken and how often it should be drawn."""
    given = items[WEIGHT] if WEIGHT in items.column_names else None
    weights = counts**config.sampling.alpha + config.sampling.smoothing if given is None else given.to_numpy()
    own = items.drop_columns([WEIGHT]) if given is not None else items
    own = pa.table({name: columns.by_chunk(columns.plain, own[name]) for name in own.column_names})
    return own.append_column("num_interactions", pa.array(counts)).append_column(WEIGHT, pa.array(weights))


def _rows(examples: _Examples, query: Sequence[str], engine: Engine) -> Iterator[pa.Table]:
    """Yield user_id, if there is one, item_id and the query's columns of every training row."""
    wanted = [name for name in (USER, ITEM) if name in examples.types]
    wanted += [name for name in query if name not in wanted]
    ids = engine.columns_of_ids()
    doubtful = [name for name in query if name in ids and _ids.is_doubtful(examples.types[name])]
    for place, table in examples.blocks(wanted):
        for name in doubtful:
            _ids.require(table[name], name, place.path, place.first_row)
        item = columns.by_chunk(columns.ids, table[ITEM])
        yield table.set_column(wanted.index(ITEM), ITEM, item)


def _plain(place: readers.Place, name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    try:
        return columns.by_chunk(lambda chunk: columns.require_text(columns.plain(chunk)), column)
    except RowError as error:
        raise ValueError(f"{place.path}: column {name!r}, row {place.first_row + error.row}: {error.reason}") from None


def _chunks(table: pa.Table) -> Iterable[pa.Table]:
    return (table.slice(start, CHUNK_ROWS) for start in range(0, table.num_rows, CHUNK_ROWS))
