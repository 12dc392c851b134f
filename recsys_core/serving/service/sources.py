"""Where a release comes from: a registered model's alias or version, which may move, or a folder, which stays."""

import re
from pathlib import Path
from typing import NamedTuple

_REGISTERED = re.compile(r"(?P<name>[^@/\\]+)@(?P<which>champion|previous|[1-9][0-9]*)")


class Registered(NamedTuple):
    """`which` is `champion`, `previous` or a version's number."""

    name: str
    which: str


class Folder(NamedTuple):
    """A bundle's folder, as `mlflow artifacts download` leaves it."""

    path: Path


class Fetched(NamedTuple):
    """A release on this machine. `version` is MLflow's number, or `folder`."""

    name: str
    version: str
    folder: Path

    @property
    def tag(self) -> str:
        """What answers carry."""
        return f"{self.name}/{self.version}"


def source(text: str) -> Registered | Folder:
    """Return what `--release` names.

    Raises:
        ValueError: it is neither NAME@ALIAS nor a folder.
    """
    if (found := _REGISTERED.fullmatch(text)) is not None:
        return Registered(found["name"], found["which"])
    if Path(text).is_dir():
        return Folder(Path(text))
    raise ValueError(
        f"{text!r} is no release: give NAME@champion, NAME@previous, NAME@VERSION, or the folder of a bundle"
    )


def of_folder(given: Folder) -> Fetched:
    """Return a folder as a release; it has no version."""
    path = given.path.resolve()
    return Fetched(path.name, "folder", path)
