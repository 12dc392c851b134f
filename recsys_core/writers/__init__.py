"""Writers, one per file: a table in parts, one for each rank, which appear together."""

import contextlib
from collections.abc import Iterator

import pyarrow as pa

from recsys_core import lookup
from recsys_core.artifacts import ComponentConfig
from recsys_core.writers._destination import Destination, Format, part_files
from recsys_core.writers.base import Receipt, Table, Writer

__all__ = ["Destination", "Format", "Receipt", "Table", "Writer", "build", "infer", "part_files", "written"]

_BY_ENDING: dict[str, tuple[str, dict[str, str]]] = {
    ".csv": ("csv", {}),
    ".tsv": ("csv", {"delimiter": "\t"}),
    ".orc": ("orc", {}),
}


def build(config: ComponentConfig) -> Table:
    """Return the table that `config`, of any writer's kind, says to write."""
    return lookup.component(__name__, config.kind).Table(config)


def infer(path: str) -> ComponentConfig:
    """Return the config of the writer that fits `path`: a MaxCompute table, or a folder by how its name ends.

    What ends in none of `.csv`, `.tsv` and `.orc` is written as Parquet.
    """
    kind, keys = next((found for ending, found in _BY_ENDING.items() if path.endswith(ending)), ("parquet", {}))
    if path.startswith("odps://"):
        kind, keys = "odps", {}
    return lookup.component(__name__, kind).Config(path=path, **keys)


@contextlib.contextmanager
def written(path: str, schema: pa.Schema) -> Iterator[Writer]:
    """Open the table at `path` to be written by this process alone; it appears, whole, when the context ends well.

    Raises:
        ValueError: see `Table.begin` and `Table.commit`.
    """
    table = build(infer(path))
    state = table.begin(schema)
    try:
        with table.part(state, 0) as part:
            yield part
        table.commit(state, [part.close()])
    except BaseException:
        table.abandon(state)
        raise
