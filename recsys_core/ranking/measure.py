"""Stage `evaluate` of daily ranking: the exported model beside the champion and what needs no model, on the same rows.

The rows were scored before, by the model and by the champion, in one order. Legend: B rows, G groups.
"""

from collections.abc import Iterator, Sequence
from typing import Annotated, NamedTuple

import numpy as np
import pyarrow as pa
from pydantic import Field

from recsys_core import artifacts, gate, holdout, readers
from recsys_core.artifacts import (
    ComponentConfig,
    Difference,
    Holdout,
    LabelledData,
    LabelledLog,
    LabelledMetrics,
    LabelledSlice,
    Predictions,
)
from recsys_core.artifacts import RankingEvaluation as Evaluation
from recsys_core.columns import digest
from recsys_core.datasets import base
from recsys_core.lookup import OneOf
from recsys_core.metrics import bootstrap
from recsys_core.metrics.ranking import CATALOGUE, Scored, all_of, write_pictures
from recsys_core.progress import Event, Sink
from recsys_core.ranking import ONLY, past, score_columns
from recsys_core.ranking import Config as Ranking
from recsys_core.ranking.past import Past

_STAGE = "evaluate"
_SPLIT = "test"


class Request(artifacts.Request):
    """What measuring a day needs; `log` has the past, and `predictions` are of the rows that `holdout` holds out.

    `metrics` are measured beside those that every evaluation has, and `parts` of the rows beside all of them;
    `confidence` is that of the intervals of differences to the champion. Of several tasks `task` is compared, null: the
    first.
    """

    ranking: Ranking
    log: LabelledLog
    data: LabelledData
    holdout: Holdout
    predictions: Predictions
    champion: Predictions | None = None
    metrics: tuple[Annotated[ComponentConfig, OneOf(CATALOGUE)], ...] = ()
    parts: dict[str, gate.Part] = Field(default={})
    confidence: float = 0.95
    task: str | None = None

    @property
    def compared(self) -> str:
        """The task whose rows, baselines, slices and differences are measured."""
        return self.task or next(iter(self.ranking.named))


class _Rows(NamedTuple):
    """The measured rows: their columns, each one's unit (number of its group, or its own), and the models' scores."""

    table: pa.Table
    units: np.ndarray
    model: Scored
    champion: Scored | None

    def take(self, kept: np.ndarray) -> "_Rows":
        """Return some of the rows, bool [B]; their units are numbered anew."""
        few = [scored and scored.taken(kept) for scored in (self.model, self.champion)]
        units = np.unique(self.units[kept], return_inverse=True)[1]
        assert few[0] is not None
        return _Rows(self.table.filter(pa.array(kept)), units, few[0], few[1])

    @property
    def num_units(self) -> int:
        """How many there are to draw from."""
        return int(self.units.max(initial=-1)) + 1

    def differences(self, request: Request) -> dict[str, Difference]:
        """Return those to the champion by metric, with the intervals of the same draws of units for both."""
        if self.champion is None:
            return {}
        pairs = {
            kind: (
                metric.resampled(self.model, self.units, self.num_units),
                metric.resampled(self.champion, self.units, self.num_units),
            )
            for kind, metric in all_of(request.metrics, values=self.model.values).items()
        }
        return bootstrap.differences(pairs, self.num_units, request.confidence)


def columns(ranking: Ranking, parts: dict[str, gate.Part]) -> tuple[str, ...]:
    """Return the columns of the rows that are needed beside their scores."""
    named = (*ranking.label_columns, *ranking.weight_columns, ranking.group, ranking.item)
    return tuple(dict.fromkeys(filter(None, (*named, *(part.column for part in parts.values())))))


