"""The modules of deep towers beside target attention.

Legend: B examples, P pooled widths, F dense fields, N elements, D width.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from recsys_core.features import NumberFeature, TableSpec
from recsys_core.models import base
from recsys_core.models.blocks import layout
from recsys_core.models.blocks.embeddings import Embeddings
from recsys_core.models.blocks.mlp import mlp
from recsys_core.models.blocks.target_attention import TargetAttention, of_attention
from recsys_core.models.blocks.towers import Deep, columns_of, of_towers, refuse_unknown, towers
from recsys_core.models.multi_tower_din import Attention, Config


class Attended(nn.Module):
    """One attention over some of the sequences."""

    target_columns: Tensor

    def __init__(
        self,
        sequences: list[int],
        target_columns: list[int],
        num_pooled: int,
        num_inputs: int,
        hidden: tuple[int, ...],
    ) -> None:
        """`sequences` are places among what is unpooled; `target_columns` are columns of [pooled, dense, 0].

        `num_pooled` and `num_inputs` say where the dense ones begin and end.
        """
        super().__init__()
        self.sequences = sequences
        self.reads_dense: bool = max(target_columns) >= num_pooled
        self.reads_zeros: bool = max(target_columns) >= num_inputs
        self.register_buffer("target_columns", torch.tensor(target_columns), persistent=False)
        self.attention = TargetAttention(len(target_columns), hidden)

    def forward(self, pooled: Tensor, inputs: Tensor, unpooled: list[Tensor], lengths: list[Tensor]) -> Tensor:
        """Return each row's interest; `inputs` are [pooled, dense]."""
        chosen: list[Tensor] = []
        for number in self.sequences:
            chosen.append(unpooled[number])  # noqa: PERF401 - TorchScript has no comprehension over a module's list
        elements_ND = torch.cat(chosen, dim=1)
        targets = inputs if self.reads_dense else pooled
        if self.reads_zeros:
            targets = functional.pad(inputs, [0, 1])
        return self.attention(targets.index_select(1, self.target_columns), elements_ND, lengths[self.sequences[0]])


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
        attended = [
            self._attended(f"model.attention[{n}]", part, columns, dense, numbers)
            for n, part in enumerate(config.attention)
        ]
        used = {name for part in config.attention for name in part.sequences}
        if unused := [f.name for f in (*self.tables.unpooled_features, *numbers) if f.name not in used]:
            raise ValueError(
                f"feature {unused[0]!r}: pooling none, and no model.attention names it; pool it or name it"
            )
        num_outputs = sum(tower.hidden[-1] for tower in config.towers) + sum(len(a.target_columns) for a in attended)
        self.head = Head(deep, attended, num_outputs, config)
        self._config, self._dense, self._numbers = config, dense, numbers

    def layout(self) -> layout.Layout:
        """See `base.RetrievalModel.layout`."""
        head = self.head
        assert isinstance(head, Head)
        found, outputs = of_towers("head.deep", self._config.towers, head.deep, self.tables, self._dense)
        widths = dict(zip((f.name for f in self.tables.unpooled_features), self.tables.unpooled_widths, strict=True))
        widths |= dict(self._numbers)
        for number, (config, attended) in enumerate(zip(self._config.attention, head.attended, strict=True)):
            assert isinstance(attended, Attended)
            elements = tuple(
                layout.Block(
                    label=f"{sequence} to {target}",
                    width=widths[sequence],
                    features=(sequence, *([] if target is None else [target])),
                )
                for sequence, target in zip(config.sequences, config.targets, strict=True)
            )
            found |= of_attention(f"head.attended.{number}.attention", attended.attention, elements)
            outputs += tuple(one.model_copy(update={"label": f"{number}: {one.label}"}) for one in elements)
        return found | layout.of_mlp("head.top", head.top, outputs)

    def _attended(
        self,
        where: str,
        config: Attention,
        columns: dict[str, list[int]],
        dense: tuple[NumberFeature, ...],
        numbers: tuple[NumberFeature, ...],
    ) -> Attended:
        """Build one attention; `columns` are those of the pooled features, the `dense` ones follow them."""
        of_ids = self.tables.unpooled_features
        places = {feature.name: place for place, feature in enumerate((*of_ids, *numbers))}
        refuse_unknown(f"{where}.sequences (pooling: none)", config.sequences, places)
        num_pooled = num_inputs = sum(map(len, columns.values()))
        targets = dict(columns)
        for name, dim in dense:
            targets[name] = list(range(num_inputs, num_inputs + dim))
            num_inputs += dim
        refuse_unknown(f"{where}.targets", [name for name in config.targets if name is not None], targets)
        if len(config.sequences) != len(config.targets):
            raise ValueError(
                f"{where}: {len(config.sequences)} sequences and {len(config.targets)} targets; name each sequence's "
                "target, in the same order (null for a sequence of numbers that is compared with none)"
            )
        # What a sequence and its target have to agree on.
        dims = dict(numbers)
        widths = (*self.tables.pooled_widths, *self.tables.unpooled_widths)
        features = zip((*self.tables.pooled_features, *of_ids), widths, strict=True)
        taken = {f.name: f"{width} columns of table {f.table!r}" for f, width in features}
        taken |= {name: f"{dim} numbers" for name, dim in (*dense, *numbers)}
        target_columns: list[int] = []
        for sequence, target in zip(config.sequences, config.targets, strict=True):
            if target is None and sequence in dims:
                target_columns += [num_inputs] * dims[sequence]
            elif target is None or taken[sequence] != taken[target]:
                found = "null" if target is None else f"{target!r} of {taken[target]}"
                raise ValueError(
                    f"{where}: sequence {sequence!r} is of {taken[sequence]}, its target {found}; a sequence of ids "
                    "goes with a pooled target of its own table, one of numbers with a feature of as many numbers, or "
                    "null"
                )
            else:
                target_columns += targets[target]
        sequences = [places[name] for name in config.sequences]
        return Attended(sequences, target_columns, num_pooled, num_inputs, config.hidden)
