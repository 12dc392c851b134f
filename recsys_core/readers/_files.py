"""What readers of files share: which files there are, their partition columns, and that they fit together."""

import base64
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import pyarrow as pa

from recsys_core import uri
from recsys_core.columns import by_chunk, plain, refuse_twice, united

F = TypeVar("F")
_MOST_OPEN = 16  # by a thread; of remote files one, for each holds a buffer of megabytes


class Opened(Generic[F]):
    """Files as each thread has opened them: a shuffled table is read from many at once, and opening costs time."""

    def __init__(self, open_file: Callable[[uri.Location], F]) -> None:
        """`open_file` opens one."""
        self._open = open_file
        self._held = threading.local()

    def get(self, location: uri.Location) -> F:
        """Return the file as this thread has it open, or open it."""
        held: OrderedDict[str, F] = self._held.__dict__.setdefault("files", OrderedDict())
        if (file := held.get(location.path)) is None:
            file = held[location.path] = self._open(location)
            while len(held) > (_MOST_OPEN if location.is_local else 1):
                held.popitem(last=False)
        held.move_to_end(location.path)
        return file


class Files:
    """The files of one source, in order.

    Attributes:
        locations: the files; partition values are in their folders' names.
        fingerprint: by file, below the folder that holds all, its size and the time or version of its last change.
    """

    def __init__(self, path: uri.Source, state: list[tuple[str, dict[str, str | None]]] | None = None) -> None:
        """Find the files that `path` names, or take those that `state` names.

        Raises:
            ValueError: see `uri.resolve`; or files whose folders name different partition keys.
        """
        self.locations = uri.resolve(path) if state is None else uri.from_state(state)
        keys = [tuple(location.partitions) for location in self.locations]
        other = next((i for i, key in enumerate(keys) if key != keys[0]), None)
        if other is not None:
            raise ValueError(
                f"{self.locations[other].path}: its folders name the partition keys {list(keys[other])}, those of "
                f"{self.locations[0].path} name {list(keys[0])}; name files of one table"
            )
        # A table that was moved whole, its times kept, is the same table.
        versions = [uri.version(location) for location in self.locations]
        self.fingerprint = dict(zip(uri.below_common(self.locations), versions, strict=True))

    def state(self) -> list[tuple[str, dict[str, str | None]]]:
        """Return the files' addresses and partitions, for `Files` in another process."""
        return uri.to_state(self.locations)

    def with_partitions(self, schema: pa.Schema) -> pa.Schema:
        """Return `schema` with a text column for each partition key that the files do not hold themselves."""
        for key in self.locations[0].partitions:
            if key not in schema.names:
                schema = schema.append(pa.field(key, pa.string()))
        return schema

    def completed(self, table: pa.Table, file: int, columns: Sequence[str]) -> pa.Table:
        """Return `table`, read from file number `file`, with exactly `columns`, partition values included."""
        if table.column_names == list(columns):
            return table
        values = self.locations[file].partitions
        for key in columns:
            if key not in table.column_names:
                table = table.append_column(key, pa.repeat(pa.scalar(values[key], pa.string()), table.num_rows))
        return table.select(list(columns))


def same_schema(files: Sequence[tuple[str, pa.Schema, int]]) -> pa.Schema:
    """Return the schema that all files share, each given with its path and rows; the order of columns is the first's.

    Types that mean the same become one, see `columns.united`.

    A file without rows needs to agree with none: what wrote it may not have known the types.

    Raises:
        ValueError: two columns of a file have one name, or two files differ; files and columns are named.
    """
    for path, schema, _ in files:
        refuse_twice(path, schema.names)
    with_rows = [(path, schema) for path, schema, num_rows in files if num_rows]
    schemas = with_rows or [(path, schema) for path, schema, _ in files[:1]]
    first_path, first = schemas[0]
    kinds = {field.name: field.type for field in first}
    for path, schema in schemas[1:]:
        if schema == first:
            continue
        differing: list[str] = []
        for name in dict.fromkeys([*kinds, *schema.names]):
            own, there = kinds.get(name), schema.field(name).type if name in schema.names else None
            both = own if own == there else own and there and united(own, there)
            if both is None:
                differing.append(f"{name} is {there or 'absent'} there and {own or 'absent'} here")
            else:
                kinds[name] = both
        if differing:
            raise ValueError(
                f"{path}: its schema differs from that of {first_path}: {'; '.join(differing)}; write the files alike"
            )
    return first if all(first.field(name).type == kind for name, kind in kinds.items()) else pa.schema(kinds.items())


def conformed(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return `table`, read from one file, with the types that its columns have in `schema`, that of all files."""
    for number, field in enumerate(table.schema):
        kind = schema.field(field.name).type
        if field.type != kind:
            table = table.set_column(number, field.name, by_chunk(plain, table.column(number)).cast(kind))
    return table


def schema_to_text(schema: pa.Schema) -> str:
    """Return `schema` in a form that JSON can hold."""
    return base64.b64encode(schema.serialize().to_pybytes()).decode()


def schema_from(text: str) -> pa.Schema:
    """Read `schema_to_text` back."""
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text)))
