"""Where a release comes from: a registered model's alias or version, which may move, or a folder, which stays."""

import re
from pathlib import Path
from typing import NamedTuple

from recsys_core.registry import named

_NAME = re.compile(r"(?P<name>[^@/\\:]+)(@(?P<which>[^@/\\\s]+))?")
_FEATURES = "features"  # every bundle has them, those of before there were manifests too


class Registered(NamedTuple):
    """`which` is an alias such as `champion`, or a version's number; `name` may be empty where there is one name."""

    name: str
    which: str

    @property
    def text(self) -> str:
        """What names it, as `registry.named` reads it."""
        return f"{self.name}@{self.which}" if self.name else self.which


class Folder(NamedTuple):
    """A bundle's folder, and what answers from it carry."""

    path: Path
    name: str
    version: str = "folder"


class Fetched(NamedTuple):
    """A release on this machine. `version` is MLflow's number, a run's id, or `folder`."""

    name: str
    version: str
    folder: Path

    @property
    def tag(self) -> str:
        """What answers carry."""
        return f"{self.name}/{self.version}"


def source(release: str | None, run: Path | None = None) -> Registered | Folder:
    """Return what one of the two names: a release, or the folder of a run that has published.

    `release` is NAME, NAME@ALIAS, NAME@VERSION, an alias alone where there are releases of one name only, or a folder:
    a downloaded bundle, MLflow's model around it, or a run's.

    Raises:
        ValueError: it is none of these, or the folder holds nothing that can be served.
    """
    if (release is None) == (run is None):
        raise ValueError("name one of the two: --release NAME@champion (or a bundle's folder), or --run DIR")
    if run is not None:
        return _of_run(run)
    assert release is not None
    path = Path(release)
    if path.is_dir():
        if (path / "config.yaml").is_file():
            return _of_run(path)
        folder = path if (path / _FEATURES).is_dir() else named.find(folder=path).bundle()
        return Folder(folder.resolve(), path.resolve().name)
    if (found := _NAME.fullmatch(release)) is None:
        raise ValueError(
            f"{release!r} is no release: give NAME@champion, NAME@previous, NAME@VERSION, or the folder of a bundle"
        )
    name, which = found["name"], found["which"]
    if which is None:
        name, which = ("", name) if name in named.ALIASES else (name, named.ALIASES[0])
    return Registered(name, which.removeprefix("v") if re.fullmatch("v[0-9]+", which) else which)


def _of_run(run: Path) -> Folder:
    folder = named.find(run=run).bundle()
    home = run.resolve()
    return Folder(folder.resolve(), home.parents[1].name, home.name)


def of_folder(given: Folder) -> Fetched:
    """Return a folder as a release."""
    return Fetched(given.name, given.version, given.path)
