"""Adam and AdamW over the rows that a step touches, on a CPU: fbgemm's kernels for CPUs have neither.

In the backward pass the gradients of a row that was looked up several times are summed, and the rows and their two
moments are updated in place. Names and places of the state, and the arithmetic, are those of fbgemm's kernel for GPUs,
so that a checkpoint moves between the two:

    m <- b1 m + (1 - b1) g        v <- b2 v + (1 - b2) g^2
    w <- w - lr (m / (1 - b1^n) / (sqrt(v / (1 - b2^n)) + eps) + weight_decay w)

This is algorithm 1 of Kingma and Ba 2015, with the decay of Loshchilov and Hutter 2019, algorithm 2. n counts the steps
of the training, not those of a row. As with torch's SparseAdam, rows that a step does not look up keep their weights
and moments: they do not decay either.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import PoolingMode
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    SplitTableBatchedEmbeddingBagsCodegen,
    construct_split_state,
)
from torch import Tensor
from torchrec.distributed import batched_embedding_kernel


@contextlib.contextmanager
def offered(device: torch.device) -> Iterator[None]:
    """Inside, TorchRec gives tables on a CPU that are to learn by Adam to `Tables`."""
    if device.type != "cpu":
        yield
        return
    name = SplitTableBatchedEmbeddingBagsCodegen.__name__
    # TorchRec's lookups make their tables of this class by its name alone; there is no other door.
    setattr(batched_embedding_kernel, name, Tables)
    try:
        yield
    finally:
        setattr(batched_embedding_kernel, name, SplitTableBatchedEmbeddingBagsCodegen)


class _Part(NamedTuple):
    """What one table is asked for: `ids` [N] of its F features, one after another; bags end at `ends` [F*B + 1]."""

    ids: Tensor
    ends: Tensor
    shares: Tensor | None
    num_features: int

    def gradient_by_id(self, gradient: Tensor) -> Tensor:
        """Return [N, D], each id's share of `gradient` [B, F*D]."""
        num_rows, width = gradient.shape
        by_bag = gradient.reshape(num_rows, self.num_features, width // self.num_features).transpose(0, 1).flatten(0, 1)
        by_id = by_bag.index_select(0, torch.repeat_interleave(self.ends.diff()))
        return by_id if self.shares is None else by_id.mul_(self.shares.unsqueeze(1))


class Tables(SplitTableBatchedEmbeddingBagsCodegen):
    """fbgemm's tables, which learn by Adam on a CPU too. Legend: B rows, N ids, U distinct ids, D embedding."""

    def __init__(
        self,
        embedding_specs: list[Any],
        *arguments: Any,
        optimizer: EmbOptimType = EmbOptimType.EXACT_SGD,
        **options: Any,
    ) -> None:
        """As fbgemm's; with another optimizer than Adam it is the same."""
        if optimizer != EmbOptimType.ADAM:
            super().__init__(embedding_specs, *arguments, optimizer=optimizer, **options)
            return
        # The state of Adagrad has the shape of the first moment; the second is one more of it.
        super().__init__(embedding_specs, *arguments, optimizer=EmbOptimType.EXACT_ADAGRAD, **options)
        assert self.pooling_mode in (PoolingMode.SUM, PoolingMode.NONE), self.pooling_mode
        assert list(self.feature_table_map) == sorted(self.feature_table_map), self.feature_table_map
        self.optimizer = optimizer
        split = construct_split_state(embedding_specs, rowwise=False, cacheable=False)
        kind: Any = torch.float32
        self._apply_split(split, prefix="momentum2", dtype=kind)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride] - the other arguments are for GPUs
        self, indices: Tensor, offsets: Tensor, per_sample_weights: Tensor | None = None, **options: Any
    ) -> Tensor:
        """Look up N ids: [B, D of all features], or, not pooled, [N, D]."""
        if self.optimizer != EmbOptimType.ADAM:
            return super().forward(indices, offsets, per_sample_weights, **options)
        assert not options, options
        indices, offsets, shares, _ = self.prepare_inputs(indices, offsets, per_sample_weights)
        if torch.is_grad_enabled():
            self.iter += 1
        # Even a rank without ids in the batch takes part in the exchange of gradients, by the placeholder's.
        return _Lookup.apply(self.placeholder_autograd_tensor, self, self._parts(indices, offsets, shares))

    def _parts(self, indices: Tensor, offsets: Tensor, shares: Tensor | None) -> list[_Part]:
        features = list(self.feature_table_map)
        num_rows = (len(offsets) - 1) // len(features)
        starts = offsets[::num_rows].tolist() if num_rows else [0] * (len(features) + 1)
        parts: list[_Part] = []
        for table in range(features[-1] + 1):
            first, last = features.index(table), len(features) - features[::-1].index(table)
            low, high = starts[first], starts[last]
            ends = offsets[first * num_rows : last * num_rows + 1] - low
            parts.append(_Part(indices[low:high], ends, None if shares is None else shares[low:high], last - first))
        return parts

    def look_up(self, parts: list[_Part]) -> Tensor:
        """Return what `forward` does."""
        found: list[Tensor] = []
        for weight, part in zip(self.split_embedding_weights(), parts, strict=True):
            if self.pooling_mode == PoolingMode.NONE:
                found.append(weight.index_select(0, part.ids).float())
                continue
            ids, read = part.ids, weight
            if weight.dtype != torch.float32:
                # Torch's own bags add narrow numbers in narrow sums.
                ids, read = torch.arange(len(ids)), weight.index_select(0, ids).float()
            bags = F.embedding_bag(
                ids, read, part.ends, mode="sum", per_sample_weights=part.shares, include_last_offset=True
            )
            num_rows = (len(part.ends) - 1) // part.num_features
            found.append(bags.view(part.num_features, num_rows, -1).transpose(0, 1).reshape(num_rows, -1))
        return torch.cat(found, dim=0 if self.pooling_mode == PoolingMode.NONE else 1)

    def learn(self, parts: list[_Part], gradient: Tensor, step: int) -> None:
        """Update the rows that `parts` look up, in step number `step` from 1; `gradient` is that of `look_up`."""
        if self.optimizer_args.gradient_clipping:
            gradient = gradient.clamp(-self.optimizer_args.max_gradient, self.optimizer_args.max_gradient)
        weights, states, start = self.split_embedding_weights(), self.split_optimizer_states(), 0
        for weight, moments, part in zip(weights, states, parts, strict=True):
            if self.pooling_mode == PoolingMode.NONE:
                end = start + len(part.ids)
                by_id = gradient[start:end]
            else:
                end = start + part.num_features * weight.shape[1]
                by_id = part.gradient_by_id(gradient[:, start:end])
            start = end
            if len(part.ids):
                rows, places = torch.unique(part.ids, return_inverse=True)
                by_row = by_id.new_zeros(len(rows), weight.shape[1]).index_add_(0, places, by_id)
                self._update(weight, moments, rows, by_row, step)

    def _update(self, weight: Tensor, moments: list[Tensor], rows: Tensor, gradient: Tensor, step: int) -> None:
        """Update the distinct `rows` [U] of a table by their gradients [U, D]."""
        arguments, rate = self.optimizer_args, self.get_learning_rate()
        first = moments[0].index_select(0, rows).lerp_(gradient, 1 - arguments.beta1)
        second = moments[1].index_select(0, rows).mul_(arguments.beta2)
        second.addcmul_(gradient, gradient, value=1 - arguments.beta2)
        moments[0].index_copy_(0, rows, first)
        moments[1].index_copy_(0, rows, second)
        root = second.div_(1 - arguments.beta2**step).sqrt_().add_(arguments.eps)
        now = weight.index_select(0, rows).float().mul_(1 - rate * arguments.weight_decay)
        now.addcdiv_(first, root, value=-rate / (1 - arguments.beta1**step))
        weight.index_copy_(0, rows, now.to(weight.dtype))


class _Lookup(torch.autograd.Function):
    """A lookup whose backward pass is the update."""

    @staticmethod
    def forward(ctx: Any, _placeholder: Tensor, tables: Tables, parts: list[_Part]) -> Tensor:
        ctx.tables, ctx.parts, ctx.step = tables, parts, int(tables.iter)
        return tables.look_up(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.tables.learn(ctx.parts, gradient, ctx.step)
        return None, None, None
