"""DMIN's modules. Legend: B examples, N elements, T places, D an element's width, H heads."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from recsys_core.features import TableSpec
from recsys_core.models import base
from recsys_core.models.blocks import behaviours, layout
from recsys_core.models.blocks.embeddings import Embeddings
from recsys_core.models.blocks.mlp import mlp
from recsys_core.models.dmin import Config


class Attention(nn.Module):
    """[B, T, D] → [B, H, T, D / H]: what each head makes of the elements, by scaled dot products."""

    def __init__(self, dim: int, num_heads: int) -> None:
        """`dim` is D."""
        super().__init__()
        self.num_heads, self.head_dim = num_heads, dim // num_heads
        self.query, self.key = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim, bias=False)

    def forward(self, elements: Tensor, mask: Tensor) -> Tensor:
        """Return the heads' vectors; `mask` [B, T] says which elements there are."""
        query, key, value = (
            self._by_head(self.query(elements)),
            self._by_head(self.key(elements)),
            self._by_head(self.value(elements)),
        )
        scores = torch.matmul(query, key.transpose(2, 3)) / self.head_dim**0.5
        return torch.matmul(behaviours.masked_softmax(scores, mask.unsqueeze(1).unsqueeze(1)), value)

    def _by_head(self, wide: Tensor) -> Tensor:
        """[B, T, D] → [B, H, T, D / H]."""
        return wide.view(wide.shape[0], wide.shape[1], self.num_heads, self.head_dim).transpose(1, 2)


class Head(nn.Module):
    """(pooled [B, P], dense [B, F], sequences' embeddings and numbers [N, D], their lengths [B]) → logits [B]."""

    def __init__(self, places: behaviours.Places, config: Config) -> None:
        """`places` say what is compared with what."""
        super().__init__()
        self.read = behaviours.Read(places)
        self.max_length: int = config.max_length
        dim, head_dim = len(places.target_columns), len(places.target_columns) // config.num_heads
        self.refine = Attention(dim, config.num_heads)
        self.refined = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim)
        self.interests = Attention(dim, config.num_heads)
        self.target = nn.Linear(dim, head_dim, bias=False)
        self.compare = mlp(4 * head_dim, config.attention_hidden, 1)
        self.deep = mlp(places.num_inputs + dim, config.hidden, 1, config.dropout)

    def forward(self, pooled: Tensor, dense: Tensor, unpooled: list[Tensor], lengths: list[Tensor]) -> Tensor:
        """Return the examples' logits."""
        inputs = torch.cat([pooled, dense], dim=1)
        targets_BD, elements_ND, lengths_B = self.read(pooled, inputs, unpooled, lengths)
        elements_BTD, mask_BT = behaviours.padded(elements_ND, lengths_B, self.max_length)
        refined = self.refined(self.refine(elements_BTD, mask_BT).transpose(1, 2).flatten(2))
        heads = self.interests(self.norm(elements_BTD + refined), mask_BT)
        # As wide as a head's vectors, and the same for all heads and elements.
        target = self.target(targets_BD).unsqueeze(1).unsqueeze(1).expand_as(heads)
        compared = torch.cat([heads, target, heads - target, heads * target], dim=3)
        scores_BHT = self.compare(compared).squeeze(3)
        shares_BHT = behaviours.masked_softmax(scores_BHT, mask_BT.unsqueeze(1))
        interests_BD = torch.matmul(shares_BHT.unsqueeze(2), heads).flatten(1)
        return self.deep(torch.cat([inputs, interests_BD], dim=1)).squeeze(1)


class Model(base.RankingModel):
    """Features of query and item alike, and one set of behaviour sequences."""

    reads_number_sequences: ClassVar[bool] = True

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
            ValueError: a sequence or a target is not there or not of its kind, or heads that do not divide an element.
        """
        super().__init__()
        self.tables = Embeddings(tables, {"query": query.sparse, "item": item.sparse}, tables_device)
        self._dense, numbers = (*query.dense, *item.dense), (*query.numbers, *item.numbers)
        places = behaviours.places("model.behaviours", config.behaviours, self.tables, self._dense, numbers)
        behaviours.refuse_unread("model.behaviours", config.behaviours.sequences, self.tables, numbers)
        behaviours.refuse_undivided("dmin", len(places.target_columns), config.num_heads)
        self.head = Head(places, config)

    def layout(self) -> layout.Layout:
        """See `base.RetrievalModel.layout`."""
        head = self.head
        assert isinstance(head, Head)
        inputs = layout.pooled(self.tables.pooled_features, self.tables.pooled_widths) + layout.numbers(self._dense)
        # A behaviour's numbers are read together from the first layer on: they mean the same as long as all do.
        return behaviours.of_hidden("head", head, "deep") | layout.of_mlp(
            "head.deep", head.deep, inputs + layout.units("interests", head.norm.normalized_shape[0])
        )
