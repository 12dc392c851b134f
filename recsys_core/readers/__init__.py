"""Readers, one per file: a table in blocks that any rank can read alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from recsys_core import lookup, uri
from recsys_core.artifacts import Frozen
from recsys_core.readers._selected import Selected, Selection
from recsys_core.readers.base import Part, Reader

__all__ = ["Part", "Reader", "Selected", "Selection", "build", "infer", "opened", "parts"]


def build(config: Frozen, state: dict[str, Any] | None = None) -> Reader:
    """Open the table that `config`, of any reader's kind, names; `state` is what another process's reader told."""
    kind: str = config.kind  # pyright: ignore[reportAttributeAccessIssue] - every component's Config has one
    return lookup.component(__name__, kind).Reader(config, state)


def infer(path: str) -> Frozen:
    """Return the config of the reader that fits `path`: by its scheme, else by what its files are called.

    Raises:
        ValueError: `path` names nothing, files of different formats, or a format that nothing reads; named.
    """
    kind = "odps" if path.startswith("odps://") else uri.format_of(path)
    return lookup.component(__name__, kind).Config(path=path)


def opened(folder: Path) -> Reader:
    """Open the files of a local folder, of whichever format they are.

    Raises:
        ValueError: there are none, or they are of different formats.
    """
    return build(infer(str(folder)))


def parts(path: str, key: str, wanted: Callable[[str], bool]) -> dict[str, Part] | None:
    """Return the rows of `path` by their value of the partition key `key`, of those values that are `wanted`.

    None: the rows are not kept apart by it. No rows are read, and nothing is asked about values that are not wanted.

    Raises:
        ValueError: `path` names nothing, or a table that cannot be reached.
    """
    if path.startswith("odps://"):
        return lookup.component(__name__, "odps").parts(path, key, wanted)
    found: dict[str, list[uri.Location]] = {}
    for location in uri.resolve(path):
        value = location.partitions.get(key)
        if value is None or "," in location.path:
            return None
        if wanted(value):
            found.setdefault(value, []).append(location)
    return {
        value: Part(",".join(map(uri.address, locations)), uri.fingerprint(locations))
        for value, locations in found.items()
    }