def run(request: Request, sink: Sink) -> Evaluation:
    """Measure the rows; writes `roc.parquet` and `calibration.parquet` beside the record.

    Raises:
        ValueError: the champion's rows are others, a column is missing, a part's value is of another type, or no row is
            of the task that is compared.
    """
    (whole, tasks), before = _rows(request), past.read(_past(request), request.ranking, request.compared)
    rows = _compared(request, whole)
    model, parts = rows.model, len(request.parts)
    with artifacts.pending(request.output) as aside:
        slices: dict[str, LabelledSlice] = {}
        for number, (name, part) in enumerate(request.parts.items()):
            slices[name] = _slice(request, rows.take(_kept(request, name, part, rows, before)))
            sink(Event(stage=_STAGE, done=number + 1, total=parts, unit="slices", message=name))
        write_pictures(model, aside.path)
        evaluation = aside.commit(
            Evaluation,
            request,
            num_rows=whole.table.num_rows,
            split=_SPLIT,
            metrics=model.metrics(request.metrics),
            tasks=tasks,
            champion=rows.champion.metrics(request.metrics) if rows.champion else None,
            baselines={name: scored.metrics(request.metrics) for name, scored in _baselines(request, rows, before)},
            differences=rows.differences(request),
            num_units=rows.num_units,
            has_groups=request.ranking.group is not None,
            slices=slices,
            rows_digest=digest(whole.table),
        )
    named = evaluation.metrics.figures()
    figures = {name: named[name] for name in ("auc", "logloss", "mean_squared_error") if name in named}
    sink(Event(stage=_STAGE, done=evaluation.num_rows, total=evaluation.num_rows, metrics=figures))
    return evaluation


def loss(ranking: Ranking, predictions: Predictions) -> float:
    """Return the mean binary cross-entropy, in nats, of rows that were scored; of several tasks, the sum of theirs.

    Of a task of values it is the mean squared error.
    """
    reader = readers.opened(predictions.rows)
    names = [_score(ranking, name) for name in ranking.named]
    table = readers.read_all(reader, [*columns(ranking, {}), *names])
    by_task = (rows for _, rows in _by_task(table, None, ranking))
    measured = (rows.metrics() for rows in by_task if rows.weights.sum())
    return sum(found.figures()["mean_squared_error" if found.logloss is None else "logloss"] for found in measured)


def _past(request: Request) -> Iterator[readers.Reader]:
    """Yield the rows before the measured ones: the log's earlier days, and what is learned of the measured day."""
    measured = holdout.last_day(request.log.day, request.holdout)
    for one in request.log.days:
        if one.num_rows and one.day < measured:
            yield readers.opened(one.folder)
    for folder in request.data.folders("train"):
        if folder.name == base.partition(measured):
            yield readers.opened(folder)


def _rows(request: Request) -> tuple[_Rows, dict[str, LabelledMetrics | None]]:
    """Return all rows with the scores and labels of the compared task, and each task's metrics."""
    names, ranking, task = columns(request.ranking, request.parts), request.ranking, request.compared
    tables = [
        readers.read_all(reader, [*names, *_scores(reader.schema.names, ranking, task)])
        for reader in (readers.opened(scored.rows) for scored in (request.predictions, request.champion) if scored)
    ]
    kept = [table.select(names) for table in tables]
    if len(kept) > 1 and (kept[0].num_rows != kept[1].num_rows or digest(kept[0]) != digest(kept[1])):
        raise ValueError(
            f"the champion scored {tables[1].num_rows:,} rows and the model {tables[0].num_rows:,}, which are not the "
            "same in the same order; run again"
        )
    labels, weights = past.labels_of(kept[0], ranking, task), past.weights_of(kept[0], ranking, task)
    values = _is_value(ranking, task)
    units, groups = np.arange(len(labels)), None
    if ranking.group is not None:
        units = groups = _codes(past.by_id(kept[0].column(ranking.group)))
    scored = [
        Scored(
            table[_scores(table.column_names, ranking, task)[0]].to_numpy().astype(np.float64),
            labels,
            weights,
            groups,
            values,
        )
        for table in tables
    ]
    tasks = {} if not ranking.tasks else _tasks(tables[0], scored[0], request)
    return _Rows(kept[0], units, scored[0], scored[1] if len(scored) > 1 else None), tasks


def _compared(request: Request, rows: _Rows) -> _Rows:
    """Return the rows that are of the compared task.

    Raises:
        ValueError: none is.
    """
    task = request.compared
    of_task = past.kept_for(rows.table, request.ranking, task)
    if of_task is None:
        return rows
    if not of_task.any():
        raise ValueError(
            f"gate.task: of the {len(of_task):,} rows that are measured none is of the task {task!r} (its given "
            f"{request.ranking.named[task].given!r} is nowhere 1), so the gate has nothing to decide by; run the day "
            "again when its labels are there"
        )
    return rows.take(of_task)


