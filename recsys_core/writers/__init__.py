"""Writers, one per file: a table in parts, one for each rank, which appear together."""

from recsys_core import lookup
from recsys_core.artifacts import Frozen
from recsys_core.writers.base import Receipt, Table, Writer

__all__ = ["Receipt", "Table", "Writer", "build"]


def build(config: Frozen) -> Table:
    """Return the table that `config`, of any writer's kind, says to write."""
    kind: str = config.kind  # pyright: ignore[reportAttributeAccessIssue] - every component's Config has one
    return lookup.component(__name__, kind).Table(config)
