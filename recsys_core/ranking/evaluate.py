"""The evaluation stage of ranking: exact metrics of a checkpoint over every row of a split, each row once."""

from collections.abc import Mapping, Sequence

from recsys_core import artifacts, distributed
from recsys_core.artifacts import ComponentConfig, LabelledMetrics, RankingEvaluation
from recsys_core.exported import applied
from recsys_core.features import Engine
from recsys_core.metrics.ranking import Scored, write_pictures
from recsys_core.models.base import RankingModel
from recsys_core.progress import Event, Sink
from recsys_core.ranking import opened
from recsys_core.ranking.objective import joined, scored
from recsys_core.ranking.requests import EvaluateConfig as Config
from recsys_core.ranking.requests import EvaluateRequest as Request
from recsys_core.training import restored

__all__ = ["Config", "Request", "run"]


def run(request: Request, sink: Sink) -> RankingEvaluation:
    """Score every row on all ranks, and measure all of them together.

    Raises:
        ValueError: the data has no such split.
    """
    split = request.config.split
    known = {part.name: part for part in request.data.splits}
    if split not in known:
        raise ValueError(f"evaluate.split: the data has no split {split!r}, only {', '.join(known)}")
    with distributed.world(request.sharding.device) as world:
        engine = Engine.load(request.data.engine)
        sharded = restored.sharded(
            request.model, engine, RankingModel, request.checkpoint, request.sharding, world, request.seed
        )
        reader = opened(request.data, split)
        parts: list[dict[str, Scored]] = []
        batches = scored(sharded, engine, request.ranking, reader, world, batch_size=request.config.batch_size)
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
                    split=split,
                    metrics=rows.metrics(request.config.metrics),
                    tasks=measured(by_task, request.config.metrics) if request.ranking.tasks else {},
                )
        world.barrier()
        return RankingEvaluation.load(request.output)


def measured(rows: Mapping[str, Scored], others: Sequence[ComponentConfig] = ()) -> dict[str, LabelledMetrics | None]:
    """Return each task's metrics; None where it has no rows, as conversions on a day without clicks."""
    return {name: own.metrics(others) if own.weights.sum() else None for name, own in rows.items()}
