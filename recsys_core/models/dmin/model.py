"""DMIN's modules. Legend: B examples, N elements, T places, D an element's width, H heads."""

import torch
from torch import Tensor, nn

from recsys_core.models.blocks import behaviours, layout
from recsys_core.models.blocks.mlp import mlp
from recsys_core.models.blocks.shared import BehaviourModel
from recsys_core.models.dmin import Config


class Attention(nn.Module):
    """[B, T, D] → [B, H, T, D / H]: what each head makes of the elements, by scaled dot products."""

    def __init__(self, dim: int, num_heads: int) -> None:
        """`dim` is D."""
        super().__init__()
        self.num_heads = num_heads
        self.query, self.key = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim, bias=False)

    def forward(self, elements: Tensor, mask: Tensor) -> Tensor:
        """Return the heads' vectors; `mask` [B, T] says which elements there are."""
        return behaviours.attended(self.query(elements), self.key(elements), self.value(elements), self.num_heads, mask)


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
        return self.of_head(layout.units("interests", head.norm.normalized_shape[0]))
