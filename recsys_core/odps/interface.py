"""What the two ways to move rows have in common; each makes one request per call, and `client` tries them again."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import pyarrow as pa

from recsys_core.odps.path import Partition

Choice = Literal["auto", "storage", "tunnel"]
READY, PENDING, COMMITTING, COMMITTED = "NORMAL", "INIT", "COMMITTING", "COMMITTED"
CHUNK_BYTES = 1 << 20


class SessionState(NamedTuple):
    """What the service says of a session: its name from now on, its state, and its rows, or how many blocks it takes.

    States other than those above are names of the service, and none of them comes to a good end.
    """

    session: str
    state: str
    number: int | None


class Interface(ABC):
    """Sessions over rows of one table. Names of sessions are text that other processes can go on with.

    Errors are pyodps', of the connection, or Arrow's, as they come.
    """

    name: str

    @abstractmethod
    def open_read(self, partitions: Sequence[Partition], columns: Sequence[str], keys: Sequence[str]) -> SessionState:
        """Open a session over rows of `partitions` (none: the whole table) with `columns`, of which `keys` are text."""

    @abstractmethod
    def read_state(self, session: str, *, refresh: bool = False) -> SessionState:
        """Ask for a read session; with `refresh` it lives longer for it, where that can be asked for."""

    @abstractmethod
    def batches(self, session: str, start: int, stop: int) -> Iterator[pa.RecordBatch]:
        """Yield rows [start, stop), or fewer if the stream ends early, which looks like any other end."""

    @abstractmethod
    def open_write(self, partition: Partition) -> SessionState:
        """Open a session that will replace `partition` or the unpartitioned table."""

    @abstractmethod
    def write_state(self, session: str) -> SessionState:
        """Ask for a write session."""

    @abstractmethod
    def send(self, session: str, block: int, attempt: int, body: pa.Buffer) -> str:
        """Send a block, an Arrow stream; return what the commit needs to know of it."""

    @abstractmethod
    def commit(self, session: str, messages: Sequence[str]) -> SessionState:
        """Make the blocks of the commit messages `messages` visible."""


class Chunks:
    """A body that is sent in chunks, and can be sent again."""

    def __init__(self, body: pa.Buffer | bytes) -> None:
        """Hold it."""
        self._body = memoryview(body)

    def __iter__(self) -> Iterator[memoryview]:
        for start in range(0, len(self._body), CHUNK_BYTES):
            yield self._body[start : start + CHUNK_BYTES]
