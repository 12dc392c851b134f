"""The contract of writing: a table appears whole, in place of what was there before, or not at all.

The first rank calls `begin`, every rank writes one part, and the first rank calls `commit` with the parts' receipts.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import pyarrow as pa

from recsys_core.artifacts import Frozen


class Receipt(Frozen):
    """What is known of a finished part: how many rows it has, and what `commit` needs to find it."""

    part: int
    num_rows: int
    written: tuple[str, ...] = ()


class Writer(ABC):
    """Writes one rank's part; `num_rows` counts what was written. Use it as a context manager.

    Leaving the context with an error drops the part.
    """

    num_rows: int = 0

    @abstractmethod
    def write(self, table: pa.Table) -> None:
        """Append `table`'s rows, which have the schema that the table was begun with."""

    @abstractmethod
    def close(self) -> Receipt:
        """Finish the part; a part that is not closed cannot be committed. A second call returns the same."""

    def drop(self) -> None:  # noqa: B027 - not every part leaves something behind
        """Give up the part, as far as that needs doing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self.drop()


class Table(ABC):
    """A table that is to be written. A component of this catalogue has a `Config`, and `Table(config)`."""

    @abstractmethod
    def begin(self, schema: pa.Schema) -> dict[str, Any]:
        """Prepare the place, which readers do not see yet; return JSON that every rank's `part` and `commit` need.

        What an earlier attempt that was killed has left aside is removed.

        Raises:
            ValueError: the place cannot be written to, or cannot hold such columns.
        """

    @abstractmethod
    def part(self, state: dict[str, Any], number: int) -> Writer:
        """Open part `number` of the table that `begin` prepared; rows of lower parts come first."""

    @abstractmethod
    def commit(self, state: dict[str, Any], receipts: Sequence[Receipt]) -> int:
        """Make the parts visible, all at once, in place of an earlier table; return the number of rows.

        Raises:
            ValueError: what is there to commit is not what the receipts say.
        """

    @abstractmethod
    def abandon(self, state: dict[str, Any]) -> None:
        """Remove what `begin` and the parts have left aside; what readers see stays as it was."""
