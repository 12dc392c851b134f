"""The evaluation stage of ranking: exact metrics of a checkpoint over every row of a split, each row once."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import nn

from recsys_core import artifacts, distributed
from recsys_core.artifacts import ComponentConfig, LabelledMetrics, RankingEvaluation
from recsys_core.distributed import World
from recsys_core.exported import applied, modules
from recsys_core.exported.as_model import RankerAsModel
from recsys_core.features import Engine
from recsys_core.metrics.ranking import Scored, write_pictures
from recsys_core.models.base import RankingModel
from recsys_core.progress import Event, Sink
from recsys_core.ranking import opened
from recsys_core.ranking.objective import joined, scored
from recsys_core.ranking.prepare import labels
from recsys_core.ranking.requests import EvaluateConfig as Config
from recsys_core.ranking.requests import EvaluateRequest as Request
from recsys_core.readers import Reader
from recsys_core.redaction import redact
from recsys_core.training import restored

__all__ = ["Config", "Request", "run"]


def run(request: Request, sink: Sink) -> RankingEvaluation:
    """Score every row on all ranks, and measure all of them together.

    Raises:
        ValueError: the data has no such split, or a row of the table no label.
    """
    # An exported module is on the CPU.
    with distributed.world("cpu" if request.exported else request.sharding.device) as world:
        engine = Engine.load(_engine(request))
        reader = _opened(request, engine, world)
        model = _model(request, engine, world)
        parts: list[dict[str, Scored]] = []
        batches = scored(model, engine, request.ranking, reader, world, batch_size=request.config.batch_size)
        for part, done in batches:
            parts.append(part)
            if world.is_first:
                sink(Event(stage="evaluate", done=done, total=reader.num_rows))
        by_task = joined(world.gather(joined(parts)))
        # The first task is of all rows.
        rows = next(iter(by_task.values()))
        assert len(rows.logits) == reader.num_rows, f"{len(rows.logits)} of {reader.num_rows} rows were scored"
        every_row = Event(stage="evaluate", done=reader.num_rows, total=reader.num_rows)
        applied.emit_out_of_range(engine, world, every_row, sink)
        if world.is_first:
            with artifacts.pending(request.output) as aside:
                write_pictures(rows, aside.path)
                aside.commit(
                    RankingEvaluation,
                    request,
                    num_rows=reader.num_rows,
                    split=request.config.split if request.source is None else redact(request.source),
                    metrics=rows.metrics(request.config.metrics),
                    tasks=measured(by_task, request.config.metrics) if request.ranking.tasks else {},
                )
        world.barrier()
        return RankingEvaluation.load(request.output)


def _engine(request: Request) -> Path:
    if request.exported is not None:
        return request.exported.engine
    assert request.engine is not None or request.data is not None, "a checkpoint says where its features are"
    return request.engine or request.data.engine  # pyright: ignore[reportOptionalMemberAccess]


def _opened(request: Request, engine: Engine, world: World) -> Reader:
    """Open the split, which was checked when it was prepared, or the table, whose labels are checked now."""
    if request.data is not None:
        known = [part.name for part in request.data.splits]
        if request.config.split not in known:
            raise ValueError(f"evaluate.split: the data has no split {request.config.split!r}, only {', '.join(known)}")
        return opened(request.data, request.config.split)
    assert request.source is not None, "one of both is there"
    reader = applied.opened(request.source, request.csv, engine, world)
    used = [*request.ranking.label_columns, *request.ranking.weight_columns, *filter(None, [request.ranking.group])]
    names = [*used, *engine.columns("query"), *engine.columns("item")]
    if missing := [name for name in dict.fromkeys(names) if name not in reader.schema.names]:
        raise ValueError(
            f"{redact(request.source)}: no column {', '.join(missing)}, which the features, the label, the weight or "
            f"the group need (it has {', '.join(reader.schema.names)})"
        )
    for block, table in enumerate(labels.blocks(reader, [*dict.fromkeys(used)])):
        labels.positives(reader.place(block), table, request.ranking)
    return reader


def _model(request: Request, engine: Engine, world: World) -> nn.Module:
    """Return the ranker that is evaluated, as exported or in training form."""
    if request.exported is not None:
        return RankerAsModel(modules.load(request.exported.path), engine)
    assert request.checkpoint is not None, "one of both is there"
    return restored.sharded(
        request.model, engine, RankingModel, request.checkpoint, request.sharding, world, request.seed
    )


def measured(rows: Mapping[str, Scored], others: Sequence[ComponentConfig] = ()) -> dict[str, LabelledMetrics | None]:
    """Return each task's metrics; None where it has no rows, as conversions on a day without clicks."""
    return {name: own.metrics(others) if own.weights.sum() else None for name, own in rows.items()}
