"""ORC folders: `part-00000.orc` and so on, one for each rank."""

from pathlib import Path
from typing import Literal

import pyarrow as pa
from pyarrow import orc
from pydantic import Field

from recsys_core.artifacts import ComponentConfig
from recsys_core.writers import _folder

_HELD = {
    *(pa.bool_(), pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.float32(), pa.float64(), pa.date32()),
    *(pa.string(), pa.large_string(), pa.binary(), pa.large_binary()),
}
_WIDENED = {
    pa.uint8(): pa.int16(),
    pa.uint16(): pa.int32(),
    pa.uint32(): pa.int64(),
    pa.float16(): pa.float32(),
    pa.date64(): pa.date32(),
    pa.string_view(): pa.string(),
}


class Config(ComponentConfig):
    """`path` is a local folder; it is replaced as a whole."""

    kind: Literal["orc"] = "orc"
    path: str
    compression: Literal["zstd", "zlib", "snappy", "none"] = "zstd"
    stripe_bytes: int = Field(default=64 << 20, ge=1)


class Writer(_folder.Part):
    """Writes one part. ORC has no lists of a fixed size: they become lists."""

    def __init__(self, file: Path, number: int, schema: pa.Schema, config: Config) -> None:
        """Open the part."""
        super().__init__(file, number)
        self._schema = pa.schema([(field.name, _stored(field.type)) for field in schema])
        compression = "uncompressed" if config.compression == "none" else config.compression
        self._file = orc.ORCWriter(file, compression=compression, stripe_size=config.stripe_bytes)
        # Without a row, ORC would write no schema.
        self._file.write(self._schema.empty_table())

    def write(self, table: pa.Table) -> None:
        """See `base.Writer.write`."""
        self._file.write(table.cast(self._schema))
        self.num_rows += table.num_rows

    def finish(self) -> None:
        """See `_folder.Part.finish`."""
        self._file.close()


class Table(_folder.Table):
    """See `_folder.Table`."""

    suffix = ".orc"

    def __init__(self, config: Config) -> None:
        """Write to `config.path`."""
        super().__init__(config.path)
        self._config = config

    def require(self, schema: pa.Schema) -> None:
        """See `_folder.Table.require`."""
        for field in schema:
            try:
                _stored(field.type)
            except ValueError as error:
                raise ValueError(f"{self._config.path}: column {field.name!r}: {error}") from None

    def open(self, file: Path, number: int, schema: pa.Schema) -> Writer:
        """See `_folder.Table.open`."""
        return Writer(file, number, schema, self._config)

    def count(self, file: Path) -> int:
        """See `_folder.Table.count`."""
        return orc.ORCFile(file).nrows


def _stored(kind: pa.DataType) -> pa.DataType:
    """Return the type that holds values of `kind` in ORC, which has no unsigned, half, fixed-size or encoded ones.

    Raises:
        ValueError: there is none.
    """
    if kind in _WIDENED:
        return _WIDENED[kind]
    if pa.types.is_dictionary(kind):
        return _stored(kind.value_type)
    if pa.types.is_map(kind):
        return pa.map_(_stored(kind.key_type), _stored(kind.item_type))
    if pa.types.is_struct(kind):
        return pa.struct([(field.name, _stored(field.type)) for field in kind])
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return pa.list_(_stored(kind.value_type))
    if not (kind in _HELD or pa.types.is_timestamp(kind) or pa.types.is_decimal128(kind)):
        raise ValueError(f"ORC has no type for Arrow's {kind}; cast the column to one that it has, or write Parquet")
    return kind
