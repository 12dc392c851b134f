"""Exported modules in the place of the model in training form, for stages that measure either."""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from recsys_core.exported.modules import Module
from recsys_core.features import Engine, Side
from recsys_core.loading.batch import Numbers


class TowersAsModel(nn.Module):
    """Two exported towers: called as a `RetrievalModel` is."""

    def __init__(self, query: Module, item: Module, engine: Engine) -> None:
        """`engine` are their features."""
        super().__init__()
        self._towers: dict[Side, Module] = {"query": query, "item": item}
        self._weighted = _weighted(engine)

    def forward(self, sparse: KeyedJaggedTensor, query_BF: Tensor, item_MF: Tensor) -> tuple[Tensor, Tensor]:
        """Return the vectors of B queries and M items."""
        query_BD = self._towers["query"](_inputs(sparse, "query", query_BF, self._weighted))
        item_MD = self._towers["item"](_inputs(sparse, "item", item_MF, self._weighted))
        return query_BD, item_MD


class RankerAsModel(nn.Module):
    """An exported ranker: called as a `RankingModel` is."""

    def __init__(self, ranker: Module, engine: Engine) -> None:
        """`engine` are its features."""
        super().__init__()
        # No part of this one: a program of torch.export is in no other mode than that of evaluation.
        self._ranker, self._weighted = functools.partial(ranker), _weighted(engine)
        self._numbers = [one.name for side in ("query", "item") for one in engine.number_sequences(side)]

    def forward(self, sparse: KeyedJaggedTensor, dense_BF: Tensor, numbers: Sequence[Numbers] = ()) -> Tensor:
        """Return the logits [B], or of several tasks [B, T]."""
        inputs = _inputs(sparse, "query", dense_BF, self._weighted) | _inputs(sparse, "item", dense_BF, self._weighted)
        for name, one in zip(self._numbers, numbers, strict=True):
            inputs |= {f"{name}.values": one.values_ND, f"{name}.lengths": one.lengths_B.to(torch.int64)}
        return self._ranker(inputs)


def _weighted(engine: Engine) -> set[str]:
    return {one.name for side in ("query", "item") for one in engine.sparse_features(side) if one.weighted}


def _inputs(sparse: KeyedJaggedTensor, side: Side, dense: Tensor, weighted: set[str]) -> dict[str, Tensor]:
    """Return one side's rows as `inputs.tower_inputs` does; rows that only fill up are left out."""
    inputs = {"dense": dense}
    for key in sparse.keys():  # noqa: SIM118 - no dict
        its_side, _, name = key.partition(".")
        if its_side == side:
            rows = sparse[key]
            inputs[f"{name}.values"] = rows.values()
            inputs[f"{name}.lengths"] = rows.lengths()[: len(dense)].to(torch.int64)
            if name in weighted:
                inputs[f"{name}.weights"] = rows.weights()
    return inputs
