"""DIEN's modules. Legend: B examples, N elements, T places, D an element's width, which is that of states too."""

import torch
from torch import Tensor, nn

from recsys_core.models.blocks import behaviours, layout
from recsys_core.models.blocks.mlp import mlp
from recsys_core.models.blocks.shared import BehaviourModel
from recsys_core.models.dien import Config


class Recurrent(nn.Module):
    """[B, T, D] → states [B, T, D] of a gated recurrent unit, whose updates are scaled by `shares` [B, T].

    u = share · sigmoid(W_u x + U_u h), r = sigmoid(W_r x + U_r h), h' = (1 - u) h + u tanh(W x + r U h).
    Where there is no element the state stays.
    """

    def __init__(self, dim: int, num_places: int) -> None:
        """`num_places` is T."""
        super().__init__()
        self.num_places = num_places
        self.of_input = nn.Linear(dim, 3 * dim)
        self.of_state = nn.Linear(dim, 3 * dim, bias=False)

    def forward(self, elements: Tensor, shares: Tensor, mask: Tensor) -> Tensor:
        """Return the state behind each place."""
        by_input = self.of_input(elements)
        state = torch.zeros_like(elements[:, 0])
        states: list[Tensor] = []
        for place in range(self.num_places):
            update_x, reset_x, new_x = by_input[:, place].chunk(3, dim=1)
            update_h, reset_h, new_h = self.of_state(state).chunk(3, dim=1)
            update = torch.sigmoid(update_x + update_h) * shares[:, place : place + 1]
            new = torch.tanh(new_x + torch.sigmoid(reset_x + reset_h) * new_h)
            moved = (1 - update) * state + update * new
            state = torch.where(mask[:, place : place + 1], moved, state)
            states.append(state)
        return torch.stack(states, dim=1)


class Head(nn.Module):
    """(pooled [B, P], dense [B, F], sequences' embeddings and numbers [N, D], their lengths [B]) → logits [B]."""

    def __init__(self, places: behaviours.Places, config: Config) -> None:
        """`places` say what is compared with what."""
        super().__init__()
        self.read = behaviours.Read(places)
        self.max_length: int = config.max_length
        dim = len(places.target_columns)
        self.interests = Recurrent(dim, config.max_length)
        self.compare = nn.Linear(dim, dim, bias=False)
        self.evolution = Recurrent(dim, config.max_length)
        self.deep = mlp(places.num_inputs + dim, config.hidden, 1, config.dropout)

    def forward(self, pooled: Tensor, dense: Tensor, unpooled: list[Tensor], lengths: list[Tensor]) -> Tensor:
        """Return the examples' logits."""
        inputs = torch.cat([pooled, dense], dim=1)
        targets_BD, elements_ND, lengths_B = self.read(pooled, inputs, unpooled, lengths)
        elements_BTD, mask_BT = behaviours.padded(elements_ND, lengths_B, self.max_length)
        interests_BTD = self.interests(elements_BTD, torch.ones_like(elements_BTD[:, :, 0]), mask_BT)
        # How close each interest is to the target.
        scores_BT = torch.bmm(interests_BTD, self.compare(targets_BD).unsqueeze(2)).squeeze(2)
        evolved_BTD = self.evolution(interests_BTD, behaviours.masked_softmax(scores_BT, mask_BT), mask_BT)
        return self.deep(torch.cat([inputs, evolved_BTD[:, -1]], dim=1)).squeeze(1)


class Model(BehaviourModel[Config]):
    """See `BehaviourModel`."""

    def make_head(self, places: behaviours.Places, config: Config) -> nn.Module:
        """See the base class."""
        return Head(places, config)

    def layout(self) -> layout.Layout:
        """See `base.RetrievalModel.layout`."""
        head = self.head
        assert isinstance(head, Head)
        return self.of_head(layout.units("evolved interest", head.compare.in_features))
