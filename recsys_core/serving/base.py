"""What every bundle at work does, and what loading one takes."""

import abc
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import pyarrow as pa

from recsys_core import integrity
from recsys_core.artifacts import Artifact
from recsys_core.artifacts.release import EXPORTED_MODEL

AGAIN = "download the release again"


class Service(abc.ABC):
    """One release, loaded. Safe to use from several threads.

    `optional` are columns that a request may go without.
    """

    optional: ClassVar[tuple[str, ...]] = ()

    @classmethod
    @abc.abstractmethod
    def load(cls, directory: Path) -> Self:
        """Load the bundle in `directory` onto the CPU.

        Raises:
            ValueError: a part is missing or damaged; names it.
        """

    @abc.abstractmethod
    def answer(self, columns: Mapping[str, Iterable[Any]], params: Mapping[str, Any]) -> pa.Table:
        """Return a row for each row of loose values by column (None: unknown); nothing of it has been checked yet.

        Raises:
            ValueError: a column or a parameter is not as it must be; names it.
        """

    @abc.abstractmethod
    def check_kept(self, directory: Path) -> str:
        """Answer the rows that the bundle in `directory` keeps; say how that compares with what was measured.

        Raises:
            ValueError: it differs.
        """


def verify(directory: Path, parts: Sequence[str], model: type[Artifact]) -> None:
    """Compare a bundle's files with their digests; one of before there were any has those of its `model` alone.

    Raises:
        ValueError: one of `parts` is missing, or a file is damaged; names it.
    """
    for path in (directory / name for name in parts):
        if not path.is_file():
            raise ValueError(f"{path}: missing, so {directory} is no whole bundle; {AGAIN}")
    try:
        if integrity.verify_sealed(directory) or not (directory / EXPORTED_MODEL).exists():
            return
        integrity.verify(integrity.read_record(model, directory / EXPORTED_MODEL, path=directory).digests())
    except ValueError as error:
        raise ValueError(f"{error}; {AGAIN}") from None


def read(path: Path, reader: Callable[[str], Any]) -> Any:
    """Return what `reader` makes of a file.

    Raises:
        ValueError: it is damaged; names it.
    """
    try:
        return reader(str(path))
    except (RuntimeError, pa.ArrowInvalid) as error:
        raise ValueError(f"{path}: damaged ({integrity.first_line(error)}); {AGAIN}") from None