def _scores(columns: Sequence[str], ranking: Ranking, compared: str) -> list[str]:
    """Return which of `columns` are the tasks' logits or values, the compared one's first.

    A champion may have one task alone, which counts as the first.

    Raises:
        ValueError: the task that is compared has none.
    """
    first, own = next(iter(ranking.named)), _score(ranking, compared)
    only = score_columns(ONLY, ranking.named[compared].predicts)[_is_value(ranking, compared)]
    found = [_score(ranking, name) for name in ranking.named]
    if own in columns:
        return [own, *(name for name in found if name in columns and name != own)]
    if compared == first and only in columns:
        return [only]
    raise ValueError(
        f"the champion has no task {compared!r}, by which it is compared; let the gate decide by a task that the "
        "release has, or give the model another name"
    )


def _is_value(ranking: Ranking, task: str) -> bool:
    return ranking.named[task].predicts != "probability"


def _score(ranking: Ranking, task: str) -> str:
    """Return the column by which a task is measured: its logit, or the value that it predicts."""
    return ranking.columns_of(task)[_is_value(ranking, task)]


def _tasks(table: pa.Table, rows: Scored, request: Request) -> dict[str, LabelledMetrics | None]:
    """Return each task's metrics; None where it has no rows, as conversions on a day without clicks.

    Of `rows`, scored by whichever task, the groups count.
    """
    by_task = _by_task(table, rows.groups, request.ranking)
    return {name: rows.metrics(request.metrics) if rows.weights.sum() else None for name, rows in by_task}


def _by_task(table: pa.Table, groups: np.ndarray | None, ranking: Ranking) -> Iterator[tuple[str, Scored]]:
    """Yield each task's name, and its rows with their scores."""
    positive = {name: past.positive(table, task.label) for name, task in ranking.named.items()}
    for name in positive:
        labels, weights = past.labels_of(table, ranking, name), past.weights_of(table, ranking, name)
        scores = table[_score(ranking, name)].to_numpy().astype(np.float64)
        rows = Scored(scores, labels, weights, groups, _is_value(ranking, name))
        kept = ranking.rows_of(name, positive)
        yield name, rows if kept is None else rows.taken(kept)


def _codes(ids: pa.Array) -> np.ndarray:
    """Return a number for each id, from 0 on; all rows without one have the same."""
    encoded = ids.dictionary_encode(null_encoding="encode")
    return encoded.indices.to_numpy().astype(np.int64)


def _baselines(request: Request, rows: _Rows, before: Past) -> Iterator[tuple[str, Scored]]:
    """Yield what needs no model; nothing where there is no past."""
    if not before.rows:
        return
    as_scored = _as_value if rows.model.values else _logit
    yield "rate", rows.model._replace(logits=np.full(rows.table.num_rows, as_scored(before.rate)))
    if request.ranking.item is not None:
        rates = before.item_rates(past.by_id(rows.table.column(request.ranking.item)))
        yield "item_rate", rows.model._replace(logits=as_scored(rates))


def _logit(rate: np.ndarray | float) -> np.ndarray:
    return np.log(rate) - np.log1p(-np.asarray(rate))


def _as_value(rate: np.ndarray | float) -> np.ndarray:
    return np.asarray(rate)


def _kept(request: Request, name: str, part: gate.Part, rows: _Rows, before: Past) -> np.ndarray:
    """Return which rows a part has, bool [B]."""
    if part.column is not None:
        return gate.matching(rows.table.column(part.column), part, f"gate.slices.{name}")
    if name == gate.NEW_USERS:
        assert request.ranking.group is not None, "the config asks for it"
        return before.is_new_group(past.by_id(rows.table.column(request.ranking.group)))
    assert request.ranking.item is not None, "the config asks for it"
    return before.is_cold(past.by_id(rows.table.column(request.ranking.item)))


def _slice(request: Request, rows: _Rows) -> LabelledSlice:
    has_groups = request.ranking.group is not None
    if not rows.model.weights.sum():
        return LabelledSlice(num_units=0, has_groups=has_groups, metrics=None, champion=None, differences={})
    return LabelledSlice(
        num_units=rows.num_units,
        has_groups=has_groups,
        metrics=rows.model.metrics(request.metrics),
        champion=rows.champion.metrics(request.metrics) if rows.champion else None,
        differences=rows.differences(request),
    )
