"""The emulator's tables: folders of Parquet, `DIR/project/[schema/]table/[key=value/…]*.parquet`.

A table that was made through the emulator has its columns in `_table.json`; the columns of any other folder are those
of its Parquet files, and its partition keys those of its folders.
"""

import json
import shutil
import threading
import time
import urllib.parse
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from recsys_core.odps import types
from recsys_core.odps.emulator.wire import RefusedError
from recsys_core.odps.path import Partition

META = "_table.json"
DEFAULT_SCHEMA = "default"


class Table(NamedTuple):
    """A table as it stands in the store; columns are (name, MaxCompute type)."""

    folder: Path
    id: str
    columns: tuple[tuple[str, str], ...]
    partition_keys: tuple[tuple[str, str], ...]
    lifecycle: int
    created: int

    @property
    def schema(self) -> pa.Schema:
        """Arrow schema of the columns, partition keys not included."""
        return pa.schema([(name, types.to_arrow(kind)) for name, kind in self.columns])

    @property
    def modified(self) -> int:
        """Unix seconds of the last change."""
        return _modified(self.folder)

    def partitions(self) -> list[Partition]:
        """Return the partitions there are, in the order of their folders."""
        level: list[tuple[Partition, Path]] = [((), self.folder)]
        for key, _ in self.partition_keys:
            level = [
                ((*pairs, (key, urllib.parse.unquote(inner.name.removeprefix(f"{key}=")))), inner)
                for pairs, outer in level
                for inner in sorted(outer.glob(f"{key}=*"))
            ]
        return [pairs for pairs, _ in level]

    def place(self, partition: Partition) -> Path:
        """Return the folder of `partition`; of no partition, the table's own."""
        return self.folder.joinpath(*(f"{key}={urllib.parse.quote(value, safe=' ')}" for key, value in partition))

    def existing(self, partition: Partition) -> Path:
        """Return the folder of a partition that is there.

        Raises:
            RefusedError: it is not, or the table has other partition keys.
        """
        if [key for key, _ in partition] != [key for key, _ in self.partition_keys]:
            raise RefusedError(400, "InvalidArgument", f"{partition} does not name the keys {self.partition_keys}")
        place = self.place(partition)
        if not place.is_dir():
            raise RefusedError(404, "NoSuchPartition", f"ODPS-0130131: no partition {partition} in {self.folder.name}")
        return place

    def files(self, partition: Partition) -> list[Path]:
        """Return the Parquet files of one partition, in order."""
        place = self.existing(partition) if self.partition_keys else self.folder
        return sorted(path for path in place.glob("*.parquet") if not path.name.startswith((".", "_")))


class Store:
    """Tables below one folder; what changes them takes turns."""

    def __init__(self, root: Path) -> None:
        """Serve what is in `root`, which is made if it is not there."""
        root.mkdir(parents=True, exist_ok=True)
        self.root = root
        self.lock = threading.RLock()

    def table(self, project: str, schema: str | None, name: str) -> Table:
        """Return a table.

        Raises:
            RefusedError: no such project or table, or Parquet files that do not make one.
        """
        folder = self.folder(project, schema, name)
        if (folder / META).is_file():
            meta = json.loads((folder / META).read_text())
            columns, keys = (tuple(map(tuple, meta[key])) for key in ("columns", "partition_keys"))
            return Table(folder, meta["id"], columns, keys, meta["lifecycle"], meta["created"])
        found = sorted(folder.glob("**/*.parquet"))
        if not found:
            raise RefusedError(404, "NoSuchTable", f"ODPS-0130131:[1,1] Table not found - {project}.{name}")
        own = pq.read_schema(found[0])
        keys = [part.partition("=")[0] for part in found[0].relative_to(folder).parts[:-1]]
        columns = tuple((field.name, types.from_arrow(field.type)) for field in own if field.name not in keys)
        identity = uuid.uuid5(uuid.NAMESPACE_URL, str(folder)).hex
        return Table(folder, identity, columns, tuple((key, "string") for key in keys), -1, _modified(folder))

    def create(
        self,
        names: tuple[str, str | None, str],
        columns: Sequence[tuple[str, str]],
        partition_keys: Sequence[tuple[str, str]],
        lifecycle: int,
    ) -> None:
        """Make a table without rows.

        Raises:
            RefusedError: it exists, or a column has a type that there is not.
        """
        folder = self.folder(*names)
        try:
            for _, kind in (*columns, *partition_keys):
                types.to_arrow(kind)
        except ValueError as error:
            raise RefusedError(400, "ODPS-0130161", f"ODPS-0130161:[1,1] Parse exception - {error}") from None
        if folder.exists():
            raise RefusedError(400, "ODPS-0130131", f"Table or view already exists - {folder.name}")
        folder.mkdir(parents=True)
        meta = {
            "id": uuid.uuid4().hex,
            "columns": list(columns),
            "partition_keys": list(partition_keys),
            "lifecycle": lifecycle,
            "created": int(time.time()),
        }
        (folder / META).write_text(json.dumps(meta, indent=1))

    def drop(self, table: Table) -> None:
        """Remove a table with its rows."""
        shutil.rmtree(table.folder)

    def folder(self, project: str, schema: str | None, name: str) -> Path:
        """Return where a table lies or would lie.

        Raises:
            RefusedError: no such project.
        """
        for part in (project, schema or "", name):
            if "/" in part or part.startswith("."):
                raise RefusedError(400, "InvalidArgument", f"{part!r} is no name")
        if not (self.root / project).is_dir():
            raise RefusedError(404, "NoSuchProject", f"ODPS-0420111: Project not found - '{project}'")
        inside = [schema] if schema and schema != DEFAULT_SCHEMA else []
        return self.root.joinpath(project, *inside, name)


def _modified(folder: Path) -> int:
    return int(max(path.stat().st_mtime for path in (folder, *folder.rglob("*")) if not _hidden(path, folder)))


def _hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)
