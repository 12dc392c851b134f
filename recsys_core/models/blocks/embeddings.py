"""Looks up the features of a batch: pooled ones side by side, unpooled ones as jagged rows.

A table of which a feature is not summed (pooling none, max or tile) lies in an `EmbeddingCollection`, and its features
are pooled here, so that a click history and the item it is compared with share one table. All other tables lie in an
`EmbeddingBagCollection`. Bags only sum, with weights where a feature has them; a mean is divided here, by the rows' own
lengths or the sums of their weights (TorchRec's row-wise sharding gets the mean of rows with several ids wrong on
CPUs). Legend: B examples, S ≥ B rows of the jagged tensor, K features, P pooled widths, N ids of all rows together,
D embedding.
"""

from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchrec import (
    DataType,
    EmbeddingBagCollection,
    EmbeddingBagConfig,
    EmbeddingCollection,
    EmbeddingConfig,
    JaggedTensor,
    KeyedJaggedTensor,
    KeyedTensor,
    PoolingType,
)

from recsys_core.features import SparseFeature, TableSpec
from recsys_core.models.blocks.jagged import segment_max, segment_sum, tiled
from recsys_core.ops.regroup import regroup

DTYPES = {"float32": DataType.FP32, "float16": DataType.FP16, "bfloat16": DataType.BF16}


class Found(NamedTuple):
    """`pooled_BP` in the order of the tables' `pooled`; the lists in the order of `unpooled_features`."""

    pooled_BP: Tensor
    unpooled_ND: list[Tensor]
    lengths_B: list[Tensor]


class Pooled(NamedTuple):
    """Features whose pooled embeddings stand side by side, [B, P]: those of the bags first, then the others."""

    bagged: tuple[SparseFeature, ...]
    others: tuple[SparseFeature, ...]
    widths: tuple[int, ...]

    @property
    def features(self) -> tuple[SparseFeature, ...]:
        """All of them, in the order of their columns, of which each has as many as `widths` says."""
        return (*self.bagged, *self.others)


