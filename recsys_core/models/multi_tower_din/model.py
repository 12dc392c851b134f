"""The modules of deep towers beside target attention.

Legend: B examples, P pooled widths, F dense fields, N elements, D width.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from recsys_core.features import TableSpec
from recsys_core.models import base
from recsys_core.models.blocks import behaviours, layout
from recsys_core.models.blocks.embeddings import Embeddings
from recsys_core.models.blocks.mlp import mlp
from recsys_core.models.blocks.target_attention import TargetAttention, of_attention
from recsys_core.models.blocks.towers import Deep, columns_of, of_towers, towers
from recsys_core.models.multi_tower_din import Config


class Attended(nn.Module):
    """One attention over some of the sequences."""

    def __init__(self, places: behaviours.Places, hidden: tuple[int, ...]) -> None:
        """`places` say what is attended to."""
        super().__init__()
        self.read = behaviours.Read(places)
        self.attention = TargetAttention(len(places.target_columns), hidden)

    def forward(self, pooled: Tensor, inputs: Tensor, unpooled: list[Tensor], lengths: list[Tensor]) -> Tensor:
        """Return each row's interest; `inputs` are [pooled, dense]."""
        targets_BD, elements_ND, lengths_B = self.read(pooled, inputs, unpooled, lengths)
        return self.attention(targets_BD, elements_ND, lengths_B)


class Head(nn.Module):
    """(pooled [B, P], dense [B, F], sequences' embeddings and numbers [N, D], their lengths [B]) → logits [B]."""

    def __init__(self, deep: list[Deep], attended: list[Attended], num_outputs: int, config: Config) -> None:
        """`num_outputs` is the sum of what all of them give."""
        super().__init__()
        self.deep = nn.ModuleList(deep)
        self.attended = nn.ModuleList(attended)
        self.top = mlp(num_outputs, config.hidden, 1, config.dropout)

    def forward(self, pooled: Tensor, dense: Tensor, unpooled: list[Tensor], lengths: list[Tensor]) -> Tensor:
        """Return the examples' logits."""
        inputs = torch.cat([pooled, dense], dim=1)
        outputs: list[Tensor] = []
        for tower in self.deep:
            outputs.append(tower(inputs))  # noqa: PERF401 - TorchScript has no comprehension over modules
        for attended in self.attended:
            outputs.append(attended(pooled, inputs, unpooled, lengths))  # noqa: PERF401
        return self.top(torch.cat(outputs, dim=1)).squeeze(1)


class Model(base.RankingModel):
    """Features of query and item alike in the deep towers; sequences through attention."""

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
            ValueError: a tower or an attention names a feature that is not there or not of its kind.
        """
        super().__init__()
        self.tables = Embeddings(tables, {"query": query.sparse, "item": item.sparse}, tables_device)
        num_dense = query.num_dense + item.num_dense
        columns = columns_of(self.tables)
        deep = towers(config.towers, columns, num_dense, config.dropout)
        numbers = (*query.numbers, *item.numbers)
        dense = (*query.dense, *item.dense)
        found = [
            behaviours.places(f"model.attention[{n}]", part, self.tables, dense, numbers)
            for n, part in enumerate(config.attention)
        ]
        attended = [Attended(one, part.hidden) for one, part in zip(found, config.attention, strict=True)]
        used = [name for part in config.attention for name in part.sequences]
        behaviours.refuse_unread("model.attention", used, self.tables, numbers)
        num_outputs = sum(tower.hidden[-1] for tower in config.towers) + sum(len(one.target_columns) for one in found)
        self.head = Head(deep, attended, num_outputs, config)
        self._config, self._dense, self._numbers = config, dense, numbers

    def layout(self) -> layout.Layout:
        """See `base.RetrievalModel.layout`."""
        head = self.head
        assert isinstance(head, Head)
        found, outputs = of_towers("head.deep", self._config.towers, head.deep, self.tables, self._dense)
        for number, (config, attended) in enumerate(zip(self._config.attention, head.attended, strict=True)):
            assert isinstance(attended, Attended)
            elements = behaviours.elements(config, self.tables, self._numbers)
            found |= of_attention(f"head.attended.{number}.attention", attended.attention, elements)
            outputs += tuple(one.model_copy(update={"label": f"{number}: {one.label}"}) for one in elements)
        return found | layout.of_mlp("head.top", head.top, outputs)
