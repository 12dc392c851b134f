"""Readers, one per file: a table in blocks that any rank can read alone."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from recsys_core import lookup, uri
from recsys_core.artifacts import ComponentConfig
from recsys_core.columns import plain_type
from recsys_core.readers import _csv_types, _files, csv
from recsys_core.readers._distinct import Distinct, Keep
from recsys_core.readers._selected import Selected, Selection
from recsys_core.readers.base import Part, Place, Reader
from recsys_core.readers.csv import Options as CsvOptions

__all__ = [
    "CsvOptions",
    "Distinct",
    "Keep",
    "Part",
    "Place",
    "Reader",
    "Selected",
    "Selection",
    "alike",
    "build",
    "fingerprint",
    "infer",
    "opened",
    "parts",
    "read_all",
]


def build(config: ComponentConfig, state: dict[str, Any] | None = None) -> Reader:
    """Open the table that `config`, of any reader's kind, names; `state` is that of another process's reader."""
    return lookup.component(__name__, config.kind).Reader(config, state)


def fingerprint(path: uri.Source) -> dict[str, str]:
    """Return the `fingerprint` of the table at `path`; of files no rows are read.

    Raises:
        ValueError: `path` names nothing, or a table that cannot be reached.
    """
    return build(infer(path)).fingerprint if _is_odps(path) else _files.Files(path).fingerprint


def infer(path: uri.Source, options: CsvOptions | None = None) -> ComponentConfig:
    """Return the config of the reader that fits `path`: by its scheme, else by what its files are called.

    CSV files are read by `options`, whose types may name columns that these files lack.

    Raises:
        ValueError: `path` names nothing, files of different formats, or a format that nothing reads; named.
    """
    kind = "odps" if _is_odps(path) else uri.format_of(path)
    if kind == "csv":
        return csv.Config(path=path, options=options or CsvOptions(), is_shared=True)
    return lookup.component(__name__, kind).Config(path=path)


def opened(folder: Path | tuple[Path, ...], options: CsvOptions | None = None) -> Reader:
    """Open the files of a local folder, or of several in this order, of whichever format they are; see `infer`.

    Raises:
        ValueError: there are none, or they are of different formats.
    """
    return build(infer(folder, options))


def alike(
    paths: Mapping[str, uri.Source], options: CsvOptions, section: str, key: Callable[[str], str | None] = str
) -> tuple[dict[str, Reader], CsvOptions]:
    """Open tables, those of CSV so that what is one column has one type in all of them.

    Args:
        paths: of the tables, by name.
        options: by which those that are CSV are read.
        section: that of the options, for messages.
        key: what a column is called in all tables, by its name in a file; None: it need not agree with others.

    Returns:
        The tables by name, and options that say the type of every column.

    Raises:
        ValueError: a table cannot be opened, or the options are of no use: no table is CSV, or none has a column.
    """
    found = {name: build(infer(path, options)) for name, path in paths.items()}
    of_csv = {name: reader for name, reader in found.items() if isinstance(reader, csv.Reader)}
    if options != CsvOptions() and not of_csv:
        raise ValueError(
            f"{section}: none of {', '.join(map(str, paths.values()))} is CSV, so nothing reads this; leave it out"
        )
    known = {name for reader in of_csv.values() for name in reader.schema.names}
    if unknown := [name for name in options.types if name not in known]:
        raise ValueError(f"{section}.types: there is no column {unknown[0]!r}{uri.nearest(unknown[0], sorted(known))}")
    for name, types in _agreed(found, options, key).items():
        found[name] = build(infer(paths[name], options.model_copy(update={"types": options.types | types})))
    types = {
        field.name: str(field.type)
        for reader in found.values()
        if isinstance(reader, csv.Reader)
        for field in reader.schema
        if field.name in reader.kinds
    }
    return found, options.model_copy(update={"types": types})


def _agreed(
    found: Mapping[str, Reader], options: CsvOptions, key: Callable[[str], str | None]
) -> dict[str, dict[str, str]]:
    """Return, for each table of CSV that has to be opened again, the types that its columns have in all tables."""
    joined: _csv_types.Kinds = {}
    for reader in found.values():
        own = reader.kinds if isinstance(reader, csv.Reader) else {f.name: plain_type(f.type) for f in reader.schema}
        for name, kind in own.items():
            if (common := key(name)) is not None:
                joined[common] = _csv_types.joined_pair(joined.get(common, kind), kind)
    agreed: dict[str, dict[str, str]] = {}
    for name, reader in found.items():
        for column in reader.kinds if isinstance(reader, csv.Reader) else ():
            common = key(column)
            if column not in options.types and common is not None:
                kind = _csv_types.settled({column: joined[common]})[column]
                if kind != reader.schema.field(column).type:
                    agreed.setdefault(name, {})[column] = str(kind)
    return agreed


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
    if _is_odps(path):
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


def _is_odps(path: uri.Source) -> bool:
    return isinstance(path, str) and path.startswith("odps://")
