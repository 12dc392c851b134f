"""What a config's model is made of: its tables, its features and its dense parts, with sizes and work. It takes torch.

Nothing is trained and no data are read. A table of a vocabulary that is still to be fitted has the rows that are known.
"""

import copy
import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from recsys_core import models
from recsys_core.artifacts import Frozen
from recsys_core.config import RankingConfig, RunConfig, limits
from recsys_core.features import Engine, Side
from recsys_core.models.base import RankingModel, RetrievalModel, SequenceModel

_ROWS = 2
_ENTRIES = 50
_SIDES: tuple[Side, Side] = ("query", "item")


class Table(Frozen):
    """An embedding table and the features that look rows up in it."""

    name: str
    num_embeddings: int
    embedding_dim: int
    dtype: str
    num_parameters: int
    num_bytes: int
    features: tuple[str, ...]


class Feature(Frozen):
    """What one feature gives the model: `width` numbers for each example, or for each entry of an unpooled sequence.

    `table` is None for numbers, `pooling` where there is nothing to pool.
    """

    name: str
    side: Side
    table: str | None
    pooling: str | None
    width: int


class Part(Frozen):
    """A part of the dense layers; `flops` are the operations of its matrix products for one example, forward.

    A multiplication and an addition are two. Training takes about three times as many. `head, itself` is what the head
    does outside of its parts, or with a part's weights in its stead.
    """

    name: str
    kind: str
    num_parameters: int
    num_bytes: int
    flops: int


class Description(Frozen):
    """A config's model. Sequences that are not pooled count with `entries` entries, or as many as a feature keeps."""

    name: str
    model: str
    tables: tuple[Table, ...]
    features: tuple[Feature, ...]
    parts: tuple[Part, ...]
    entries: int | None

    @property
    def num_parameters(self) -> int:
        """Those of tables and dense layers."""
        return sum(one.num_parameters for one in (*self.tables, *self.parts))

    @property
    def num_bytes(self) -> int:
        """The memory of all weights."""
        return sum(one.num_bytes for one in (*self.tables, *self.parts))

    @property
    def flops(self) -> int:
        """Those of all dense parts."""
        return sum(part.flops for part in self.parts)


def describe(config: RunConfig | RankingConfig) -> Description:
    """Build the model, its tables without memory, and count.

    Raises:
        ValueError: the model does not take the features.
    """
    engine = Engine.build(config.features)
    if isinstance(config, RankingConfig):
        model = models.build(config.model, engine, RankingModel, tables_device="meta")
    else:
        model = models.build(config.model, engine, RetrievalModel, tables_device="meta")
    return Description(
        name=config.name,
        model=config.model.kind,
        tables=tuple(_tables(engine)),
        features=tuple(_features(model, engine)),
        parts=parts_of(model, engine),
        entries=_ENTRIES if model.tables.unpooled_features or _numbers(engine) else None,
    )


def parts_of(model: RankingModel | RetrievalModel, engine: Engine, entries: int = _ENTRIES) -> tuple[Part, ...]:
    """Return the parts of a model's dense layers, which are on the CPU; see `Description` of `entries`."""
    found: list[Part] = []
    for name, given in _inputs(model, engine, entries).items():
        found += _parts(name, model.get_submodule(name), given)
    return tuple(found)


def _tables(engine: Engine) -> Iterator[Table]:
    for table in engine.tables:
        yield Table(
            name=table.name,
            num_embeddings=table.num_embeddings,
            embedding_dim=table.embedding_dim,
            dtype=table.dtype,
            num_parameters=table.num_embeddings * table.embedding_dim,
            num_bytes=limits.tables_bytes([table]),
            features=tuple(name for name, _ in table.features),
        )


def _features(model: RankingModel | RetrievalModel, engine: Engine) -> Iterator[Feature]:
    tables = model.tables
    pooled = {feature.name: width for feature, width in zip(tables.pooled_features, tables.pooled_widths, strict=True)}
    unpooled = zip(tables.unpooled_features, tables.unpooled_widths, strict=True)
    widths = pooled | {feature.name: width for feature, width in unpooled}
    for side in _SIDES:
        for one in engine.sparse_features(side):
            yield Feature(name=one.name, side=side, table=one.table, pooling=one.pooling, width=widths[one.name])
        for one in engine.dense_features(side):
            yield Feature(name=one.name, side=side, table=None, pooling=None, width=one.dim)
        for one in engine.number_sequences(side):
            yield Feature(name=one.name, side=side, table=None, pooling="none", width=one.dim)


