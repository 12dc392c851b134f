"""Batch prediction: every item and every query of a day through the exported towers, on all ranks.

The scripted towers are used, not the checkpoint: what is measured, indexed and released is one and the same.
"""

import pyarrow as pa

from recsys_core import artifacts, distributed, output, placeholders, readers
from recsys_core.distributed import World
from recsys_core.exported import applied, forward
from recsys_core.exported.forward import Tower
from recsys_core.features import Engine, Side
from recsys_core.loading.rank_batches import RankBatches
from recsys_core.progress import Event, Sink
from recsys_core.retrieval.requests import EmbedConfig as Config
from recsys_core.retrieval.requests import EmbedRequest as Request

__all__ = ["Config", "Request", "run"]

_FOLDERS: dict[Side, str] = {"item": "items", "query": "queries"}


def run(request: Request, sink: Sink) -> artifacts.Embeddings:
    """Embed the item table and the ground truth's queries; rows keep their order over the parts.

    Raises:
        ValueError: a column that the model's features need is not in the data (a champion of other features).
    """
    with distributed.world("cpu") as world:
        work = applied.begin(request.output, world)
        engine = Engine.load(request.model.engine)
        folders = {"item": request.data.items, "query": request.data.ground_truth}
        kept = {"item": ["item_id"], "query": ["user_id", "gt_items", "seen_items"]}
        total = request.data.num_items + request.data.num_queries
        event, counts = Event(stage=request.stage, total=total), dict[str, int]()
        for side, out in _FOLDERS.items():
            reader, tower = readers.opened(folders[side]), Tower(request.model, side, engine)
            shard = _shard(reader, tower, side, kept[side], request.config.batch_size, world)
            vectors = forward.added(iter(shard), reader, tower, kept[side], ["embedding"])
            schema = pa.schema([*(reader.schema.field(name) for name in kept[side]), *tower.fields])
            event = event.model_copy(update={"done": sum(counts.values())})
            applied.write(vectors, work.path / out, schema, reader.num_rows, world, event, sink)
            counts[side] = reader.num_rows
        applied.emit_out_of_range(engine, world, event.model_copy(update={"done": total}), sink)
        # The live model's vectors, which only serve to compare, go nowhere else.
        if request.stage == "embed":
            wanted = {"items": request.config.items_output, "queries": request.config.queries_output}
            for out, path in wanted.items():
                if path is not None:
                    output.copy(work.path / out, placeholders.fill(path, request.data.day), world)
        if world.is_first:
            work.commit(
                artifacts.Embeddings,
                request,
                num_rows=sum(counts.values()),
                embedding_dim=request.model.embedding_dim,
                num_items=counts["item"],
                num_queries=counts["query"],
                model_digest=request.model.digest,
            )
        world.barrier()
        return artifacts.Embeddings.load(request.output)


def _shard(
    reader: readers.Reader, tower: Tower, side: Side, kept: list[str], batch_size: int, world: World
) -> RankBatches:
    missing = [column for column in tower.columns if column not in reader.schema.names]
    if missing:
        raise ValueError(
            f"the model's {side} features need column(s) {', '.join(missing)}, which this day's data does not have "
            f"(it has {', '.join(reader.schema.names)}); name them in features.{side}, or release a model without them"
        )
    columns = list(dict.fromkeys([*kept, *tower.columns]))
    return RankBatches.in_order(reader, columns, batch_size=batch_size, rank=world.rank, num_ranks=world.num_ranks)
