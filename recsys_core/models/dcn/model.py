"""DCN's modules. Legend: B examples, X inputs (pooled widths and dense fields)."""

import torch
from torch import Tensor, nn

from recsys_core.features import TableSpec
from recsys_core.models import base
from recsys_core.models.blocks import layout
from recsys_core.models.blocks.crosses import Crossed, of_crossed
from recsys_core.models.blocks.embeddings import Embeddings
from recsys_core.models.dcn import Config


class Cross(nn.Module):
    """x_0 (w · x_l) + b + x_l (equation 3): [B, X] → [B, X]."""

    def __init__(self, num_inputs: int) -> None:
        """`num_inputs` is X."""
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_inputs))
        nn.init.normal_(self.weight, std=num_inputs**-0.5)
        self.bias = nn.Parameter(torch.zeros(num_inputs))

    def forward(self, first: Tensor, crossed: Tensor) -> Tensor:
        """Return the next layer's input."""
        return first * torch.mv(crossed, self.weight).unsqueeze(1) + self.bias + crossed


class Model(base.RankingModel):
    """Pooled features and dense fields of query and item alike."""

    def __init__(
        self,
        config: Config,
        tables: tuple[TableSpec, ...],
        query: base.TowerInputs,
        item: base.TowerInputs,
        *,
        tables_device: torch.device,
    ) -> None:
        """Build on the CPU; tables on `tables_device` (`meta` where they are to be sharded).

        Raises:
            ValueError: a sequence that is not pooled.
        """
        super().__init__()
        self.tables = Embeddings(tables, {"query": query.sparse, "item": item.sparse}, tables_device)
        self.tables.require_pooled("dcn")
        self._dense = (*query.dense, *item.dense)
        num_inputs = sum(self.tables.pooled_widths) + query.num_dense + item.num_dense
        crosses = [Cross(num_inputs) for _ in range(config.num_crosses)]
        self.head = Crossed(num_inputs, crosses, config.structure, config.hidden, config.dropout)

    def layout(self) -> layout.Layout:
        """See `base.RetrievalModel.layout`."""
        head = self.head
        assert isinstance(head, Crossed)
        inputs = layout.pooled(self.tables.pooled_features, self.tables.pooled_widths) + layout.numbers(self._dense)
        found = of_crossed("head", head, inputs)
        for number in range(len(head.crosses)):
            for part in ("weight", "bias"):
                place = f"head cross {number} {part}"
                found[f"head.crosses.{number}.{part}"] = layout.Weight(place=place, axes=(inputs,))
        return found
