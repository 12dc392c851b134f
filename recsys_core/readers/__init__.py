"""Readers, one per file: a table in blocks that any rank can read alone."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from recsys_core import lookup, uri
from recsys_core.artifacts import Frozen
from recsys_core.readers._selected import Selected, Selection
from recsys_core.readers.base import Part, Reader

__all__ = ["Part", "Reader", "Selected", "Selection", "build", "infer", "opened", "parts", "read_all"]


def build(config: Frozen, state: dict[str, Any] | None = None) -> Reader:
    """Open the table that `config`, of any reader's kind, names; `state` is what another process's reader told."""
    kind: str = config.kind  # pyright: ignore[reportAttributeAccessIssue] - every component's Config has one
    return lookup.component(__name__, kind).Reader(config, state)


def infer(path: uri.Source) -> Frozen:
    """Return the config of the reader that fits `path`: by its scheme, else by what its files are called.

    Raises:
        ValueError: `path` names nothing, files of different formats, or a format that nothing reads; named.
    """
    kind = "odps" if isinstance(path, str) and path.startswith("odps://") else uri.format_of(path)
    return lookup.component(__name__, kind).Config(path=path)


def opened(folder: Path) -> Reader:
    """Open the files of a local folder, of whichever format they are.

    Raises:
        ValueError: there are none, or they are of different formats.
    """
    return build(infer(folder))


def read_all(reader: Reader, columns: Sequence[str] | None = None, num_rows: int | None = None) -> pa.Table:
    """Return every row of `reader`, in order, or the first `num_rows` if it has more."""
    names = list(reader.schema.names if columns is None else columns)
    held: list[pa.Table] = []
    left = reader.num_rows if num_rows is None else min(num_rows, reader.num_rows)
    for block in range(len(reader.block_rows)):
        if left <= 0:
            break
        held.append(reader.read(block, names).slice(0, left))
        left -= held[-1].num_rows
    return pa.concat_tables(held) if held else reader.schema.empty_table().select(names)


def parts(path: str, key: str, wanted: Callable[[str], bool]) -> dict[str, Part] | None:
    """Return the rows of `path` by their value of the partition key `key`, of those values that are `wanted`.

    None: the rows are not kept apart by it. No rows are read, and nothing is asked about values that are not wanted.

    Raises:
        ValueError: `path` names nothing, or a table that cannot be reached.
    """
    if path.startswith("odps://"):
        return lookup.component(__name__, "odps").parts(path, key, wanted)
    found: dict[str, list[uri.Location]] = {}
    for location in uri.resolve(path):
        value = location.partitions.get(key)
        if value is None and key in location.partitions:
            raise ValueError(f"{location.path}: its folder says that {key} is null; name it as a day, or move it out")
        if value is None:
            return None
        if wanted(value):
            found.setdefault(value, []).append(location)
    return {
        value: Part(tuple(map(uri.address, locations)), uri.fingerprint(locations))
        for value, locations in found.items()
    }
