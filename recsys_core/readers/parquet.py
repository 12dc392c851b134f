"""Parquet files and folders; a block is a row group."""

import operator
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from recsys_core import folders, uri
from recsys_core.artifacts import ComponentConfig
from recsys_core.readers import _files, base

_FOOTER_THREADS = 16


class Config(ComponentConfig):
    """`path` is anything that `uri.Source` may be."""

    kind: Literal["parquet"] = "parquet"
    path: uri.Source


class _Footer(NamedTuple):
    schema: pa.Schema
    group_rows: list[int]


class Reader(base.Reader):
    """Reads row groups. The first to open a table reads all footers, at once; others read those of files they use."""

    def __init__(self, config: Config, state: dict[str, Any] | None = None) -> None:
        """Open `config.path`'s files.

        Raises:
            ValueError: no such file, a file that is not Parquet, or files of different schemas (both are named).
        """
        self._files = _files.Files(config.path, state["files"] if state else None)
        self._opened = _files.Opened(_open)
        if state is None:
            with ThreadPoolExecutor(_FOOTER_THREADS) as pool:
                footers = list(pool.map(_footer, self._files.locations))
            own = _files.same_schema(
                [(at.path, f.schema, sum(f.group_rows)) for at, f in zip(self._files.locations, footers, strict=True)]
            )
            self._group_rows = [footer.group_rows for footer in footers]
        else:
            own = _files.schema_from(state["schema"])
            self._group_rows = state["group_rows"]
        self._own, self._own_names = own, frozenset(own.names)
        self.schema = self._files.with_partitions(own)
        self.fingerprint = self._files.fingerprint
        self._blocks = [
            (i, group) for i, rows in enumerate(self._group_rows) for group in np.flatnonzero(rows).tolist()
        ]
        self.block_rows = np.array([self._group_rows[file][group] for file, group in self._blocks], dtype=np.int64)

    def read(self, block: int, columns: Sequence[str]) -> pa.Table:
        """See `base.Reader.read`."""
        file, group = self._blocks[block]
        location = self._files.locations[file]
        try:
            table = self._opened.get(location).read_row_group(
                group, columns=[name for name in columns if name in self._own_names], use_threads=False
            )
        except (pa.ArrowException, OSError) as error:
            first = sum(self._group_rows[file][:group])
            raise ValueError(
                f"{location.path}: row group {group} (rows {first} to {first + self._group_rows[file][group]}) cannot "
                f"be read ({folders.reason(error)}); write the file again"
            ) from None
        return self._files.completed(_files.conformed(table, self._own), file, columns)

    def place(self, block: int) -> base.Place:
        """See `base.Reader.place`."""
        file, group = self._blocks[block]
        return base.Place(self._files.locations[file].path, sum(self._group_rows[file][:group]))

    def may_hold(self, condition: pc.Expression) -> np.ndarray:
        """See `base.Reader.may_hold`: by partition values and the statistics of row groups."""
        # It imports pandas, which takes a second.
        import pyarrow.dataset as pads

        groups = dict.fromkeys(self._blocks, False)
        for file, location in enumerate(self._files.locations):
            # The values of the folders' names are known of every row below.
            known = [pc.field(key) == pa.scalar(value) for key, value in location.partitions.items()]
            store = pafs.PyFileSystem(pafs.FSSpecHandler(location.filesystem))
            fragment = pads.ParquetFileFormat().make_fragment(
                location.path, store, reduce(operator.and_, known) if known else None
            )
            for row_group in fragment.subset(condition, schema=self.schema).row_groups:
                if (file, row_group.id) in groups:
                    groups[file, row_group.id] = True
        return np.array(list(groups.values()), dtype=bool)

    def state(self) -> dict[str, Any]:
        """See `base.Reader.state`."""
        return {
            "files": self._files.state(),
            "schema": _files.schema_to_text(self._own),
            "group_rows": self._group_rows,
        }


def _open(location: uri.Location) -> pq.ParquetFile:
    source = location.path if location.is_local else location.filesystem.open(location.path)
    return pq.ParquetFile(source, memory_map=location.is_local)


def _footer(location: uri.Location) -> _Footer:
    try:
        metadata = _open(location).metadata
    except (pa.ArrowException, OSError) as error:
        raise ValueError(
            f"{location.path}: not a readable Parquet file ({folders.reason(error)}); write it again or remove it"
        ) from None
    rows = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    return _Footer(metadata.schema.to_arrow_schema().remove_metadata(), rows)
