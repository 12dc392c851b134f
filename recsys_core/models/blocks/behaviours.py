"""Behaviour sequences beside what each behaviour is compared with: which columns they are, and as they are padded.

An element is the embeddings and numbers of one behaviour side by side, and the target is the candidate's own, as wide.
Legend: B rows, P pooled widths, F dense fields, N elements of all rows together, D their width, T places of a row.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from recsys_core.features import NumberFeature
from recsys_core.models.blocks import layout
from recsys_core.models.blocks.embeddings import Embeddings
from recsys_core.models.blocks.jagged import tiled
from recsys_core.models.blocks.sections import Behaviours
from recsys_core.models.blocks.towers import columns_of, refuse_unknown


class Places(NamedTuple):
    """Where sequences and targets stand.

    `sequences` are places among what is unpooled, and `target_columns` columns of [pooled, dense, 0]; `num_pooled` and
    `num_inputs` say where the dense ones begin and end.
    """

    sequences: list[int]
    target_columns: list[int]
    num_pooled: int
    num_inputs: int


class Read(nn.Module):
    """(pooled [B, P], [pooled, dense] [B, P + F], unpooled, lengths) → targets [B, D], elements [N, D], lengths [B]."""

    target_columns: Tensor

    def __init__(self, places: Places) -> None:
        """`places` say what is read."""
        super().__init__()
        self.sequences = places.sequences
        self.reads_dense: bool = max(places.target_columns) >= places.num_pooled
        self.reads_zeros: bool = max(places.target_columns) >= places.num_inputs
        self.register_buffer("target_columns", torch.tensor(places.target_columns), persistent=False)

    def forward(
        self, pooled: Tensor, inputs: Tensor, unpooled: list[Tensor], lengths: list[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return what is compared with what."""
        chosen: list[Tensor] = []
        for number in self.sequences:
            chosen.append(unpooled[number])  # noqa: PERF401 - TorchScript has no comprehension over a module's list
        targets = inputs if self.reads_dense else pooled
        if self.reads_zeros:
            targets = functional.pad(inputs, [0, 1])
        return targets.index_select(1, self.target_columns), torch.cat(chosen, dim=1), lengths[self.sequences[0]]


def padded(elements_ND: Tensor, lengths_B: Tensor, num_places: int) -> tuple[Tensor, Tensor]:
    """Return each row's elements [B, T, D], zeros behind them, and which places have one, bool [B, T]."""
    elements_BTD = tiled(elements_ND, lengths_B, num_places).view(lengths_B.shape[0], num_places, elements_ND.shape[1])
    return elements_BTD, torch.arange(num_places, device=lengths_B.device) < lengths_B.unsqueeze(1)


def places(
    where: str,
    config: Behaviours,
    tables: Embeddings,
    dense: Sequence[NumberFeature],
    numbers: Sequence[NumberFeature],
) -> Places:
    """Find the sequences and their targets among the features; the dense ones follow the pooled ones.

    Raises:
        ValueError: a sequence or a target is not there or not of its kind, or a sequence is not like its target.
    """
    of_ids, columns = tables.unpooled_features, columns_of(tables)
    found = {feature.name: place for place, feature in enumerate((*of_ids, *numbers))}
    refuse_unknown(f"{where}.sequences (pooling: none)", config.sequences, found)
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
    features = zip((*tables.pooled_features, *of_ids), (*tables.pooled_widths, *tables.unpooled_widths), strict=True)
    taken = {f.name: f"{width} columns of table {f.table!r}" for f, width in features}
    taken |= {name: f"{dim} numbers" for name, dim in (*dense, *numbers)}
    target_columns: list[int] = []
    for sequence, target in zip(config.sequences, config.targets, strict=True):
        if target is None and sequence in dims:
            target_columns += [num_inputs] * dims[sequence]
        elif target is None or taken[sequence] != taken[target]:
            other = "null" if target is None else f"{target!r} of {taken[target]}"
            raise ValueError(
                f"{where}: sequence {sequence!r} is of {taken[sequence]}, its target {other}; a sequence of ids "
                "goes with a pooled target of its own table, one of numbers with a feature of as many numbers, or "
                "null"
            )
        else:
            target_columns += targets[target]
    return Places([found[name] for name in config.sequences], target_columns, num_pooled, num_inputs)


def refuse_unread(where: str, names: Sequence[str], tables: Embeddings, numbers: Sequence[NumberFeature]) -> None:
    """Check that all that is not pooled is among the sequences `names`, which `where` names.

    Raises:
        ValueError: a sequence is read by nothing.
    """
    if unused := [f.name for f in (*tables.unpooled_features, *numbers) if f.name not in names]:
        raise ValueError(f"feature {unused[0]!r}: pooling none, and no {where} names it; pool it or name it")


def elements(config: Behaviours, tables: Embeddings, numbers: Sequence[NumberFeature]) -> layout.Axis:
    """Return what the columns of elements and of their targets stand for."""
    widths = dict(zip((f.name for f in tables.unpooled_features), tables.unpooled_widths, strict=True))
    widths |= dict(numbers)
    return tuple(
        layout.Block(
            label=f"{sequence} to {target}",
            width=widths[sequence],
            features=(sequence, *([] if target is None else [target])),
        )
        for sequence, target in zip(config.sequences, config.targets, strict=True)
    )


def masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Return the softmax over the last axis among the places of `mask`, bool; zeros elsewhere, and without any."""
    # Finite, so that a row without a place has no NaN, and gradients stay finite too.
    shares = torch.softmax(scores.masked_fill(~mask, -1e30), dim=-1)
    return shares * mask.to(scores.dtype)


def attended(query: Tensor, key: Tensor, value: Tensor, num_heads: int, mask: Tensor) -> Tensor:
    """Return each head's scaled dot-product attention [B, H, T, D / H] of [B, T, D]; `mask` [B, T]: what there is."""
    shape = (query.shape[0], query.shape[1], num_heads, query.shape[2] // num_heads)
    query_BHTD, key_BHTD = query.view(shape).transpose(1, 2), key.view(shape).transpose(1, 2)
    scores = torch.matmul(query_BHTD, key_BHTD.transpose(2, 3)) / shape[3] ** 0.5
    shares = masked_softmax(scores, mask.unsqueeze(1).unsqueeze(1))
    return torch.matmul(shares, value.view(shape).transpose(1, 2))


def refuse_undivided(kind: str, width: int, num_heads: int) -> None:
    """Check that an element's width is divided evenly among the heads.

    Raises:
        ValueError: it is not.
    """
    if width % num_heads:
        raise ValueError(
            f"model.num_heads: {num_heads} heads, and an element of model.behaviours is {width} wide, of which {kind} "
            "gives each head the same part; take a number that divides it"
        )


def of_hidden(name: str, module: nn.Module, *but: str) -> layout.Layout:
    """Return the layout of a module called `name` in its model's state, all axes its own, without the parts `but`."""
    found: layout.Layout = {}
    for key, weight in module.named_parameters():
        if key.partition(".")[0] in but:
            continue
        axes = tuple(layout.units(f"{key} axis {number}", size) for number, size in enumerate(weight.shape))
        owner = f"{name}.{key.removesuffix('bias')}weight" if key.endswith(".bias") else None
        found[f"{name}.{key}"] = layout.Weight(place=f"{name} {key}", axes=axes, of=owner)
    return found
