"""Stage `preprocess`: from the log to what one day's training and measuring read, without a look into the future.

It writes `examples/` (what a user was like just before each interaction, and the item it was with), `items/` (all
there is to recommend), `ground_truth/` (the next day's users as they were when it began, what they then took and what
they had seen) and `features/`, the feature engine fitted on the first two.

Memory: the interactions of one day, 4 bytes for each of the last `history.max_length` items of each user (`by_day`),
and all versions of users and items. Mode `others`, sequences and splits of the whole log need all days: 28 bytes for
each interaction (36 in mode `others`), and about 100 while they are read and sorted, more with ids of text.
"""

import datetime
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, PositiveInt, model_validator

from recsys_core import artifacts, holdout
from recsys_core.artifacts import HISTORY, Dataset, Frozen, Holdout, Learned, NextDay, Split, TrainingData
from recsys_core.datasets import _ids
from recsys_core.datasets.base import DAY_SECONDS, day_number, day_of, days_before
from recsys_core.features import Config as Features
from recsys_core.features import Engine, unknown
from recsys_core.features.base import Jagged, is_list
from recsys_core.gate import Values
from recsys_core.holdout import Part
from recsys_core.progress import Event, Sink
from recsys_core.retrieval.preprocess import by_day, division, fitting
from recsys_core.retrieval.preprocess.by_day import DailyLog
from recsys_core.retrieval.preprocess.fitting import CHUNK_ROWS, counted, written
from recsys_core.retrieval.preprocess.log import Chunk, Items, Log, Mode, Segments, Users
from recsys_core.samplers import _weights, impressions

_STAGE = fitting.STAGE


class History(Frozen):
    """Which of a user's interactions an example may know: the last `max_length`, oldest first.

    `before`: of those strictly earlier than the example's own second. `preceding`: of those before it in the order of
    time and, within its second, of the log's files. `others`, for logs without real times: of all of the user's
    interactions but those with the example's own item.
    """

    mode: Mode = "before"
    max_length: PositiveInt = 50


class Sampling(Frozen):
    """How often a negative sampler should draw an item: num_interactions ** `alpha` + `smoothing`."""

    alpha: float = Field(default=0.75, ge=0)
    smoothing: float = Field(default=1.0, ge=0)


class Config(Frozen):
    """YAML section `preprocess`.

    A cold start's examples are those of the last `window_days` days; `num_interactions` counts the last
    `popularity_days`; null means all. `catalogue: known` recommends the items known when the day ends, `all` also
    those first known on the ground truth's day. Its users count in either case, as do the items that they took.

    `examples`: one of each interaction, with the user's history before it; or `sequences`, for models that read a
    history in its order: one of up to `history.max_length` of a user's interactions in a row, each of which is to be
    found with what came before it.
    """

    window_days: PositiveInt | None = None
    popularity_days: PositiveInt | None = None
    history: History = History()
    sampling: Sampling = Sampling()
    catalogue: Literal["known", "all"] = "known"
    examples: Literal["interactions", "sequences"] = "interactions"


class Request(artifacts.Request):
    """What preprocessing `day` needs: what the base has learned from, and its engine; null for a cold start.

    `holdout` says which rows are measured on. With `measured`, whose ground truth is of `day`, those rows are learned
    from after they were measured on: nothing is known of later ones, and the ground truth stays what it was.
    `live_columns` are what the live release's query features read, which is measured on the same queries, and
    `sliced_by` those that distinguish parts of them, by the part's name. `weights` is the file of the
    sampler's weights of items, if there is one, and `weights_digest` that of its content; `shown` is a sampler of
    impressions, and `shown_digest` that of the days that it counts.
    """

    UNKEYED: ClassVar[frozenset[str]] = artifacts.Request.UNKEYED | {"base_engine", "weights"}

    config: Config
    features: Features
    dataset: Dataset
    day: datetime.date
    holdout: Holdout = NextDay()
    weights: Path | None = None
    weights_digest: str | None = None
    shown: impressions.Config | None = None
    shown_digest: str | None = None
    base_learned: Learned | None = None
    base_engine: Path | None = None
    base_engine_digest: str | None = None
    live_columns: tuple[str, ...] = ()
    sliced_by: dict[str, Values] = Field(default={})
    measured: TrainingData | None = None

    @model_validator(mode="after")
    def _whole_base(self) -> Self:
        given = {part is not None for part in (self.base_learned, self.base_engine, self.base_engine_digest)}
        if len(given) != 1:
            raise ValueError("base_learned, base_engine and base_engine_digest go together; give all three or none")
        if self.base_learned is not None and self.base_learned.last_day > self.day:
            last = self.base_learned.last_day
            raise ValueError(f"base_learned up to {last}: a state of later rows cannot be continued on {self.day}")
        if self.measured is not None and self.measured.ground_truth_day != self.day:
            raise ValueError(f"measured on {self.measured.ground_truth_day}: its rows are not those of {self.day}")
        return self


