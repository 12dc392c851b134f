"""What a training step gets: encoded rows of queries and of items, or labelled rows that have both, as tensors.

Legend: B queries, M items (the positives, then the N negatives), S ≥ B, M rows of the jagged tensor, F dense fields, T
targets.

One KeyedJaggedTensor carries both towers, so that one sharded collection serves tables that both use. Its features all
have S rows, as many on every rank (row-wise sharding needs that); rows that a feature does not have are empty.

    row       0     1    …   B-1  |  B     …   M-1  |  …  S-1
    query.*   q0    q1       qB-1 |  -          -   |      -
    item.*    p0    p1       pB-1 |  n0        nN-1 |      -
"""

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, Self, TypeVar

import numpy as np
import torch
from torch import Tensor
from torchrec import KeyedJaggedTensor

from recsys_core.features import Encoded
from recsys_core.features.columns.flat import ones


class Targets(NamedTuple):
    """What is to be found behind which entries, of queries that are whole sequences; int64 [T] each.

    Target t is item `item_T[t]` of M, and is to be found with the first `known_T[t]` entries of row `row_T[t]`.
    """

    row_T: Tensor
    known_T: Tensor
    item_T: Tensor


@dataclass(frozen=True)
class Batch:
    """`item_rows_M` are rows of the item table; `global_rows` is the sum of B over all ranks.

    Without `targets` the first B items are the queries' positives, and else distinct ones of them; negatives follow.
    """

    sparse: KeyedJaggedTensor
    query_dense_BF: Tensor
    item_dense_MF: Tensor
    item_rows_M: Tensor
    global_rows: int
    targets: Targets | None = None

    @classmethod
    def build(
        cls,
        query: Encoded,
        items: Encoded,
        item_rows: np.ndarray,
        *,
        num_rows: int,
        global_rows: int,
        targets: Targets | None = None,
    ) -> "Batch":
        """Join B encoded queries with M encoded items; S is `num_rows`."""
        return cls(
            sparse=jagged(query, items, num_rows),
            query_dense_BF=torch.from_numpy(query.dense),
            item_dense_MF=torch.from_numpy(items.dense),
            item_rows_M=torch.from_numpy(item_rows),
            global_rows=global_rows,
            targets=targets,
        )

    def each(self, copied: Callable[[Any], Any]) -> "Batch":
        """Return the batch with what `copied` makes of each tensor and of the jagged one."""
        return Batch(
            sparse=copied(self.sparse),
            query_dense_BF=copied(self.query_dense_BF),
            item_dense_MF=copied(self.item_dense_MF),
            item_rows_M=copied(self.item_rows_M),
            global_rows=self.global_rows,
            targets=self.targets if self.targets is None else Targets(*map(copied, self.targets)),
        )


class Numbers(NamedTuple):
    """A sequence of numbers: `values_ND` of all rows together, row after row, and how many entries each row has."""

    values_ND: Tensor
    lengths_B: Tensor


@dataclass(frozen=True)
class LabelledBatch:
    """B labelled rows, each with features of a query and of an item.

    `labels` are each task's [B], `weights` likewise, 0 for rows that are none of the task's, None where rows count
    alike. `dense_BF` has the query's fields first; `global_rows` is the sum of B over all ranks; `numbers` are the
    sequences of numbers, the query's first; `groups_B` are numbers of the rows' groups, int64, where they are read.
    """

    sparse: KeyedJaggedTensor
    dense_BF: Tensor
    labels: dict[str, Tensor]
    weights: dict[str, Tensor | None]
    global_rows: int
    numbers: tuple[Numbers, ...] = ()
    groups_B: Tensor | None = None

    def each(self, copied: Callable[[Any], Any]) -> "LabelledBatch":
        """Return the batch with what `copied` makes of each tensor and of the jagged one."""
        return LabelledBatch(
            sparse=copied(self.sparse),
            dense_BF=copied(self.dense_BF),
            labels={task: copied(labels_B) for task, labels_B in self.labels.items()},
            weights={
                task: weights_B if weights_B is None else copied(weights_B) for task, weights_B in self.weights.items()
            },
            global_rows=self.global_rows,
            numbers=tuple(Numbers(*map(copied, one)) for one in self.numbers),
            groups_B=self.groups_B if self.groups_B is None else copied(self.groups_B),
        )


