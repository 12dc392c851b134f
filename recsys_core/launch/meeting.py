"""The files on shared storage by which a launcher and the nodes of a scheduler's job know of each other.

The launcher writes `order.json` and touches `lease` for as long as it lives; the nodes end once that is gone or silent.
Node K touches `K.alive`, which says where it runs, and leaves `K.exit` with its exit code, written whole or not at all.
Every launch has a folder of its own, so that nodes of an earlier one, which may end late, are not taken for its own. It
stays with the nodes' logs, until the stage is launched again.
"""

import contextlib
import secrets
import shutil
import time
from pathlib import Path

from recsys_core.artifacts import Frozen, write_text
from recsys_core.liveness import SILENT_SECONDS

TOUCH_SECONDS = 10.0


class Order(Frozen):
    """What every node of a job does: ranks of a stage, in `directory`, where relative paths start.

    `rank_variable` is the variable in which the scheduler says which of the nodes this is; `reads` are schemes, as
    `s3://`, of what is opened.
    """

    stage: str
    module: str
    request: Path
    events: Path
    log: Path
    key: str
    directory: Path
    rank_variable: str
    environment: dict[str, str]
    reads: tuple[str, ...]
    num_ranks: int
    num_nodes: int
    threads_per_rank: int | None
    max_restarts: int
    stop_grace_seconds: float


class Meeting:
    """The folder of one launch, as the launcher and each node sees it."""

    def __init__(self, folder: Path) -> None:
        """See `opened` for how it comes to be."""
        self.folder = folder
        self._order, self._lease = folder / "order.json", folder / "lease"
        self._renewed = -TOUCH_SECONDS

    @classmethod
    def opened(cls, beside: Path, order: Order) -> "Meeting":
        """Make the folder `STAGE.nodes/TOKEN` beside a stage's request; those of earlier launches go."""
        shutil.rmtree(beside, ignore_errors=True)
        meeting = cls(beside / secrets.token_hex(6))
        meeting.folder.mkdir(parents=True)
        meeting.renew()
        write_text(meeting._order, order.model_dump_json(indent=2))
        return meeting

    @property
    def name(self) -> str:
        """What no other launch is called."""
        return self.folder.name

    def order(self) -> Order:
        """Read what is to be done."""
        return Order.model_validate_json(self._order.read_text())

    def renew(self) -> None:
        """Show the nodes that the launcher lives; does nothing if it has shown it just now."""
        if time.monotonic() - self._renewed >= TOUCH_SECONDS:
            self._lease.touch()
            self._renewed = time.monotonic()

    def end(self) -> None:
        """Ask the nodes to end."""
        self._lease.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the folder of a job that was not submitted."""
        shutil.rmtree(self.folder.parent, ignore_errors=True)

    def lease(self) -> "Pulse":
        """Return the launcher's sign of life."""
        return Pulse(self._lease)

    def alive(self, node: int) -> Path:
        """Return the file of a node's sign of life; its first line is where the node runs."""
        return self.folder / f"{node}.alive"

    def place(self, node: int) -> str | None:
        """Return where a node runs, HOST ADDRESS PORT; None before it has begun."""
        with contextlib.suppress(FileNotFoundError):
            return self.alive(node).read_text()
        return None

    def log(self, node: int) -> Path:
        """Return the log of a node; the first one's is the stage's own."""
        return self.order().log if node == 0 else self.folder / f"{node}.log"

    def leave(self, node: int, exit_code: int) -> None:
        """Write down how a node has ended."""
        write_text(self.folder / f"{node}.exit", str(exit_code))

    def exit_codes(self) -> dict[int, int]:
        """Return how those nodes have ended that have."""
        return {int(file.stem): int(file.read_text()) for file in sorted(self.folder.glob("[0-9]*.exit"))}


class Pulse:
    """Whether a file is touched again and again, by the clock of who looks: those of two machines differ."""

    def __init__(self, path: Path) -> None:
        """It counts as touched just now."""
        self._path, self._touched, self._since = path, 0.0, time.monotonic()

    def is_gone(self) -> bool:
        """Whether there is no such file, or it was not touched for a while."""
        try:
            touched = self._path.stat().st_mtime
        except FileNotFoundError:
            return True
        if touched != self._touched:
            self._touched, self._since = touched, time.monotonic()
        return time.monotonic() - self._since > SILENT_SECONDS
