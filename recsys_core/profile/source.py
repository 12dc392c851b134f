"""A table as a list of its files: one reader for each, so that a file can be named and its partition's rows counted."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from recsys_core import readers, uri
from recsys_core.columns import refuse_twice, united
from recsys_core.readers import _files, base

# A block is read some columns at a time, so that a huge row group does not have to fit into memory at once.
_VALUES_AT_ONCE = 1 << 23


class File(NamedTuple):
    """One file of a table; `num_bytes` is None where its store does not say."""

    path: str
    reader: base.Reader
    num_bytes: int | None
    partitions: dict[str, str | None]


class Table:
    """The files of a path, which have one schema."""

    def __init__(self, path: str, options: readers.CsvOptions) -> None:
        """Open every file of `path`, whatever the path grammar of `uri` takes; those of CSV are read by `options`.

        Raises:
            ValueError: the path names nothing, a file cannot be read, or two files differ in their columns.
        """
        self.path = path
        tables = path.startswith("odps://")
        self.files = [_asked(path)] if tables else _opened(uri.resolve(path), options)
        with_rows = [file for file in self.files if file.reader.num_rows] or self.files[:1]
        first = with_rows[0]
        for file in with_rows:
            refuse_twice(file.path, file.reader.schema.names)
            _refuse_other_columns(first, file)
        schemas = [(file.path, file.reader.schema.remove_metadata(), file.reader.num_rows) for file in with_rows]
        self.schema = _files.same_schema(schemas)

    @property
    def num_rows(self) -> int:
        """Rows of all files."""
        return sum(file.reader.num_rows for file in self.files)

    @property
    def num_bytes(self) -> int | None:
        """Bytes of all files as they are stored, if that is known."""
        sizes = [file.num_bytes for file in self.files]
        return sum(size for size in sizes if size is not None) if None not in sizes else None

    def partitions(self) -> dict[str, dict[str, int]]:
        """Return the rows by value of each Hive partition key; a null has the name that Hive gives it."""
        found: dict[str, dict[str, int]] = {}
        for file in self.files:
            for key, value in file.partitions.items():
                rows = found.setdefault(key, {})
                name = uri.NULL_PARTITION if value is None else value
                rows[name] = rows.get(name, 0) + file.reader.num_rows
        return found

    def read(self, columns: Sequence[str], sample_rows: int | None, seed: int) -> Iterator[pa.Table]:
        """Yield the rows, some columns at a time; of a sample, rows drawn from blocks that are spread evenly."""
        blocks = [(file.reader, block) for file in self.files for block in range(len(file.reader.block_rows))]
        if sample_rows is None or sample_rows >= self.num_rows:
            for reader, block in blocks:
                yield from self._block(reader, block, columns, None)
            return
        rng = np.random.default_rng(seed)
        # Four times as many blocks as would hold the sample: a day's end should not stand for the day.
        wanted = min(len(blocks), 4 * -(-sample_rows * len(blocks) // self.num_rows))
        chosen = [blocks[row] for row in np.linspace(0, len(blocks) - 1, wanted).round().astype(int)]
        there = np.array([int(reader.block_rows[block]) for reader, block in chosen])
        upto = np.round(np.cumsum(there) / there.sum() * min(sample_rows, there.sum())).astype(int)
        for (reader, block), rows, taken in zip(chosen, there, np.diff(upto, prepend=0), strict=True):
            yield from self._block(reader, block, columns, np.sort(rng.choice(rows, taken, replace=False)))

    def _block(
        self, reader: base.Reader, block: int, columns: Sequence[str], rows: np.ndarray | None
    ) -> Iterator[pa.Table]:
        together = max(1, _VALUES_AT_ONCE // max(1, int(reader.block_rows[block])))
        for start in range(0, len(columns), together):
            table = _files.conformed(reader.read(block, columns[start : start + together]), self.schema)
            yield table if rows is None else table.take(pa.array(rows))


def _opened(locations: Sequence[uri.Location], options: readers.CsvOptions) -> list[File]:
    addresses = [uri.address(location) for location in locations]
    opened, _ = readers.alike({address: (address,) for address in addresses}, options, "csv")
    return [
        File(
            path=location.path if location.is_local else address,
            reader=opened[address],
            num_bytes=location.filesystem.size(location.path),
            partitions=location.partitions,
        )
        for location, address in zip(locations, addresses, strict=True)
    ]


def _asked(path: str) -> File:
    """Open what is no file: its store counts the rows, and may not know the bytes."""
    return File(path=path, reader=readers.build(readers.infer(path)), num_bytes=None, partitions={})


def _refuse_other_columns(first: File, file: File) -> None:
    types = [{field.name: field.type for field in one.reader.schema} for one in (first, file)]
    differences = [
        f"{name!r} is {types[1].get(name, 'absent')} here and {types[0].get(name, 'absent')} there"
        for name in dict.fromkeys([*types[0], *types[1]])
        if name not in types[0] or name not in types[1] or united(types[0][name], types[1][name]) is None
    ]
    if not differences:
        return
    raise ValueError(
        f"{file.path}: its columns differ from those of {first.path}: {'; '.join(differences)}; "
        "profile tables one at a time, or write the files with the same columns"
    )
