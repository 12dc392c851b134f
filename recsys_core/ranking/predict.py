"""Batch scoring of ranking: every row of a table through the exported module, on all ranks, in the table's order."""

from collections.abc import Iterator

import pyarrow as pa
import torch

from recsys_core import distributed, output, ranking, readers
from recsys_core.artifacts import Predictions
from recsys_core.distributed import World
from recsys_core.exported import applied
from recsys_core.exported.inputs import MODEL, ranker_inputs
from recsys_core.features import Engine, RowError, counting_from
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
        engine = Engine.load(request.model.engine)
        reader = _opened(request, engine, world)
        kept = list(request.config.reserved_columns or reader.schema.names)
        columns = list(dict.fromkeys([*kept, *engine.columns("query"), *engine.columns("item")]))
        added = [name for names in request.model.columns for name in names]
        _check(request.source, reader.schema, kept, columns, added)
        ranker = torch.jit.load(str(request.model.path / MODEL))
        size = request.config.batch_size
        shard = RankBatches.in_order(reader, columns, batch_size=size, rank=world.rank, num_ranks=world.num_ranks)
        fields = [*(reader.schema.field(name) for name in kept), *(pa.field(name, pa.float32()) for name in added)]
        rows, num_rows = work.path / "rows", reader.num_rows
        event, scores = Event(stage=request.stage, total=num_rows), _scored(reader, shard, engine, ranker, kept, added)
        applied.write(scores, rows, pa.schema(fields), num_rows, world, event, sink)
        applied.emit_out_of_range(engine, world, event.model_copy(update={"done": num_rows}), sink)
        if request.config.output is not None:
            output.copy(rows, request.config.output, world)
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
