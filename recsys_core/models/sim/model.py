"""SIM's modules. Legend: B examples, N elements, T places, D an element's width, K elements that are found, H heads."""

import torch
from torch import Tensor, nn

from recsys_core.models.blocks import behaviours, layout
from recsys_core.models.blocks.mlp import mlp
from recsys_core.models.blocks.shared import BehaviourModel
from recsys_core.models.sim import Config


class Head(nn.Module):
    """(pooled [B, P], dense [B, F], sequences' embeddings and numbers [N, D], their lengths [B]) → logits [B]."""

    def __init__(self, places: behaviours.Places, config: Config) -> None:
        """`places` say what is compared with what."""
        super().__init__()
        self.read = behaviours.Read(places)
        self.max_length: int = config.max_length
        self.num_found, self.num_heads = config.num_found, config.num_heads
        dim = len(places.target_columns)
        self.search_target = nn.Linear(dim, dim, bias=False)
        self.search_element = nn.Linear(dim, dim, bias=False)
        self.query = nn.Linear(dim, config.num_heads * dim, bias=False)
        self.key = nn.Linear(dim, config.num_heads * dim, bias=False)
        self.deep = mlp(places.num_inputs + (1 + config.num_heads) * dim, config.hidden, 1, config.dropout)

    def forward(self, pooled: Tensor, dense: Tensor, unpooled: list[Tensor], lengths: list[Tensor]) -> Tensor:
        """Return the examples' logits."""
        inputs = torch.cat([pooled, dense], dim=1)
        targets_BD, elements_ND, lengths_B = self.read(pooled, inputs, unpooled, lengths)
        elements_BTD, mask_BT = behaviours.padded(elements_ND, lengths_B, self.max_length)
        # The first stage (section 3.2): how relevant each behaviour is, and the mean of all, weighed by that.
        sought_B1D = self.search_target(targets_BD).unsqueeze(1)
        relevance_BT = (self.search_element(elements_BTD) * sought_B1D).sum(dim=2) / targets_BD.shape[1] ** 0.5
        counts_B1 = lengths_B.clamp(min=1).unsqueeze(1).to(relevance_BT.dtype)
        overall_BD = torch.bmm((relevance_BT * mask_BT / counts_B1).unsqueeze(1), elements_BTD).squeeze(1)
        # The second one, of the K most relevant (section 3.3).
        _, found_BK = relevance_BT.masked_fill(~mask_BT, -1e30).topk(self.num_found, dim=1)
        elements_BKD = elements_BTD.gather(1, found_BK.unsqueeze(2).expand(-1, -1, elements_BTD.shape[2]))
        mask_BK = mask_BT.gather(1, found_BK)
        query_BHD = self.query(targets_BD).view(targets_BD.shape[0], self.num_heads, targets_BD.shape[1])
        key = self.key(elements_BKD).view(targets_BD.shape[0], self.num_found, self.num_heads, targets_BD.shape[1])
        scores_BHK = (key.transpose(1, 2) * query_BHD.unsqueeze(2)).sum(dim=3) / targets_BD.shape[1] ** 0.5
        interests = torch.matmul(behaviours.masked_softmax(scores_BHK, mask_BK.unsqueeze(1)), elements_BKD)
        return self.deep(torch.cat([inputs, overall_BD, interests.flatten(1)], dim=1)).squeeze(1)


class Model(BehaviourModel[Config]):
    """See `BehaviourModel`."""

    def make_head(self, places: behaviours.Places, config: Config) -> nn.Module:
        """See the base class."""
        return Head(places, config)

    def layout(self) -> layout.Layout:
        """See `base.RetrievalModel.layout`."""
        head = self.head
        assert isinstance(head, Head)
        return self.of_head(layout.units("interests", (1 + head.num_heads) * head.key.in_features))
