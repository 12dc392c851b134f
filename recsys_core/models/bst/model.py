"""BST's modules. Legend: B examples, N elements, T places, D an element's width, S = T + 1 slots (the target first)."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from recsys_core.models.blocks import behaviours, layout
from recsys_core.models.blocks.mlp import mlp
from recsys_core.models.blocks.shared import BehaviourModel
from recsys_core.models.bst import Config


class Block(nn.Module):
    """[B, S, D] → [B, S, D]: self-attention and a feed-forward network, each added to its input and normalised."""

    def __init__(self, dim: int, config: Config) -> None:
        """`dim` is D."""
        super().__init__()
        self.num_heads = config.num_heads
        self.query, self.key = nn.Linear(dim, dim), nn.Linear(dim, dim, bias=False)
        self.value, self.output = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.attention_norm, self.norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.wide, self.narrow = nn.Linear(dim, config.forward_dim), nn.Linear(config.forward_dim, dim)

    def forward(self, slots: Tensor, mask: Tensor) -> Tensor:
        """Return the slots' new vectors; `mask` [B, S] says which there are."""
        heads = behaviours.attended(self.query(slots), self.key(slots), self.value(slots), self.num_heads, mask)
        made = self.output(heads.transpose(1, 2).flatten(2))
        slots = self.attention_norm(slots + made)
        return self.norm(slots + self.narrow(functional.leaky_relu(self.wide(slots))))


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


class Model(BehaviourModel[Config]):
    """See `BehaviourModel`."""

    def make_head(self, places: behaviours.Places, config: Config) -> nn.Module:
        """See the base class.

        Raises:
            ValueError: heads that do not divide an element.
        """
        behaviours.refuse_undivided(config.kind, len(places.target_columns), config.num_heads)
        return Head(places, config)

    def layout(self) -> layout.Layout:
        """See `base.RetrievalModel.layout`."""
        head = self.head
        assert isinstance(head, Head)
        return self.of_head(layout.units("slots", head.positions.numel()))
