"""BST's modules. Legend: B examples, N elements, T places, D an element's width, S = T + 1 slots (the target first)."""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from recsys_core.features import TableSpec
from recsys_core.models import base
from recsys_core.models.blocks import behaviours, layout
from recsys_core.models.blocks.embeddings import Embeddings
from recsys_core.models.blocks.mlp import mlp
from recsys_core.models.bst import Config


class Block(nn.Module):
    """[B, S, D] → [B, S, D]: self-attention and a feed-forward network, each added to its input and normalised."""

    def __init__(self, dim: int, config: Config) -> None:
        """`dim` is D."""
        super().__init__()
        self.num_heads, self.head_dim = config.num_heads, dim // config.num_heads
        self.query, self.key = nn.Linear(dim, dim), nn.Linear(dim, dim, bias=False)
        self.value, self.output = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.attention_norm, self.norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.wide, self.narrow = nn.Linear(dim, config.forward_dim), nn.Linear(config.forward_dim, dim)

    def forward(self, slots: Tensor, mask: Tensor) -> Tensor:
        """Return the slots' new vectors; `mask` [B, S] says which there are."""
        query, key, value = (
            self._by_head(self.query(slots)),
            self._by_head(self.key(slots)),
            self._by_head(self.value(slots)),
        )
        scores = torch.matmul(query, key.transpose(2, 3)) / self.head_dim**0.5
        shares = behaviours.masked_softmax(scores, mask.unsqueeze(1).unsqueeze(1))
        made = self.output(torch.matmul(shares, value).transpose(1, 2).flatten(2))
        slots = self.attention_norm(slots + made)
        return self.norm(slots + self.narrow(functional.leaky_relu(self.wide(slots))))

    def _by_head(self, wide: Tensor) -> Tensor:
        """[B, S, D] → [B, heads, S, D / heads]."""
        return wide.view(wide.shape[0], wide.shape[1], self.num_heads, self.head_dim).transpose(1, 2)


class Head(nn.Module):
    """(pooled [B, P], dense [B, F], sequences' embeddings and numbers [N, D], their lengths [B]) → logits [B]."""

    def __init__(self, places: behaviours.Places, config: Config) -> None:
        """`places` say what is compared with what."""
        super().__init__()
        self.read = behaviours.Read(places)
        self.max_length: int = config.max_length
        dim = len(places.target_columns)
        self.positions = nn.Parameter(torch.empty(config.max_length + 1, dim))
        nn.init.normal_(self.positions, std=0.02)
        self.blocks = nn.ModuleList(Block(dim, config) for _ in range(config.num_blocks))
        self.deep = mlp(places.num_inputs + (config.max_length + 1) * dim, config.hidden, 1, config.dropout)

    def forward(self, pooled: Tensor, dense: Tensor, unpooled: list[Tensor], lengths: list[Tensor]) -> Tensor:
        """Return the examples' logits."""
        inputs = torch.cat([pooled, dense], dim=1)
        targets_BD, elements_ND, lengths_B = self.read(pooled, inputs, unpooled, lengths)
        elements_BTD, mask_BT = behaviours.padded(elements_ND, lengths_B, self.max_length)
        # The last element stands 1 before the target, whatever the row's length.
        places_T = torch.arange(self.max_length, device=lengths_B.device)
        back_BT = (lengths_B.unsqueeze(1) - places_T).clamp(min=0)
        elements_BTD = elements_BTD + self.positions[back_BT]
        slots = torch.cat([(targets_BD + self.positions[0]).unsqueeze(1), elements_BTD], dim=1)
        mask_BS = torch.cat([torch.ones_like(mask_BT[:, :1]), mask_BT], dim=1)
        for block in self.blocks:
            slots = block(slots, mask_BS)
        slots = slots * mask_BS.unsqueeze(2).to(slots.dtype)
        return self.deep(torch.cat([inputs, slots.flatten(1)], dim=1)).squeeze(1)


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
        behaviours.refuse_undivided("bst", len(places.target_columns), config.num_heads)
        self.head = Head(places, config)

    def layout(self) -> layout.Layout:
        """See `base.RetrievalModel.layout`."""
        head = self.head
        assert isinstance(head, Head)
        inputs = layout.pooled(self.tables.pooled_features, self.tables.pooled_widths) + layout.numbers(self._dense)
        # A behaviour's numbers are read together from the first layer on: they mean the same as long as all do.
        return behaviours.of_hidden("head", head, "deep") | layout.of_mlp(
            "head.deep", head.deep, inputs + layout.units("slots", head.positions.numel())
        )