def _numbers(engine: Engine) -> list[tuple[str, int]]:
    return [(one.name, one.dim) for side in _SIDES for one in engine.number_sequences(side)]


def _inputs(model: RankingModel | RetrievalModel, engine: Engine, entries: int) -> dict[str, tuple[object, ...]]:
    """Return what each dense part is called with, by its name in the model: examples of zeros, float64."""
    tables = model.tables
    kept = {f.config.name: getattr(f.config, "max_length", None) for own in engine.features.values() for f in own}
    unpooled = zip(tables.unpooled_features, tables.unpooled_widths, strict=True)
    sequences = [*((feature.name, width) for feature, width in unpooled), *_numbers(engine)]
    counts = [min(kept.get(name) or entries, entries) for name, _ in sequences]
    values = [_zeros(_ROWS * count, width) for (_, width), count in zip(sequences, counts, strict=True)]
    lengths = [torch.full((_ROWS,), count) for count in counts]
    dense = {side: engine.dense_dim(side) for side in _SIDES}
    if isinstance(model, RankingModel):
        return {"head": (_zeros(_ROWS, sum(tables.pooled_widths)), _zeros(_ROWS, sum(dense.values())), values, lengths)}
    found: dict[str, tuple[object, ...]] = {}
    for side, pooled in zip(_SIDES, tables.pooled, strict=True):
        read = values, lengths
        whole = isinstance(model, SequenceModel) and side == "query"
        found[side] = (_zeros(_ROWS, sum(pooled.widths)), _zeros(_ROWS, dense[side]), *(read if whole else ()))
    return found


def _zeros(*shape: int) -> Tensor:
    return torch.zeros(*shape, dtype=torch.float64)


def _parts(name: str, module: nn.Module, inputs: tuple[object, ...]) -> list[Part]:
    """Return the parts of one dense module, one for each of its children that has weights.

    It runs in float64, of which no operator of our own takes the place of those that are counted.
    """
    runs = copy.deepcopy(module).double().eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        runs(*inputs)
    counted = counter.get_flop_counts()
    root = type(runs).__name__
    total = counter.get_total_flops()
    found: list[Part] = []
    for child_name, child in module.named_children():
        if any(True for _ in child.parameters()):
            flops = _counted(f"{root}.{child_name}", child, counted)
            found.append(_part(f"{name}.{child_name}", type(child).__name__, child.parameters(), flops))
    own = [weight for _, weight in module.named_parameters(recurse=False)]
    rest = total - sum(part.flops for part in found) * _ROWS
    if own or rest or not found:
        found.append(_part(f"{name}, itself", type(module).__name__, own, rest))
    return found


def _counted(name: str, module: nn.Module, counted: dict[str, dict[object, int]]) -> int:
    """Return what was counted in a module; a list or dict of modules is not called itself."""
    if name in counted:
        return sum(counted[name].values())
    return sum(_counted(f"{name}.{child_name}", child, counted) for child_name, child in module.named_children())


def _part(name: str, kind: str, weights: Iterable[Tensor], flops: int) -> Part:
    sizes = [(weight.numel(), weight.element_size()) for weight in weights]
    return Part(
        name=name,
        kind=kind,
        num_parameters=sum(count for count, _ in sizes),
        num_bytes=sum(math.prod(size) for size in sizes),
        flops=flops // _ROWS,
    )


def mermaid(found: Description) -> str:
    """Return a flow chart in Mermaid: features, the tables that they are looked up in, dense parts, outputs."""
    lines = ["flowchart LR"]
    for number, table in enumerate(found.tables):
        lines.append(f'  t{number}[("{table.name}<br/>{table.num_embeddings:,} x {table.embedding_dim}")]')
    places = {table.name: number for number, table in enumerate(found.tables)}
    targets: dict[str, list[str]] = {}
    for number, part in enumerate(found.parts):
        node = f'    p{number}["{part.name}<br/>{part.num_parameters:,} weights"]'
        targets.setdefault(part.name.partition(".")[0].partition(",")[0], []).append(node)
    for target, nodes in targets.items():
        lines += [f"  subgraph {target}", *nodes, "  end"]
    edges: list[str] = []
    for number, feature in enumerate(found.features):
        lines.append(f'  f{number}(["{feature.name}"])')
        target = "head" if "head" in targets else feature.side
        if feature.table is None:
            edges.append(f"  f{number} --> {target}")
        else:
            edges += [f"  f{number} --> t{places[feature.table]}", f"  t{places[feature.table]} --> {target}"]
    return "\n".join([*lines, *dict.fromkeys(edges)]) + "\n"
