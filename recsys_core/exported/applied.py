"""A table through an exported module, on all ranks: each scores a share of the rows, and the parts in order are all."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from recsys_core import readers
from recsys_core.artifacts import Pending
from recsys_core.distributed import World
from recsys_core.features import Engine, Side, out_of_range_metrics
from recsys_core.loading.prefetch import prefetch
from recsys_core.loading.rank_batches import Rows
from recsys_core.progress import Event, Sink
from recsys_core.writers.parquet import Writer

_SIDES: tuple[Side, Side] = ("query", "item")


def begin(output: Path, world: World) -> Pending:
    """Return an artifact's directory, empty, that all ranks write to; the first one is to commit it."""
    work = Pending(output)
    if world.is_first:
        # A killed attempt may have had more ranks, and so more parts.
        shutil.rmtree(work.path, ignore_errors=True)
        work.path.mkdir(parents=True)
    world.barrier()
    return work


def write(
    tables: Iterator[tuple[pa.Table, Rows]],
    folder: Path,
    schema: pa.Schema,
    num_rows: int,
    world: World,
    event: Event,
    sink: Sink,
) -> None:
    """Write this rank's part of a table of `num_rows` rows; return when all ranks have written theirs.

    With each of `tables` comes the step that it is of. `event` is what is emitted of them, its
    `done` being what was done before.
    """
    done = event.done
    with Writer(folder, world.rank, schema) as writer:
        for table, rows in prefetch(tables):
            writer.write(table)
            done += rows.global_rows
            if world.is_first:
                sink(event.model_copy(update={"done": done}))
    written = sum(world.gather(writer.num_rows))
    if written != num_rows:
        raise RuntimeError(f"{folder}: {written} rows written of {num_rows}")


def opened(source: str, options: readers.CsvOptions, engine: Engine, world: World) -> readers.Reader:
    """Open a table on the first rank, and on the others as it was found there.

    What was text in training is text in CSV too, whatever the table at hand has in it.
    """
    known = {name: field["type"] for side in _SIDES for name, field in engine.schema(side).items()}
    texts = {name: kind for name, kind in known.items() if kind == "string"}
    options = options.model_copy(update={"types": texts | options.types})
    config = world.share(lambda: readers.infer(source, options))
    reader = readers.build(config) if world.is_first else None
    state = world.share(lambda: reader.state() if reader is not None else {})
    return reader if reader is not None else readers.build(config, state)


def emit_out_of_range(engine: Engine, world: World, event: Event, sink: Sink) -> None:
    """Emit how many ids the features of all ranks have left out, if there are any, as the metrics of `event`."""
    outside = out_of_range_metrics(world.gather(engine.out_of_range()))
    if world.is_first and outside:
        sink(event.model_copy(update={"metrics": outside}))
