"""The stages behind `dayline embed` and `dayline predict`: any table through an exported module, to any table.

Parts that are whole are kept when the process is killed, and the next try goes on with the others. What was at the
output is replaced at the end, whole.
"""

from collections.abc import Iterator

import pyarrow as pa

from recsys_core import distributed, output, readers
from recsys_core.artifacts import ExportedRanker, Pending, TableRows, digest_of
from recsys_core.distributed import World
from recsys_core.exported import applied, forward
from recsys_core.exported.forward import Forward, Scorer, Tower
from recsys_core.exported.parts import Part, Parts
from recsys_core.exported.requests import TableRequest as Request
from recsys_core.loading.epoch_order import EpochOrder
from recsys_core.loading.prefetch import prefetch
from recsys_core.loading.rank_batches import RankBatches, Rows
from recsys_core.progress import Event, Sink
from recsys_core.redaction import redact
from recsys_core.writers import Destination, part_files

__all__ = ["Request", "run"]

_KEPT = "--reserved-columns"


def run(request: Request, sink: Sink) -> TableRows:
    """Write every row's reserved columns with what the module makes of it; all rows, or the output stays as it was.

    Raises:
        ValueError: the table lacks a column that is needed, or has one of a name that is added; a row holds what its
            feature cannot take; or the output is not ours, or cannot be written.
    """
    with distributed.world("cpu") as world:
        made = _forward(request)
        reader = _distinct(request, applied.opened(request.source, request.csv, made.engine, world))
        kept = reader.schema.names if request.reserved_columns is None else list(request.reserved_columns)
        names = _names(request, made)
        forward.check(redact(request.source), reader.schema, made.columns, kept, [*filter(None, names)], _KEPT)
        added = [one.with_name(name) for one, name in zip(made.fields, names, strict=True) if name is not None]
        schema = pa.schema([*(reader.schema.field(name) for name in kept), *added])
        parts = Parts(
            request.output.with_name("rows"),
            digest_of([request.key, reader.fingerprint]),
            reader.num_rows,
            batch_size=request.batch_size,
            suffix=part_files(request.format, request.output).suffix,
        )
        event = Event(stage=request.stage, done=world.share(parts.begin), total=reader.num_rows)
        left = parts.left(world.rank, world.num_ranks)
        # Another rank may be done with one of them before this one has looked.
        world.barrier()
        tables = forward.added(_batches(reader, made, kept, left, request.batch_size), reader, made, kept, names)
        _write(prefetch(tables), left, parts, request, schema, event, sink if world.is_first else None)
        world.barrier()
        applied.emit_out_of_range(made.engine, world, event.model_copy(update={"done": reader.num_rows}), sink)
        return _published(request, parts, schema, world)


def _forward(request: Request) -> Forward:
    if isinstance(request.model, ExportedRanker):
        return Scorer(request.model)
    assert request.side is not None, "of two towers one is asked for"
    return Tower(request.model, request.side)


def _distinct(request: Request, reader: readers.Reader) -> readers.Reader:
    return reader if request.distinct_by is None else readers.Distinct(reader, request.distinct_by, request.keep)


def _names(request: Request, made: Forward) -> list[str | None]:
    """Return what each of the model's columns is called, None for one that is not asked for."""
    known = [field.name for field in made.fields]
    asked = {name: name for name in known} if request.output_columns is None else request.output_columns
    if unknown := [name for name in asked if name not in known]:
        raise ValueError(f"--output-columns: the model has no output {unknown[0]!r}, only {', '.join(known)}")
    return [asked.get(name) for name in known]


def _batches(
    reader: readers.Reader, made: Forward, kept: list[str], left: list[Part], batch_size: int
) -> Iterator[Rows]:
    """Yield the batches of the parts that are left in one stream, so that encoding ahead never waits for a file."""
    columns = list(dict.fromkeys([*kept, *made.columns]))
    order = EpochOrder(reader.block_rows, seed=0, epoch=0, shuffle_rows=0)
    for part in left:
        start, stop = part.rows
        others = [(0, start), (stop, reader.num_rows)]
        yield from RankBatches(reader, order, columns, batch_size=batch_size, rank=0, num_ranks=1, consumed=others)


def _write(
    tables: Iterator[tuple[pa.Table, Rows]],
    left: list[Part],
    parts: Parts,
    request: Request,
    schema: pa.Schema,
    event: Event,
    sink: Sink | None,
) -> None:
    """Write this rank's parts; how far all ranks are is seen from the files that are whole."""
    files = part_files(request.format, parts.folder)
    files.require(schema)
    for part in left:
        start, stop = part.rows
        with files.open(parts.aside(part), part.number, schema) as writer:
            before = parts.num_done() if sink else 0
            while writer.num_rows < stop - start:
                table, _ = next(tables)
                writer.write(table)
                if sink:
                    sink(event.model_copy(update={"done": before + writer.num_rows}))
        parts.finish(part)


def _published(request: Request, parts: Parts, schema: pa.Schema, world: World) -> TableRows:
    """Put the parts in the output's place, and leave a record of what was written."""
    files, destination = part_files(request.format, parts.folder), Destination(request.table)
    counts = world.share(lambda: parts.counted(files.count))
    if destination.is_odps:
        groups = (group for file in parts.files(world.rank, world.num_ranks) for group in output.groups(file).tables)
        output.write(request.table, output.Rows(schema, groups), world)
    if world.is_first:
        said = {
            "source": redact(request.source),
            "model_digest": request.model.digest,
            "columns": {field.name: str(field.type) for field in schema},
        }
        num_rows = sum(counts.values())
        if not destination.is_odps:
            manifest = {"stage": request.stage, "num_rows": num_rows, **said, "parts": counts}
            destination.publish(parts.folder, [*counts], manifest)
        work = Pending(request.output)
        work.path.mkdir(parents=True, exist_ok=True)
        work.commit(TableRows, request, num_rows=num_rows, table=redact(request.table), **said)
    world.barrier()
    return TableRows.load(request.output)
