"""Batch scoring of ranking: every row of a table through the exported module, on all ranks, in the table's order."""

import shutil
from collections.abc import Iterator

import pyarrow as pa
import torch

from recsys_core import distributed, output, ranking, readers
from recsys_core.artifacts import Pending, Predictions
from recsys_core.distributed import World
from recsys_core.exported.inputs import MODEL, ranker_inputs
from recsys_core.features import Engine, RowError, counting_from, out_of_range_metrics
from recsys_core.loading.epoch_order import EpochOrder
from recsys_core.loading.prefetch import prefetch
from recsys_core.loading.rank_batches import RankBatches
from recsys_core.progress import Event, Sink
from recsys_core.ranking.requests import PredictConfig as Config
from recsys_core.ranking.requests import PredictRequest as Request
from recsys_core.redaction import redact
from recsys_core.writers.parquet import Writer

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
        work = Pending(request.output)
        if world.is_first:
            # A killed attempt may have had more ranks, and so more parts.
            shutil.rmtree(work.path, ignore_errors=True)
            work.path.mkdir(parents=True)
        world.barrier()
        engine = Engine.load(request.model.engine)
        reader = _opened(request, engine, world)
        kept = list(request.config.reserved_columns or reader.schema.names)
        columns = list(dict.fromkeys([*kept, *engine.columns("query"), *engine.columns("item")]))
        added = [name for names in request.model.columns for name in names]
        _check(request.source, reader.schema, kept, columns, added)
        ranker = torch.jit.load(str(request.model.path / MODEL))
        order = EpochOrder(reader.block_rows, seed=0, epoch=0, shuffle_rows=0)
        size = request.config.batch_size
        shard = RankBatches(reader, order, columns, batch_size=size, rank=world.rank, num_ranks=world.num_ranks)
        fields = [*(reader.schema.field(name) for name in kept), *(pa.field(name, pa.float32()) for name in added)]
        done = 0
        with Writer(work.path / "rows", world.rank, pa.schema(fields)) as writer:
            for table, global_rows in prefetch(_scored(reader, shard, engine, ranker, kept, added)):
                writer.write(table)
                done += global_rows
                if world.is_first:
                    sink(Event(stage=request.stage, done=done, total=reader.num_rows))
        num_rows = sum(world.gather(writer.num_rows))
        if num_rows != reader.num_rows:
            raise RuntimeError(f"{request.source}: {num_rows} rows scored of {reader.num_rows}")
        outside = out_of_range_metrics(world.gather(engine.out_of_range()))
        if world.is_first and outside:
            sink(Event(stage=request.stage, done=num_rows, total=num_rows, metrics=outside))
        if (out := request.config.output) is not None:
            part = work.path / "rows" / f"part-{world.rank:05d}.parquet"
            output.write(out, output.groups(part), world)
        if world.is_first:
            source, digest = redact(request.source), request.model.digest
            work.commit(Predictions, request, num_rows=num_rows, source=source, model_digest=digest)
        world.barrier()
        return Predictions.load(request.output)


def _options(given: readers.CsvOptions, engine: Engine) -> readers.CsvOptions:
    """Return how CSV is read: what was text in training is text, whatever the table at hand has in it."""
    known = {name: field["type"] for side in ("query", "item") for name, field in engine.schema(side).items()}
    texts = {name: kind for name, kind in known.items() if kind == "string"}
    return given.model_copy(update={"types": texts | given.types})


def _opened(request: Request, engine: Engine, world: World) -> readers.Reader:
    """Open a split as it was checked; another table on the first rank, and on the others as it was found there."""
    if request.data is not None:
        return ranking.opened(request.data, request.split)
    config = readers.infer(request.source, _options(request.config.csv, engine)) if world.is_first else None
    config = world.share(lambda: config)
    assert config is not None
    mine = readers.build(config) if world.is_first else None
    state = world.share(lambda: mine.state() if mine is not None else {})
    return mine if mine is not None else readers.build(config, state)


def _check(source: str, schema: pa.Schema, kept: list[str], columns: list[str], added: list[str]) -> None:
    if missing := [column for column in columns if column not in schema.names]:
        raise ValueError(
            f"{source}: no column {', '.join(missing)}, which the model's features or predict.reserved_columns need "
            f"(it has {', '.join(schema.names)})"
        )
    if taken := [name for name in added if name in kept]:
        raise ValueError(
            f"{source}: already has a column {taken[0]!r}; name the others in predict.reserved_columns, or rename it"
        )


def _scored(
    reader: readers.Reader,
    shard: RankBatches,
    engine: Engine,
    ranker: torch.jit.ScriptModule,
    kept: list[str],
    added: list[str],
) -> Iterator[tuple[pa.Table, int]]:
    for rows in shard:
        try:
            with counting_from(rows.number):
                inputs = ranker_inputs(engine.transform(rows.batch, "query"), engine.transform(rows.batch, "item"))
        except RowError as error:
            place = reader.locate(error.row)
            raise ValueError(f"{place.path}: row {place.first_row}: {error.reason}") from None
        with torch.no_grad():
            logits = ranker(inputs)
        # Side by side: each task's logits, then its probabilities.
        values = torch.stack([logits, logits.sigmoid()], dim=-1).flatten(1).T.contiguous().numpy()
        table = rows.table.select(kept)
        for name, column in zip(added, values, strict=True):
            table = table.append_column(name, pa.array(column, pa.float32()))
        yield table, rows.global_rows
