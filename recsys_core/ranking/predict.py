"""Batch scoring of ranking: every row of a table through the exported module, on all ranks, in the table's order."""

import pyarrow as pa

from recsys_core import distributed, output, ranking, readers
from recsys_core.artifacts import Predictions
from recsys_core.distributed import World
from recsys_core.exported import applied, forward
from recsys_core.exported.forward import Scorer
from recsys_core.features import Engine
from recsys_core.loading.rank_batches import RankBatches
from recsys_core.progress import Event, Sink
from recsys_core.ranking.requests import PredictConfig as Config
from recsys_core.ranking.requests import PredictRequest as Request
from recsys_core.redaction import redact

__all__ = ["Config", "Request", "run"]


def run(request: Request, sink: Sink) -> Predictions:
    """Write each row's reserved columns, `score` (the logit) and `probability`; all rows, or nothing is there.

    Of several tasks each has its own, `score_NAME` and `probability_NAME`.

    `config.output` is replaced as a whole once all rows are scored; a rerun replaces it again.

    Raises:
        ValueError: the table lacks a column that the features or `reserved_columns` need, or already has `score`; or
            `config.output` cannot be written.
    """
    with distributed.world("cpu") as world:
        work = applied.begin(request.output, world)
        scorer = Scorer(request.model)
        reader = _opened(request, scorer.engine, world)
        kept = list(request.config.reserved_columns or reader.schema.names)
        columns = list(dict.fromkeys([*kept, *scorer.columns]))
        added = [field.name for field in scorer.fields]
        forward.check(request.source, reader.schema, scorer.columns, kept, added, "predict.reserved_columns")
        size = request.config.batch_size
        shard = RankBatches.in_order(reader, columns, batch_size=size, rank=world.rank, num_ranks=world.num_ranks)
        fields = [*(reader.schema.field(name) for name in kept), *scorer.fields]
        rows, num_rows = work.path / "rows", reader.num_rows
        event = Event(stage=request.stage, total=num_rows)
        scores = forward.added(iter(shard), reader, scorer, kept, added)
        applied.write(scores, rows, pa.schema(fields), num_rows, world, event, sink)
        applied.emit_out_of_range(scorer.engine, world, event.model_copy(update={"done": num_rows}), sink)
        if request.config.output is not None:
            output.copy(rows, request.config.output, world)
        if world.is_first:
            source, digest = redact(request.source), request.model.digest
            work.commit(Predictions, request, num_rows=num_rows, source=source, model_digest=digest)
        world.barrier()
        return Predictions.load(request.output)


def _opened(request: Request, engine: Engine, world: World) -> readers.Reader:
    """Open a split as it was checked, or another table."""
    if request.data is not None:
        return ranking.opened(request.data, request.split)
    return applied.opened(request.source, request.config.csv, engine, world)