def run(request: Request, sink: Sink) -> TrainingData:
    """Write the training data of `request.day`; without examples where the base has learned from all of them already.

    Raises:
        ValueError: a day without interactions where some are needed, a column that neither the log nor this stage
            has, a log that contradicts itself, or a base engine that is not the one of the digest.
    """
    day, dataset = request.day, request.dataset
    parts, held_out, learned = _division(request)
    last = day if held_out is None else held_out.day
    sliced = fitting.sliced(request.sliced_by, dataset.columns["users"], dataset.columns["items"])
    columns = _plan(request.features, dataset, [*request.live_columns, *sliced])
    engine = Engine.build(request.features, base=fitting.base_engine(request.base_engine, request.base_engine_digest))
    ids = dict.fromkeys(name.removeprefix(HISTORY) for name in engine.columns_of_ids())
    _ids.check(dataset, list(ids), last, _STAGE, sink)
    users, items = Users(dataset, last, columns.user), Items(dataset, day, last)
    for name, values in request.sliced_by.items():
        table = users.schema if values.column in sliced else items.table.schema
        values.require(table.field(values.column).type, f"gate.slices.{name}")
    past = _past(request, users, items, parts, held_out)
    if held_out is not None:
        division.require_rows(past.num_measured, past.num_targets, request.holdout, day)
    tables = _Tables(past.log, users, items, columns)
    ranked: list[pa.Table] = []

    def rank() -> Iterator[pa.Table]:
        # How often items were taken may be known only once the examples were made.
        ranked.append(_ranked_items(items, past.log.counts(), request))
        yield ranked[0]

    with artifacts.pending(request.output) as out:
        num_rows = past.num_rows
        made = tables.examples(past.examples) if past.segments is None else tables.sequences(past.segments)
        examples = written(counted(made, num_rows, sink), out.path / "examples")
        features = out.path / "features"
        assert num_rows or request.base_engine, "only where a release is continued there can be no examples"
        engine = fitting.fitted(engine, examples, rank(), features, None if num_rows else request.base_engine)
        num_items = sum(table.num_rows for table in written(ranked or rank(), out.path / "items"))
        num_queries, num_ground_truth = _write_ground_truth(request, tables, last, out.path / "ground_truth")
        num_tied = None if request.measured is None else request.measured.num_tied
        if held_out is not None and isinstance(request.holdout, Split):
            num_tied = past.num_tied
            sink(Event(stage=_STAGE, message=division.in_words(request.holdout, num_ground_truth, num_tied)))
        filled = {f"{kind}/{name}": float(n) for name, kinds in engine.report.items() for kind, n in kinds.items()}
        sink(Event(stage=_STAGE, done=num_rows, total=num_rows, metrics=filled))
        return out.commit(
            TrainingData,
            request,
            num_rows=num_rows,
            day=day,
            first_day=past.first_day or day,
            ground_truth_day=last,
            num_items=num_items,
            num_queries=num_queries,
            num_ground_truth=num_ground_truth,
            engine_digest=engine.digest,
            learned=learned,
            num_tied=num_tied,
            num_targets=None if past.segments is None else past.num_targets,
            most_targets=None if past.segments is None else int(past.segments.lengths.max(initial=0)),
        )


class _Past(NamedTuple):
    """What is known and what is learned from: examples, of which there are `num_rows`, or segments of sequences."""

    log: Log | DailyLog
    examples: Iterator[Chunk]
    segments: Segments | None
    num_rows: int
    num_targets: int
    first_day: datetime.date | None
    num_measured: int
    num_tied: int


