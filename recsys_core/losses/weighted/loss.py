"""Several losses, added up. Legend: B examples."""

from collections.abc import Iterator

from torch import Tensor, nn

from recsys_core import losses
from recsys_core.artifacts.ranking import Predicts
from recsys_core.losses import base
from recsys_core.losses.weighted import Config


class Loss(base.RankingLoss):
    """The sum of each part's loss times its weight."""

    def __init__(self, config: Config) -> None:
        """Build the parts.

        Raises:
            ValueError: one does not judge labelled rows, or they learn from different labels.
        """
        super().__init__()
        self._weights = [part.weight for part in config.parts]
        self._parts = nn.ModuleList(losses.build(part.loss, base.RankingLoss) for part in config.parts)
        learned: dict[str, Predicts] = {
            part.loss.kind: own.learns for part, (_, own) in zip(config.parts, self._terms(), strict=True)
        }
        self.learns = next(iter(learned.values()))
        if len(set(learned.values())) > 1:
            raise ValueError(f"loss.parts: they learn different things of one output, {learned}; take losses of one")
        self.reads_groups = any(part.reads_groups for _, part in self._terms())

    def forward(self, logits_B: Tensor, labels_B: Tensor) -> Tensor:
        """See `base.RankingLoss.forward`."""
        found = (weight * part(logits_B, labels_B) for weight, part in self._terms())
        return sum(found, logits_B.new_zeros(len(logits_B)))

    def of_groups(self, logits_B: Tensor, labels_B: Tensor, groups_B: Tensor) -> Tensor:
        """See `base.RankingLoss.of_groups`."""
        found = (weight * part.of_groups(logits_B, labels_B, groups_B) for weight, part in self._terms())
        return sum(found, logits_B.new_zeros(len(logits_B)))

    def _terms(self) -> Iterator[tuple[float, base.RankingLoss]]:
        for weight, part in zip(self._weights, self._parts, strict=True):
            assert isinstance(part, base.RankingLoss)
            yield weight, part
