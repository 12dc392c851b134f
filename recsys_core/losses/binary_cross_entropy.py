"""Binary cross-entropy of logits, each example with a weight. Legend: B examples."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from recsys_core.artifacts import Frozen


class Config(Frozen):
    """YAML section `loss` of a ranking config."""

    kind: Literal["binary_cross_entropy"] = "binary_cross_entropy"


class Loss(nn.Module):
    """-y log p - (1 - y) log(1 - p) with p = sigmoid(logit), computed from the logit, so that no logit is too large."""

    def forward(self, logits_B: Tensor, labels_B: Tensor) -> Tensor:
        """Return each example's loss [B]."""
        return functional.binary_cross_entropy_with_logits(logits_B, labels_B, reduction="none")


def weighted_mean(losses_B: Tensor, weights_B: Tensor) -> Tensor:
    """Return mean(w l) / mean(w), 0 where all weights are: an example of weight 2 counts as two of weight 1."""
    return (losses_B * weights_B).sum() / weights_B.sum().clamp(min=torch.finfo(weights_B.dtype).tiny)