def _past(request: Request, users: Users, items: Items, parts: Sequence[Part], held_out: Part | None) -> _Past:
    """Read the log day by day where that gives the same examples in less memory, and else as a whole."""
    config, dataset, day = request.config, request.dataset, request.day
    days, mode, length = config.popularity_days, config.history.mode, config.history.max_length
    since = None if days is None else days_before(day, days - 1)
    last = day if held_out is None else held_out.day
    num_rows = sum(count.num_interactions for count in dataset.days if count.day <= last)
    one_by_one = config.examples == "interactions" and by_day.serves(mode, parts, held_out)
    if one_by_one and by_day.takes_less(len(users.ids), length, num_rows):
        log = DailyLog(dataset, last, users, items, (mode, length), parts, held_out, since)
        number = log.num_examples
        return _Past(log, log.examples(CHUNK_ROWS), None, number, number, log.first_day, log.num_measured, 0)
    whole = Log(dataset, last, users, items, mode, length, division.of(held_out, users), since)
    rows = division.examples(whole, users, parts)
    segments = whole.segments(rows) if config.examples == "sequences" else None
    return _Past(
        whole,
        whole.examples(rows, CHUNK_ROWS),
        segments,
        len(rows) if segments is None else len(segments.users),
        len(rows),
        day_of(int(whole.days(rows[:1])[0])) if len(rows) else None,
        len(whole.seconds) - whole.num_past,
        whole.num_tied,
    )


def _division(request: Request) -> tuple[tuple[Part, ...], Part | None, Learned]:
    """Return what is learned from, what is measured on (None: it was before), and the record of the state then."""
    day, dataset, base = request.day, request.dataset, request.base_learned
    if request.measured is None:
        plan = division.plan(dataset, request.holdout, day, base, request.config.window_days)
        return plan.train, plan.held_out, plan.learned
    assert base is not None, "what was measured is what is continued"
    there = [count.day for count in dataset.days if count.num_interactions and count.day <= day]
    parts, learned = holdout.absorb(base, day, there)
    return parts, None, learned


def _write_ground_truth(request: Request, tables: "_Tables", day: datetime.date, directory: Path) -> tuple[int, int]:
    """Return how many queries and how many of their items there are."""
    if (measured := request.measured) is not None:
        shutil.copytree(measured.ground_truth, directory)
        return measured.num_queries, measured.num_ground_truth
    queries, truth = tables.log.ground_truth()
    tables_written = written(tables.ground_truth(queries, truth, day), directory)
    return sum(table.num_rows for table in tables_written), len(truth.values)


class _Columns(NamedTuple):
    """What the query's features read: fields of the user, fields of the items in the history."""

    user: list[str]
    history: list[str]


