"""Deep towers beside target attention over sequences.

Zhou et al. 2018, Deep Interest Network for Click-Through Rate Prediction (section 4.3). A sequence and its target share
a table: a history of item ids is compared with the candidate's item id. Sequences that stand element by element for the
same behaviour (its item, its category) are attended to together. Legend: B examples, P pooled widths, F dense fields,
N elements, D width.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from recsys_core.artifacts import Frozen
from recsys_core.features import TableSpec
from recsys_core.models import base
from recsys_core.models.blocks.embeddings import Embeddings
from recsys_core.models.blocks.mlp import mlp
from recsys_core.models.blocks.target_attention import TargetAttention
from recsys_core.models.blocks.towers import Deep, Tower, columns_of, refuse_unknown, towers


class Attention(Frozen):
    """Sequences (`pooling: none`, as long as each other in every row) and, in the same order, their targets."""

    sequences: tuple[str, ...] = Field(min_length=1)
    targets: tuple[str, ...] = Field(min_length=1)
    hidden: tuple[int, ...] = Field(default=(128, 64), min_length=1, description="hidden widths of the attention's MLP")


class Config(Frozen):
    """YAML section `model`."""

    kind: Literal["multi_tower_din"] = "multi_tower_din"
    towers: tuple[Tower, ...] = (Tower(hidden=(256, 128)),)
    attention: tuple[Attention, ...] = Field(min_length=1)
    hidden: tuple[int, ...] = Field(default=(64, 32), description="hidden widths of the MLP over all towers")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="of the deep towers and the MLP over them")


class Attended(nn.Module):
    """One attention over some of the sequences."""

    target_columns: Tensor

    def __init__(self, sequences: list[int], target_columns: list[int], hidden: tuple[int, ...]) -> None:
        """`sequences` are numbers of unpooled features; `target_columns` are columns of the pooled ones."""
        super().__init__()
        self.sequences = sequences
        self.register_buffer("target_columns", torch.tensor(target_columns), persistent=False)
        self.attention = TargetAttention(len(target_columns), hidden)

    def forward(self, pooled: Tensor, unpooled: list[Tensor], lengths: list[Tensor]) -> Tensor:
        """Return each row's interest."""
        chosen: list[Tensor] = []
        for number in self.sequences:
            chosen.append(unpooled[number])  # noqa: PERF401 - TorchScript has no comprehension over a module's list
        elements_ND = torch.cat(chosen, dim=1)
        return self.attention(pooled.index_select(1, self.target_columns), elements_ND, lengths[self.sequences[0]])


class Head(nn.Module):
    """(pooled [B, P], dense [B, F], sequences' embeddings [N, D], their lengths [B]) → logits [B]."""

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
            outputs.append(attended(pooled, unpooled, lengths))  # noqa: PERF401
        return self.top(torch.cat(outputs, dim=1)).squeeze(1)


class Model(base.RankingModel):
    """Features of query and item alike in the deep towers; sequences through attention."""

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
        attended = [self._attended(f"model.attention[{n}]", part, columns) for n, part in enumerate(config.attention)]
        used = {name for part in config.attention for name in part.sequences}
        if unused := [f.name for f in self.tables.unpooled_features if f.name not in used]:
            raise ValueError(
                f"feature {unused[0]!r}: pooling none, and no model.attention names it; pool it or name it"
            )
        num_outputs = sum(tower.hidden[-1] for tower in config.towers) + sum(len(a.target_columns) for a in attended)
        self.head = Head(deep, attended, num_outputs, config)

    def _attended(self, where: str, config: Attention, columns: dict[str, list[int]]) -> Attended:
        sequences = {feature.name: number for number, feature in enumerate(self.tables.unpooled_features)}
        refuse_unknown(f"{where}.sequences (pooling: none)", config.sequences, sequences)
        refuse_unknown(f"{where}.targets", config.targets, columns)
        tables = {f.name: f.table for f in (*self.tables.pooled_features, *self.tables.unpooled_features)}
        of_sequences, of_targets = ([tables[name] for name in names] for names in (config.sequences, config.targets))
        if of_sequences != of_targets:
            raise ValueError(
                f"{where}: sequences are of tables {of_sequences}, targets of {of_targets}; a sequence goes with "
                "a target of its own table, in the same order"
            )
        target_columns = [column for name in config.targets for column in columns[name]]
        return Attended([sequences[name] for name in config.sequences], target_columns, config.hidden)
