"""Files that tables start from, looked at without reading their rows: see `sharding.pretrained`."""

from typing import Any

import pyarrow as pa

from recsys_core import readers
from recsys_core.artifacts import digest_of
from recsys_core.columns import ids, is_list, plain_type
from recsys_core.features import Engine, TableSpec, unknown
from recsys_core.readers import Reader


def check(engine: Engine) -> None:
    """Check what can be checked of the files without reading their rows.

    Raises:
        ValueError: a file is not there, has no such column or one of another type or width, or the table's rows are
            not those of ids.
    """
    for table in from_files(engine):
        EmbeddingFile(table, engine)


def fingerprints(engine: Engine) -> dict[str, str]:
    """Return, by table that starts from a file, what shows that the file is still the same; no rows are read."""
    return {table.name: EmbeddingFile(table, engine).fingerprint for table in from_files(engine)}


class EmbeddingFile:
    """The file of one table."""

    def __init__(self, table: TableSpec, engine: Engine, opened: tuple[Any, dict[str, Any]] | None = None) -> None:
        """Open it; `opened` is the result of another rank's `state`."""
        self.place = place_of(table)
        self.table, self.encoder = table, engine.encoders[table.name]
        initializer = table.initializer
        assert initializer is not None
        assert initializer.path is not None
        self.path = initializer.path
        self.id, self.embedding = initializer.id_column or "id", initializer.embedding_column or "embedding"
        self.separator = initializer.separator or ","
        if self.encoder.first_id_row is None:
            raise ValueError(
                f"{self.place}: the rows of table {table.name!r} are not those of ids ({self.encoder.spec}); use "
                "another initializer"
            )
        try:
            self._config, state = opened or (readers.infer(self.path), None)
            self.reader: Reader = readers.build(self._config, state)
            self._check_columns()
        except ValueError as error:
            raise ValueError(f"{self.place}: {error}") from None

    @property
    def fingerprint(self) -> str:
        """What shows that the file is still the same."""
        return digest_of(self.reader.fingerprint)

    def state(self) -> tuple[Any, dict[str, Any], str]:
        """Return what another rank opens it with, and the fingerprint."""
        return self._config, self.reader.state(), self.fingerprint

    def _check_columns(self) -> None:
        path, schema = self.path, self.reader.schema
        for key, column in (("id_column", self.id), ("embedding_column", self.embedding)):
            if column not in schema.names:
                raise ValueError(f"{path}: {unknown('column', column, schema.names)}; say which in {key}")
        try:
            ids(pa.array([], schema.field(self.id).type))
        except ValueError as error:
            raise ValueError(f"{path}: id_column {self.id!r}: {error}") from None
        kind, width = plain_type(schema.field(self.embedding).type), self.table.embedding_dim
        numbers = is_list(kind) and (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type))
        if not numbers and not pa.types.is_string(kind):
            raise ValueError(
                f"{path}: embedding_column {self.embedding!r} holds {kind}; it has to hold lists of numbers, or texts "
                "of numbers split by `separator`"
            )
        if pa.types.is_fixed_size_list(kind) and kind.list_size != width:
            raise ValueError(
                f"{path}: embedding_column {self.embedding!r} has {kind.list_size} numbers, and table "
                f"{self.table.name!r} is {width} wide; set embedding_dim: {kind.list_size}, or give another file"
            )


def from_files(engine: Engine) -> list[TableSpec]:
    """Return the tables that start from a file."""
    return [table for table in engine.tables if table.initializer is not None and table.initializer.kind == "file"]


def place_of(table: TableSpec) -> str:
    """Return the key of the config that names a table's file."""
    return f"features.tables[name={table.name}].initializer"
