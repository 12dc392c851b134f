"""Unpooled embeddings on a CPU, looked up as bags of one id each.

fbgemm's kernel that updates tables after an unpooled lookup takes about 3 µs for every distinct id, its kernel for bags
a tenth of that, and a bag of one id is that id's embedding: both make the same numbers. For bags, all features of a
lookup must have as many; so each table is looked up by itself, the ids of all its features at once, that a row that
several of them use is still updated once.
"""

import copy
import functools
from typing import Any

import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import PoolingMode
from fbgemm_gpu.split_table_batched_embeddings_ops_training import SplitTableBatchedEmbeddingBagsCodegen as Tables
from torch import Tensor, nn

_OPTIMIZERS = (EmbOptimType.EXACT_SGD, EmbOptimType.EXACT_ADAGRAD, EmbOptimType.EXACT_ROWWISE_ADAGRAD)
# What tables keep for each feature.
_BY_FEATURE = ("rows_per_table", "weights_offsets", "weights_placements", "momentum1_offsets", "momentum1_placements")


def look_up_as_bags(model: nn.Module) -> None:
    """Change the unpooled lookups of the sharded `model` that run on a CPU; their state stays where it is."""
    # TorchRec keeps lookups in lists that PyTorch does not see.
    lookups: list[nn.Module] = [one for module in model.modules() for one in getattr(module, "_lookups", ())]
    for module in nn.ModuleList([model, *lookups]).modules():
        if not isinstance(module, Tables):
            continue
        dims: Any = module.feature_dims
        if (
            module.use_cpu
            and module.pooling_mode == PoolingMode.NONE
            and module.optimizer in _OPTIMIZERS
            and len(set(dims.tolist())) == 1
            # The features of a table are beside each other.
            and list(module.feature_table_map) == sorted(module.feature_table_map)
        ):
            module.forward = functools.partial(_forward, module)  # pyright: ignore[reportAttributeAccessIssue]


def _forward(tables: Any, indices: Tensor, offsets: Tensor) -> Tensor:
    """Return [N, D] of N ids: what `tables` would, whose features have N ids together, feature after feature."""
    features = list(tables.feature_table_map)
    num_rows = (len(offsets) - 1) // len(features)
    ends = offsets[::num_rows].tolist() if num_rows else [0] * (len(features) + 1)
    found: list[Tensor] = []
    for table in sorted(set(features)):
        first, last = features.index(table), len(features) - features[::-1].index(table)
        own = indices[ends[first] : ends[last]]
        bags = torch.arange(len(own) + 1, dtype=offsets.dtype)
        found.append(Tables.forward(_of_one(tables, first), own, bags))
    return found[0] if len(found) == 1 else torch.cat(found)


def _of_one(tables: Any, feature: int) -> Any:
    """Return a view of `tables` that has one table with one feature, pools, and shares weights and optimizer state."""
    view = copy.copy(tables)
    dim = int(tables.feature_dims[feature])
    rows = tables.rows_per_table[feature : feature + 1]
    view._buffers = dict(tables._buffers)  # noqa: SLF001 - a module's buffers have no other door
    for name in _BY_FEATURE:
        # Optimizers without momentum have placeholders.
        if len(tables._buffers.get(name, ())) == len(tables.feature_table_map):  # noqa: SLF001 - likewise
            view._buffers[name] = tables._buffers[name][feature : feature + 1]  # noqa: SLF001 - likewise
    view._buffers["D_offsets"] = torch.tensor([0, dim], dtype=tables.D_offsets.dtype)  # noqa: SLF001 - likewise
    cumulated = torch.cat([torch.zeros_like(rows), rows]).to(tables.hash_size_cumsum.dtype)
    view._buffers["hash_size_cumsum"] = cumulated  # noqa: SLF001 - likewise
    view.feature_table_map, view.total_D, view.max_D = [0], dim, dim
    view.pooling_mode, view.is_nobag = PoolingMode.SUM, False
    return view
