"""Losses, one per file; `build` makes the one that a config names."""

from typing import TYPE_CHECKING, TypeVar

from recsys_core import lookup
from recsys_core.artifacts import ComponentConfig

if TYPE_CHECKING:
    from recsys_core.losses.base import RankingLoss, RetrievalLoss

    _L = TypeVar("_L", RankingLoss, RetrievalLoss)


def build(config: ComponentConfig, contract: "type[_L]") -> "_L":
    """Return the loss of `config.kind`.

    Raises:
        ValueError: it keeps another contract.
    """
    return lookup.keeping(__name__, config.kind, contract, does=contract.DOES)(config)
