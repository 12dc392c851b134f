"""Losses, one per file; `build` makes the one that a config names."""

from typing import TypeVar

from recsys_core import lookup
from recsys_core.artifacts import ComponentConfig
from recsys_core.losses.base import RankingLoss, RetrievalLoss

_L = TypeVar("_L", RankingLoss, RetrievalLoss)
_DOES = {RetrievalLoss: "compares queries with items", RankingLoss: "judges the logits of labelled rows"}


def build(config: ComponentConfig, contract: type[_L]) -> _L:
    """Return the loss of `config.kind`.

    Raises:
        ValueError: it keeps another contract.
    """
    return lookup.keeping(__name__, config.kind, contract, does=_DOES[contract])(config)
