"""Writers, one per file: a table in parts, one for each rank, which appear together."""

from recsys_core import lookup
from recsys_core.artifacts import ComponentConfig
from recsys_core.writers.base import Receipt, Table, Writer

__all__ = ["Receipt", "Table", "Writer", "build"]


def build(config: ComponentConfig) -> Table:
    """Return the table that `config`, of any writer's kind, says to write."""
    return lookup.component(__name__, config.kind).Table(config)
