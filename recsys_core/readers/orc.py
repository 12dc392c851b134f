"""ORC files and folders; a block is a stripe."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from pyarrow import orc

from recsys_core import folders, uri
from recsys_core.artifacts import ComponentConfig
from recsys_core.readers import _files, base

_OPENING_THREADS = 4


class Config(ComponentConfig):
    """`path` is anything that `uri.Source` may be."""

    kind: Literal["orc"] = "orc"
    path: uri.Source


class _Footer(NamedTuple):
    schema: pa.Schema
    stripe_rows: list[int]


class Reader(base.Reader):
    """Reads stripes. Arrow does not expose how many rows a stripe has, so opening a table reads its cheapest column."""

    def __init__(self, config: Config, state: dict[str, Any] | None = None) -> None:
        """Open `config.path`'s files.

        Raises:
            ValueError: no such file, a file that is not ORC, or files of different schemas (both are named).
        """
        self._files = _files.Files(config.path, state["files"] if state else None)
        self._opened = _files.Opened(_open)
        if state is None:
            with ThreadPoolExecutor(_OPENING_THREADS) as pool:
                footers = list(pool.map(_footer, self._files.locations))
            paths = [location.path for location in self._files.locations]
            self._own = _files.same_schema(
                [(path, f.schema, sum(f.stripe_rows)) for path, f in zip(paths, footers, strict=True)]
            )
            self._stripe_rows = [footer.stripe_rows for footer in footers]
        else:
            self._own = _files.schema_from(state["schema"])
            self._stripe_rows = state["stripe_rows"]
        self.schema = self._files.with_partitions(self._own)
        self.fingerprint = self._files.fingerprint
        self._blocks = [
            (i, stripe) for i, rows in enumerate(self._stripe_rows) for stripe in np.flatnonzero(rows).tolist()
        ]
        self.block_rows = np.array([self._stripe_rows[file][stripe] for file, stripe in self._blocks], dtype=np.int64)

    def read(self, block: int, columns: Sequence[str]) -> pa.Table:
        """See `base.Reader.read`."""
        file, stripe = self._blocks[block]
        location, first = self._files.locations[file], sum(self._stripe_rows[file][:stripe])
        own = [name for name in columns if name in self._own.names]
        try:
            # Without columns, Arrow does not count the rows.
            rows = self._opened.get(location).read_stripe(stripe, columns=own or [_cheapest(self._own)])
        except (pa.ArrowException, OSError) as error:
            raise ValueError(
                f"{location.path}: stripe {stripe} (rows {first} to {first + self._stripe_rows[file][stripe]}) cannot "
                f"be read ({folders.reason(error)}); write the file again"
            ) from None
        table = _files.conformed(pa.Table.from_batches([rows]), self._own)
        return self._files.completed(table, file, columns)

    def place(self, block: int) -> base.Place:
        """See `base.Reader.place`."""
        file, stripe = self._blocks[block]
        return base.Place(self._files.locations[file].path, sum(self._stripe_rows[file][:stripe]))

    def state(self) -> dict[str, Any]:
        """See `base.Reader.state`."""
        return {
            "files": self._files.state(),
            "schema": _files.schema_to_text(self._own),
            "stripe_rows": self._stripe_rows,
        }


def _open(location: uri.Location) -> orc.ORCFile:
    return orc.ORCFile(pa.memory_map(location.path) if location.is_local else location.filesystem.open(location.path))


def _footer(location: uri.Location) -> _Footer:
    try:
        file = _open(location)
        cheapest = _cheapest(file.schema)
        rows = [file.read_stripe(stripe, columns=[cheapest]).num_rows for stripe in range(file.nstripes)]
    except (pa.ArrowException, OSError) as error:
        raise ValueError(
            f"{location.path}: not a readable ORC file ({folders.reason(error)}); write it again or remove it"
        ) from None
    return _Footer(file.schema.remove_metadata(), rows)


def _cheapest(schema: pa.Schema) -> str:
    """Return the column that is likely to be read soonest: of the narrowest numbers, else of whatever there is."""
    return min(schema, key=lambda field: _width(field.type)).name


def _width(kind: pa.DataType) -> int:
    try:
        return kind.bit_width
    except ValueError:
        return 1_000_000 if pa.types.is_nested(kind) else 1_000
