"""The contract of a writer: one part of a table, written by one rank into a directory that is not yet visible."""

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self

import pyarrow as pa


class Writer(ABC):
    """Writes tables of one schema; `num_rows` counts what was written. Use it as a context manager."""

    num_rows: int = 0

    @abstractmethod
    def write(self, table: pa.Table) -> None:
        """Append `table`'s rows."""

    @abstractmethod
    def close(self) -> None:
        """Finish the part; a part that is not closed is not readable."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
