"""What the file formats share: parts in a folder beside the final one, counted, then renamed into its place."""

import base64
import shutil
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from recsys_core import integrity, uri
from recsys_core.artifacts import move_into_place
from recsys_core.writers import base

MARK = "_manifest.json"
"""The file that says of a folder that it was written here, and may be replaced."""


class Part(base.Writer):
    """One part file."""

    def __init__(self, file: Path, number: int) -> None:
        """`file` is where the part is written, `number` its place among the parts."""
        file.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._number = file, number

    @abstractmethod
    def finish(self) -> None:
        """Write what is still held, and close the file; a second call does nothing."""

    def close(self) -> base.Receipt:
        """See `base.Writer.close`."""
        self.finish()
        return base.Receipt(part=self._number, num_rows=self.num_rows, written=(self._path.name,))

    def drop(self) -> None:
        """See `base.Writer.drop`."""
        self.finish()
        self._path.unlink(missing_ok=True)


class Table(base.Table):
    """A folder of part files on a file system that all ranks share. `suffix` ends the files' names."""

    suffix: str

    def __init__(self, path: str) -> None:
        """`path` is the folder that will be replaced.

        Raises:
            ValueError: it is on a store that cannot rename a folder, or is a file.
        """
        if uri.is_remote(path):
            raise ValueError(
                f"{path}: tables are written to local folders and to odps://, which can replace them whole"
            )
        self._path = Path(path).expanduser().absolute()
        if self._path.is_file():
            raise ValueError(f"{path}: a file is there; name a folder for the table's parts")

    @abstractmethod
    def open(self, file: Path, number: int, schema: pa.Schema) -> Part:
        """Open part `number`, which is to be written to `file`."""

    @abstractmethod
    def count(self, file: Path) -> int:
        """Return the number of rows that a finished part has on the disk."""

    def require(self, schema: pa.Schema) -> None:
        """Look whether the format holds such columns.

        Raises:
            ValueError: it does not; names the column.
        """

    def begin(self, schema: pa.Schema) -> dict[str, Any]:
        """See `base.Table.begin`."""
        self.require(schema)
        aside = self._path.with_name(f".{self._path.name}.partial")
        try:
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
        except OSError as error:
            raise ValueError(f"{self._path}: cannot be written ({error.strerror}); name a folder that can") from None
        return {"aside": str(aside), "schema": base64.b64encode(schema.serialize().to_pybytes()).decode()}

    def part(self, state: dict[str, Any], number: int) -> base.Writer:
        """See `base.Table.part`."""
        schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(state["schema"])))
        return self.open(Path(state["aside"]) / f"part-{number:05d}{self.suffix}", number, schema)

    def commit(self, state: dict[str, Any], receipts: Sequence[base.Receipt]) -> int:
        """See `base.Table.commit`."""
        aside = Path(state["aside"])
        written = {name: receipt for receipt in receipts for name in receipt.written}
        there = {file.name for file in aside.iterdir()}
        if there != set(written):
            raise ValueError(
                f"{aside}: holds {sorted(there)} where the ranks wrote {sorted(written)}; run the stage again"
            )
        for name, receipt in written.items():
            num_rows = self.count(aside / name)
            if num_rows != receipt.num_rows:
                raise ValueError(f"{aside / name}: {num_rows} rows where {receipt.num_rows} were written; run it again")
        num_rows = sum(receipt.num_rows for receipt in receipts)
        parts = {name: receipt.num_rows for name, receipt in sorted(written.items())}
        integrity.write_text(aside / MARK, integrity.sealed({"num_rows": num_rows, "parts": parts}))
        move_into_place(aside, self._path)
        return num_rows

    def abandon(self, state: dict[str, Any]) -> None:
        """See `base.Table.abandon`."""
        shutil.rmtree(state["aside"], ignore_errors=True)