class _Tables:
    """Makes the tables to be written, chunk by chunk."""

    def __init__(self, log: Log | DailyLog, users: Users, items: Items, columns: _Columns) -> None:
        self.log, self._users, self._columns = log, users, columns
        self._ids = items.table["item_id"].combine_chunks()
        self._fields = {name: items.table[name].combine_chunks() for name in columns.history}

    def examples(self, chunks: Iterator[Chunk]) -> Iterator[pa.Table]:
        """Yield user_id, item_id, timestamp and the query's columns of examples of the past."""
        for users, items, seconds, history in chunks:
            query = self._query(users, seconds // DAY_SECONDS, history)
            query = query.add_column(1, "item_id", self._ids.take(pa.array(items)))
            yield query.add_column(2, "timestamp", pa.array(seconds))

    def sequences(self, segments: Segments) -> Iterator[pa.Table]:
        """Yield user_id, timestamp, the query's columns, targets and known; users as on the day of the first target.

        There is one table at least, which may be empty.
        """
        log, lengths = self.log, segments.lengths
        assert isinstance(log, Log), "segments are of the whole log"
        for start in range(0, max(len(lengths), 1), CHUNK_ROWS):
            chunk = np.arange(start, min(start + CHUNK_ROWS, len(lengths)))
            targets = Jagged(segments.rows, lengths).take(chunk)
            ends = np.cumsum(targets.lengths)
            days = log.days(targets.values[ends - targets.lengths])
            query = self._query(segments.users[chunk], days, log.histories(segments, chunk))
            query = query.add_column(1, "timestamp", pa.array(log.seconds[targets.values[ends - 1]]))
            items = targets._replace(values=log.items[targets.values])
            query = query.append_column(artifacts.TARGETS, _gather(self._ids, items))
            places = pa.array(np.concatenate([[0], ends]), pa.int32())
            known = pa.array(Jagged(segments.known, lengths).take(chunk).values, pa.int32())
            yield query.append_column(artifacts.KNOWN, pa.ListArray.from_arrays(places, known))

    def ground_truth(self, users: np.ndarray, truth: Jagged, day: datetime.date) -> Iterator[pa.Table]:
        """Yield user_id, the query's columns at the end of the past, users as on `day`, gt_items and seen_items."""
        for start in range(0, len(users), CHUNK_ROWS):
            rows = np.arange(start, min(start + CHUNK_ROWS, len(users)))
            chunk = users[rows]
            query = self._query(chunk, np.full(len(rows), day_number(day)), self.log.at_end(chunk))
            query = query.append_column("gt_items", _gather(self._ids, truth.take(rows)))
            yield query.append_column("seen_items", _gather(self._ids, self.log.seen(chunk)))

    def _query(self, users: np.ndarray, days: np.ndarray, history: Jagged) -> pa.Table:
        table = self._users.on(users, days)
        for name, values in self._fields.items():
            table = table.append_column(HISTORY + name, _gather(values, history))
        return table


def _gather(values: pa.Array, rows: Jagged) -> pa.Array:
    """Return a list per row: `values` of its codes; those of lists one after another."""
    taken = values.take(pa.array(rows.values))
    offsets = np.concatenate([[0], np.cumsum(rows.lengths)])
    if is_list(values.type):
        inner = pc.fill_null(pc.list_value_length(taken), 0).to_numpy(zero_copy_only=False)
        offsets = np.concatenate([[0], np.cumsum(inner)])[offsets]
        taken = pc.list_flatten(taken)
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), taken)


def _plan(features: Features, dataset: Dataset, live: Sequence[str] = ()) -> _Columns:
    """Find out which columns of the log the features need, and those of the features `live` that the log has.

    Raises:
        ValueError: a feature's column is neither in the log nor made here, or would give the query its own answer.
    """
    engine = Engine.build(features)
    fields, item_fields = list(dataset.columns["users"]), list(dataset.columns["items"])
    clash = [name for name in item_fields if name in fitting.COMPUTED]
    if clash:
        raise ValueError(f"items have a field {clash[0]!r}, which preprocess computes; rename the log's")
    query = engine.columns("query")
    allowed = [*fields, *(HISTORY + name for name in item_fields)]
    for column in query:
        if column in ("item_id", "timestamp", "gt_items", "seen_items"):
            raise ValueError(f"features.query: column {column!r} is part of the answer or no field of a user; drop it")
        if column not in allowed:
            raise ValueError(f"features.query: {unknown('column', column, allowed)}")
    query += [column for column in live if column in allowed and column not in query]
    for column in engine.columns("item"):
        if column not in (*item_fields, *fitting.COMPUTED):
            raise ValueError(f"features.item: {unknown('column', column, [*item_fields, *fitting.COMPUTED])}")
    user = [column for column in query if column in fields and column != "user_id"]
    return _Columns(user, [column.removeprefix(HISTORY) for column in query if column not in fields])


def _ranked_items(items: Items, counts: np.ndarray, request: Request) -> pa.Table:
    """Return the item table, with how often each was taken and how often it should be drawn."""
    config = request.config
    num_items = items.num_known if config.catalogue == "known" else items.table.num_rows
    assert not counts[num_items:].any(), "ingest lets no item be taken before the day on which it is known"
    counts = counts[:num_items]
    ids = items.table["item_id"].slice(0, num_items).combine_chunks()
    if request.weights is None:
        weights = counts**config.sampling.alpha + config.sampling.smoothing
    else:
        weights = _weights.of_items(request.weights, ids)
    if request.shown is not None:
        weights = impressions.mixed(request.shown, request.day, ids, weights)
    table = items.table.slice(0, num_items).append_column("num_interactions", pa.array(counts))
    return table.append_column("sampling_weight", pa.array(weights))