class Embeddings(nn.Module):
    """The tables of a model.

    Attributes:
        pooled: the pooled features, all together or, with `apart`, of each side.
        unpooled_features: in the order of `Found.unpooled_ND`.
        unpooled_widths: D of each of them.
        bags: the collection of the tables that are pooled only; None if there is none.
        rows: collections of the other tables; one for each width, as TorchRec wants it.
    """

    bags: EmbeddingBagCollection | None
    rows: nn.ModuleList

    def __init__(
        self,
        tables: tuple[TableSpec, ...],
        features: dict[str, tuple[SparseFeature, ...]],
        device: torch.device,
        *,
        apart: bool = False,
    ) -> None:
        """`features` by side; those of side `query` are found in a batch under `query.<name>`.

        Raises:
            ValueError: no feature is pooled; every model reads at least one. With `apart` a side without one has a
                sequence that is not pooled.
        """
        super().__init__()
        keys = {feature.name: f"{side}.{feature.name}" for side, own in features.items() for feature in own}
        every = [feature for own in features.values() for feature in own]
        widths = {table.name: table.embedding_dim for table in tables}
        # Torch's own bags weigh embeddings of float32 only.
        narrow = {table.name for table in tables if table.dtype != "float32"}
        in_rows = {f.table for f in every if f.pooling not in ("mean", "sum") or (f.weighted and f.table in narrow)}

        def users(table: TableSpec) -> list[str]:
            return [keys[feature.name] for feature in every if feature.table == table.name]

        in_bags = [table for table in tables if table.name not in in_rows]
        bagged = [f for table in in_bags for f in every if f.table == table.name]
        self._weighted_bags = any(feature.weighted for feature in bagged)
        self.bags = (
            EmbeddingBagCollection(
                device=device,
                is_weighted=self._weighted_bags,
                tables=[
                    EmbeddingBagConfig(
                        name=table.name,
                        num_embeddings=table.num_embeddings,
                        embedding_dim=table.embedding_dim,
                        feature_names=users(table),
                        pooling=PoolingType.SUM,
                        data_type=DTYPES[table.dtype],
                    )
                    for table in in_bags
                ],
            )
            if in_bags
            else None
        )
        self.rows = nn.ModuleList(
            EmbeddingCollection(
                device=device,
                tables=[
                    EmbeddingConfig(
                        name=table.name,
                        num_embeddings=table.num_embeddings,
                        embedding_dim=width,
                        feature_names=users(table),
                        data_type=DTYPES[table.dtype],
                    )
                    for table in tables
                    if table.name in in_rows and table.embedding_dim == width
                ],
            )
            for width in sorted({widths[name] for name in in_rows})
        )
        as_declared(self, tables)
        others = [f for f in every if f.table in in_rows and f.pooling != "none"]
        # All together stand in the order in which a collection of bags gives them, so that nothing has to be moved.
        groups = {"": (bagged, others)}
        if apart:
            groups = {
                f".{side}": ([f for f in own if f in bagged], [f for f in own if f in others])
                for side, own in features.items()
            }
        for place, group in groups.items():
            if not any(group) and not (apart and any(f.pooling == "none" for f in features[place[1:]])):
                raise ValueError(
                    f"features{place}: none of ids that is pooled, and a model needs one; name a feature of kind id"
                )
        self.pooled = tuple(
            Pooled(tuple(own), tuple(rest), tuple(widths[f.table] * max(f.tile_length, 1) for f in (*own, *rest)))
            for own, rest in groups.values()
        )
        self.unpooled_features = tuple(feature for feature in every if feature.pooling == "none")
        self.unpooled_widths = [widths[feature.table] for feature in self.unpooled_features]
        self._keys = keys
        self._sent: deque[tuple[KeyedJaggedTensor, list[Any]]] = deque()

    @property
    def pooled_features(self) -> tuple[SparseFeature, ...]:
        """The pooled features, in the order of their columns."""
        return tuple(feature for group in self.pooled for feature in group.features)

    @property
    def pooled_widths(self) -> tuple[int, ...]:
        """How many columns each of them has."""
        return tuple(width for group in self.pooled for width in group.widths)

    def require_pooled(self, kind: str) -> None:
        """Refuse sequences that are not pooled, which a model of this `kind` does not read.

        Raises:
            ValueError: names the first one.
        """
        if self.unpooled_features:
            raise ValueError(
                f"feature {self.unpooled_features[0].name!r}: pooling none, and {kind} reads pooled features; pool it "
                "(mean, sum, max, tile), or use a model that attends to sequences, such as multi_tower_din"
            )

    def forward(self, sparse: KeyedJaggedTensor, num_examples: int) -> Found:
        """Look up the first `num_examples` rows of `sparse`, which may have empty ones after them."""
        bags, rows = self._looked_up(sparse)
        (pooled_BP,) = self._all_pooled(bags, rows, sparse, [num_examples])
        return Found(pooled_BP, *self._unpooled(rows, sparse, num_examples))

    def by_side(self, sparse: KeyedJaggedTensor, counts: Sequence[int]) -> list[Tensor]:
        """Return each side's pooled features apart, [count, P] of its first `count` rows."""
        return self._all_pooled(*self._looked_up(sparse), sparse, counts)

    def by_side_and_row(self, sparse: KeyedJaggedTensor, counts: Sequence[int]) -> tuple[list[Tensor], Found]:
        """Return what `by_side` does, and the first side's features with what of it is not pooled."""
        bags, rows = self._looked_up(sparse)
        pooled = self._all_pooled(bags, rows, sparse, counts)
        return pooled, Found(pooled[0], *self._unpooled(rows, sparse, counts[0]))

    def send(self, sparse: KeyedJaggedTensor) -> None:
        """Start to send the ids to the ranks that have their rows; the look-up of this `sparse` will find them there.

        That is the first step of what TorchRec's sharded collections do, and waits for nothing. Look-ups of what was
        sent come in the same order; those of anything else may come between.
        """
        sent: list[Any] = []
        for collection, ids in self._asked(sparse):
            context = collection.create_context()
            sent.append((collection, context, collection.input_dist(context, ids)))
        self._sent.append((sparse, sent))

    def forget(self) -> None:
        """Drop what was sent and has not been looked up; it never will be. Every rank has sent as much."""
        self._sent.clear()

    def _asked(self, sparse: KeyedJaggedTensor) -> list[tuple[Any, KeyedJaggedTensor]]:
        """Return each collection with the ids that it is asked for, the bags first."""
        plain = sparse if sparse.weights_or_none() is None else _without_weights(sparse)
        bags = [] if self.bags is None else [(self.bags, sparse if self._weighted_bags else plain)]
        return [*bags, *((collection, plain) for collection in self.rows)]

    def _looked_up(self, sparse: KeyedJaggedTensor) -> tuple[KeyedTensor | None, dict[str, JaggedTensor]]:
        if self._sent and self._sent[0][0] is sparse:
            _, sent = self._sent.popleft()
            found = [
                collection.compute_and_output_dist(context, ids.wait().wait()) for collection, context, ids in sent
            ]
        else:
            found = [collection(ids) for collection, ids in self._asked(sparse)]
        bags = found.pop(0) if self.bags is not None else None
        rows: dict[str, JaggedTensor] = {}
        for of_collection in found:
            rows |= {key: of_collection[key] for key in of_collection.keys()}  # noqa: SIM118 - it may be an awaitable
        return bags, rows

    def _all_pooled(
        self,
        bags: KeyedTensor | None,
        rows: dict[str, JaggedTensor],
        sparse: KeyedJaggedTensor,
        counts: Sequence[int],
    ) -> list[Tensor]:
        """Return [count, P] of each of the groups `pooled`."""
        summed: list[Tensor] = []
        if bags is not None:
            orders = [[self._keys[feature.name] for feature in group.bagged] for group in self.pooled if group.bagged]
            if orders == [bags.keys()]:
                summed = [bags.values()]
            elif bags.values().device.type == "cpu":
                summed = regroup(bags.values(), bags.keys(), bags.length_per_key(), orders)
            else:
                summed = KeyedTensor.regroup([bags], orders)
        of_group = iter(summed)
        found: list[Tensor] = []
        for group, count in zip(self.pooled, counts, strict=True):
            parts: list[Tensor] = []
            if group.bagged:
                parts.append(self._averaged(_first(next(of_group), count).float(), sparse, group))
            parts += [self._pooled(feature, rows, sparse, count) for feature in group.others]
            if not parts:
                parts.append(torch.zeros(count, 0, device=sparse.device()))
            found.append(torch.cat(parts, dim=1) if len(parts) > 1 else parts[0])
        return found

    def _unpooled(
        self, rows: dict[str, JaggedTensor], sparse: KeyedJaggedTensor, num_rows: int
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return the embeddings and the lengths of what is not pooled, which is of the first `num_rows` rows."""
        return (
            [self._values(feature, rows, sparse) for feature in self.unpooled_features],
            [_first(rows[self._keys[feature.name]].lengths(), num_rows) for feature in self.unpooled_features],
        )

    def _values(self, feature: SparseFeature, rows: dict[str, JaggedTensor], sparse: KeyedJaggedTensor) -> Tensor:
        """Return the feature's embeddings [N, D], times their weights."""
        key = self._keys[feature.name]
        values_ND = rows[key].values().float()
        return values_ND * sparse[key].weights().unsqueeze(1) if feature.weighted else values_ND

    def _pooled(
        self, feature: SparseFeature, rows: dict[str, JaggedTensor], sparse: KeyedJaggedTensor, num_examples: int
    ) -> Tensor:
        """Pool what a collection of rows has looked up."""
        lengths_B = _first(rows[self._keys[feature.name]].lengths(), num_examples)
        weights = sparse[self._keys[feature.name]].weights() if feature.weighted else None
        return pool(self._values(feature, rows, sparse), lengths_B, feature.pooling, feature.tile_length, weights)

    def _averaged(self, summed_BP: Tensor, sparse: KeyedJaggedTensor, group: Pooled) -> Tensor:
        """Divide the columns of the bagged features that pool by mean by how many ids, or what weight, each row has."""
        means = [feature.pooling == "mean" for feature in group.bagged]
        # A mean of one is a sum. To look is free only where the lengths lie in this process's memory.
        looks = summed_BP.device.type == "cpu"
        if looks and not self._weighted_bags and not (sparse.lengths() > 1).any():
            return summed_BP
        keys = sparse.keys()
        lengths_KS = sparse.lengths().view(len(keys), -1)[[keys.index(self._keys[f.name]) for f in group.bagged]]
        counts_KB = _first(lengths_KS.T, len(summed_BP)).T.clamp(min=1)
        counts_KB[[not mean for mean in means]] = 1
        if self._weighted_bags:
            counts_KB = counts_KB.to(summed_BP.dtype)
            for number, feature in enumerate(group.bagged):
                if feature.weighted and feature.pooling == "mean":
                    jagged = sparse[self._keys[feature.name]]
                    counts_KB[number] = total_weights(jagged.weights(), _first(jagged.lengths(), len(summed_BP)))
        if looks and (counts_KB == 1).all():
            return summed_BP
        widths = torch.tensor(group.widths[: len(group.bagged)], device=summed_BP.device)
        return summed_BP * counts_KB.T.to(summed_BP.dtype).reciprocal().repeat_interleave(widths, dim=1)


def as_declared(module: nn.Module, tables: tuple[TableSpec, ...]) -> None:
    """Give the weights of `module`'s bfloat16 tables that type: TorchRec makes them float16 until they are sharded."""
    wide = {table.name for table in tables if table.dtype == "bfloat16"}
    for name, part in module.named_modules():
        if name.rpartition(".")[2] in wide and isinstance(part, nn.Embedding | nn.EmbeddingBag):
            part.to(torch.bfloat16)


def pool(values_ND: Tensor, lengths_B: Tensor, pooling: str, tile_length: int, weights_N: Tensor | None) -> Tensor:
    """Return what `pooling` makes of each row's embeddings, [B, D] or of a tile [B, tile_length * D].

    The embeddings have been multiplied by their weights already; a mean is divided by the sum of these.
    """
    if pooling == "tile":
        return tiled(values_ND, lengths_B, tile_length)
    if pooling == "max":
        return segment_max(values_ND, lengths_B)
    summed_BD = segment_sum(values_ND, lengths_B)
    if pooling == "sum":
        return summed_BD
    counts_B = lengths_B.clamp(min=1) if weights_N is None else total_weights(weights_N, lengths_B)
    return summed_BD / counts_B.unsqueeze(1)


def total_weights(weights_N: Tensor, lengths_B: Tensor) -> Tensor:
    """Return the sum of each row's weights, 1 where that is 0."""
    total_B = segment_sum(weights_N.unsqueeze(1), lengths_B).squeeze(1)
    return torch.where(total_B == 0, torch.ones_like(total_B), total_B)


def _without_weights(sparse: KeyedJaggedTensor) -> KeyedJaggedTensor:
    return KeyedJaggedTensor(
        keys=sparse.keys(), values=sparse.values(), lengths=sparse.lengths(), stride=sparse.stride()
    )


def _first(rows: Tensor, count: int) -> Tensor:
    """Return the first `count` rows; the gradient of a slice that is everything would be copied for nothing."""
    return rows if len(rows) == count else rows[:count]
