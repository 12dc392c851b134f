"""A table that is being made in parts of equal size, in a folder aside: parts that are whole outlive a kill.

How the table is cut depends on its rows alone, so that any number of ranks goes on with what others have done.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from recsys_core import integrity
from recsys_core.artifacts import Frozen, digest_of
from recsys_core.loading.row_ranges import RowRange

_RECORD = "_parts.json"
_MAX_ROWS, _MIN_PARTS = 262_144, 8


class _Cut(Frozen):
    """What the parts in a folder are of."""

    key: str
    num_rows: int
    rows_each: int
    suffix: str


class Part(NamedTuple):
    """One part: its number, and the rows of the table that it holds."""

    number: int
    rows: RowRange


class Parts:
    """The parts of a table of `num_rows` rows; `key` says what they are made of."""

    def __init__(self, folder: Path, key: str, num_rows: int, *, batch_size: int, suffix: str) -> None:
        """Parts end where batches do; `suffix` ends the files' names."""
        least = -(-num_rows // _MIN_PARTS)
        rows_each = max(1, -(-min(least, _MAX_ROWS) // batch_size)) * batch_size
        self.folder = folder
        self._cut = _Cut(key=digest_of(key), num_rows=num_rows, rows_each=rows_each, suffix=suffix)
        starts = range(0, max(num_rows, 1), rows_each)
        self.parts = [Part(number, (start, min(start + rows_each, num_rows))) for number, start in enumerate(starts)]

    def begin(self) -> int:
        """Keep the parts that an earlier try of the same has finished, and no others; return their rows."""
        record = self.folder / _RECORD
        if not (record.is_file() and _same(record, self._cut)):
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            integrity.write_text(record, integrity.sealed(self._cut.model_dump(mode="json")))
        return self.num_done()

    def num_done(self) -> int:
        """Return how many rows the finished parts have."""
        return sum(stop - start for part in self.parts if self.file(part).is_file() for start, stop in [part.rows])

    def file(self, part: Part) -> Path:
        """Return the file of a part, which is there once it is whole."""
        return self.folder / f"part-{part.number:05d}{self._cut.suffix}"

    def left(self, rank: int, num_ranks: int) -> list[Part]:
        """Return the parts that are still to be made by `rank`."""
        return [part for part in self.parts if not self.file(part).is_file()][rank::num_ranks]

    def aside(self, part: Part) -> Path:
        """Return where a part is written until it is whole, empty."""
        aside = self.folder / f".{part.number:05d}.partial"
        shutil.rmtree(aside, ignore_errors=True)
        return aside / self.file(part).name

    def finish(self, part: Part) -> None:
        """Take what lies aside as whole."""
        aside = self.folder / f".{part.number:05d}.partial" / self.file(part).name
        with aside.open("rb") as written:
            os.fsync(written.fileno())
        aside.rename(self.file(part))
        aside.parent.rmdir()

    def counted(self, count: Callable[[Path], int]) -> dict[str, int]:
        """Check that each part has its rows; return how many by the parts' names.

        Raises:
            ValueError: one has not.
        """
        found: dict[str, int] = {}
        for part in self.parts:
            file, (start, stop) = self.file(part), part.rows
            num_rows = count(file) if file.is_file() else 0
            if num_rows != stop - start:
                raise ValueError(f"{file}: {num_rows} rows where {stop - start} were read; delete it and run again")
            found[file.name] = num_rows
        return found

    def files(self, rank: int, num_ranks: int) -> Iterator[Path]:
        """Yield the files of a rank's share: lower ranks have the earlier rows."""
        count = len(self.parts)
        for part in self.parts[count * rank // num_ranks : count * (rank + 1) // num_ranks]:
            yield self.file(part)


def _same(record: Path, cut: _Cut) -> bool:
    try:
        return integrity.read_record(_Cut, record) == cut
    except integrity.DamagedError:
        return False
