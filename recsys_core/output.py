"""What a stage leaves outside the run: a table that all ranks write together, whole or not at all."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from recsys_core import lookup, writers
from recsys_core.distributed import World
from recsys_core.writers import Receipt


class Rows(NamedTuple):
    """One rank's rows, and the schema that all ranks' rows have."""

    schema: pa.Schema
    tables: Iterator[pa.Table]


def groups(file: Path) -> Rows:
    """Return the rows of a Parquet file, a row group at a time."""
    opened = pq.ParquetFile(file)
    return Rows(opened.schema_arrow, (opened.read_row_group(number) for number in range(opened.num_row_groups)))


def copy(folder: Path, path: str, world: World) -> int:
    """Replace the table at `path` by what every rank has written to its part in `folder`; see `write`."""
    return write(path, groups(folder / f"part-{world.rank:05d}.parquet"), world)


def write(path: str, rows: Rows, world: World) -> int:
    """Replace the table at `path`, a folder or `odps://`, by every rank's `rows`; return how many there are of all.

    Raises:
        ValueError: on every rank, if any of them could not write or the whole could not be committed; what readers see
            is then as it was.
    """
    kind = "odps" if path.startswith("odps://") else "parquet"
    table = writers.build(lookup.component("recsys_core.writers", kind).Config(path=path))
    state = world.share(lambda: table.begin(rows.schema))
    result: tuple[Receipt | None, str | None]
    try:
        with table.part(state, world.rank) as part:
            for some in rows.tables:
                part.write(some)
        result = part.close(), None
    except (ValueError, OSError) as error:
        # Not raised yet: the other ranks wait for this one.
        result = None, str(error)
    every = world.gather(result)
    failed = {rank: error for rank, (_, error) in enumerate(every) if error is not None}
    if failed:
        if world.is_first:
            table.abandon(state)
        raise ValueError("; ".join(f"rank {rank}: {error}" for rank, error in failed.items()))
    return world.share(lambda: table.commit(state, [receipt for receipt, _ in every if receipt is not None]))