class AnyBatch(Protocol):
    """What training needs of a batch: ids to send ahead, tensors to move to the device, and rows to count."""

    @property
    def sparse(self) -> KeyedJaggedTensor:
        """The ids, as many rows on every rank."""
        ...

    @property
    def global_rows(self) -> int:
        """The rows of all ranks together."""
        ...

    def each(self, copied: Callable[[Any], Any]) -> Self:
        """Return the batch with what `copied` makes of each tensor and of the jagged one."""
        ...


B = TypeVar("B", bound=AnyBatch)


def pinned(batch: B) -> B:
    """Return the batch in memory that the kernel never moves, which a GPU copies from while the host goes on."""
    return batch.each(lambda tensor: tensor.pin_memory())


def moved(batch: B, device: torch.device) -> B:
    """Return the batch on `device`. The copies of a pinned one are asynchronous."""
    return batch if device.type == "cpu" else batch.each(lambda tensor: tensor.to(device, non_blocking=True))


def dense(query: Encoded, item: Encoded) -> Tensor:
    """Return the dense fields of rows that have both sides, the query's first."""
    if not item.dense.shape[1]:
        return torch.from_numpy(query.dense)
    return torch.from_numpy(np.concatenate([query.dense, item.dense], axis=1))


def numbers(query: Encoded, item: Encoded) -> tuple[Numbers, ...]:
    """Return the sequences of numbers of rows that have both sides, the query's first."""
    return tuple(
        Numbers(torch.from_numpy(one.values), torch.from_numpy(one.lengths.astype(np.int32, copy=False)))
        for encoded in (query, item)
        for one in encoded.numbers.values()
    )


def jagged(query: Encoded, items: Encoded, num_rows: int) -> KeyedJaggedTensor:
    """Return both sides' sparse features over S = `num_rows` rows; keys are `query.<name>` and `item.<name>`.

    Where one feature has weights all have them, ones for those without: TorchRec knows no weights of single features.
    """
    keys: list[str] = []
    values: list[np.ndarray] = []
    lengths: list[np.ndarray] = []
    weights: list[np.ndarray | None] = []
    for side, encoded in (("query", query), ("item", items)):
        for name, feature in encoded.sparse.items():
            keys.append(f"{side}.{name}")
            values.append(feature.values)
            weights.append(feature.weights)
            lengths.append(feature.lengths.astype(np.int32, copy=False))
            if num_rows > encoded.num_rows:
                lengths.append(np.zeros(num_rows - encoded.num_rows, np.int32))
    return KeyedJaggedTensor(
        keys=keys,
        values=torch.from_numpy(_joined(values)) if values else torch.empty(0, dtype=torch.int64),
        weights=_all_weights(values, weights) if any(one is not None for one in weights) else None,
        lengths=_lengths(lengths) if lengths else torch.empty(0, dtype=torch.int32),
        stride=num_rows,
    )


def _lengths(lengths: list[np.ndarray]) -> Tensor:
    if all(own is lengths[0] for own in lengths) and lengths[0] is ones(len(lengths[0])):
        return _ones(len(lengths) * len(lengths[0]))
    return torch.from_numpy(np.concatenate(lengths))


@functools.lru_cache(maxsize=4)
def _ones(size: int) -> Tensor:
    """Return int32 ones for all batches of one shape; a batch's lengths are never written to."""
    return torch.ones(size, dtype=torch.int32)


def _joined(arrays: list[np.ndarray]) -> np.ndarray:
    """Concatenate arrays; those that make up one already, side by side, are not copied."""
    whole = arrays[0].base
    # What Arrow lends cannot be written to, and a tensor could.
    if whole is not None and whole.flags.c_contiguous and whole.flags.writeable and whole.size == sum(map(len, arrays)):
        starts = [array.ctypes.data for array in arrays if array.base is whole]
        if starts == list(itertools.accumulate((array.nbytes for array in arrays[:-1]), initial=starts[0])):
            return whole.reshape(-1)
    return np.concatenate(arrays)


def _all_weights(values: list[np.ndarray], weights: list[np.ndarray | None]) -> Tensor:
    pairs = zip(values, weights, strict=True)
    return torch.from_numpy(np.concatenate([np.ones(len(v), np.float32) if w is None else w for v, w in pairs]))
