"""Deep towers over chosen columns of the pooled features and the dense fields, as several models have them.

Legend: B examples, P pooled widths, F dense fields.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from recsys_core.features import NumberFeature
from recsys_core.models.blocks import layout
from recsys_core.models.blocks.embeddings import Embeddings
from recsys_core.models.blocks.mlp import mlp
from recsys_core.models.blocks.sections import Tower


class Deep(nn.Module):
    """Columns of [pooled, dense] through an MLP that ends in a ReLU."""

    columns: Tensor

    def __init__(self, columns: list[int], every: int, config: Tower, dropout: float) -> None:
        """`columns` of the `every` that there are."""
        super().__init__()
        self.reads_all: bool = columns == list(range(every))
        self.register_buffer("columns", torch.tensor(columns), persistent=False)
        *hidden, last = config.hidden
        self.layers = nn.Sequential(mlp(len(columns), hidden, last, dropout), nn.ReLU())

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the tower's output of each row."""
        return self.layers(inputs if self.reads_all else inputs.index_select(1, self.columns))


def columns_of(tables: Embeddings) -> dict[str, list[int]]:
    """Return the columns of [B, P] that each pooled feature has."""
    columns: dict[str, list[int]] = {}
    start = 0
    for feature, width in zip(tables.pooled_features, tables.pooled_widths, strict=True):
        columns[feature.name] = list(range(start, start + width))
        start += width
    return columns


def towers(configs: Sequence[Tower], columns: dict[str, list[int]], num_dense: int, dropout: float) -> list[Deep]:
    """Build the towers over [pooled, dense]; `columns` are the pooled features' ones.

    Raises:
        ValueError: one names a feature that is not there, or reads nothing.
    """
    num_pooled = sum(map(len, columns.values()))
    dense = list(range(num_pooled, num_pooled + num_dense))
    built: list[Deep] = []
    for number, tower in enumerate(configs):
        names = list(columns) if tower.features is None else list(tower.features)
        refuse_unknown(f"model.towers[{number}].features", names, columns)
        read = [column for name in names for column in columns[name]] + (dense if tower.dense else [])
        if not read:
            raise ValueError(f"model.towers[{number}]: reads no feature and no dense field; name a feature")
        built.append(Deep(read, num_pooled + num_dense, tower, dropout))
    return built


def of_towers(
    name: str,
    configs: Sequence[Tower],
    deep: Iterable[nn.Module],
    tables: Embeddings,
    dense: Sequence[NumberFeature],
) -> tuple[layout.Layout, layout.Axis]:
    """Return the layout of the towers `deep`, a list called `name` in its model, and that of their outputs."""
    pooled, numbers = layout.pooled(tables.pooled_features, tables.pooled_widths), layout.numbers(dense)
    found: layout.Layout = {}
    outputs: layout.Axis = ()
    for number, (config, tower) in enumerate(zip(configs, deep, strict=True)):
        assert isinstance(tower, Deep)
        inputs = pooled if config.features is None else layout.chosen(pooled, config.features)
        inputs += numbers if config.dense else ()
        found |= layout.of_mlp(f"{name}.{number}.layers.0", tower.layers[0], inputs)
        outputs += layout.units(f"tower {number}", config.hidden[-1])
    return found, outputs


def refuse_unknown(
    where: str, names: "tuple[str, ...] | list[str]", known: "dict[str, list[int]] | dict[str, int]"
) -> None:
    """Check that every one of `names` is among the features `known`.

    Raises:
        ValueError: one is not; lists those there are.
    """
    for name in names:
        if name not in known:
            raise ValueError(
                f"{where}: there is no feature {name!r} of that kind (there are: {', '.join(known) or 'none'})"
            )
