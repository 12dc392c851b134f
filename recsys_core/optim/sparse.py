"""Optimizers of embedding tables, applied within the backward pass: by fbgemm's kernels, or on CPUs by our own Adam.

What a table's gradient touches is updated at once, row by row; no gradient of a table is ever held as a whole.
"""

from collections.abc import Collection
from typing import Any

import torch
from torch import nn
from torch.distributed.optim.apply_optimizer_in_backward import _apply_optimizer_in_backward as apply_in_backward
from torchrec.optim.optimizers import LAMB, SGD, Adagrad, Adam, PartialRowWiseAdam, PartialRowWiseLAMB
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad

from recsys_core.sections.optim import SPARSE_TAKES, SparseConfig, SparseKind, check, refuse_unfit

_CLASSES: dict[SparseKind, type[torch.optim.Optimizer]] = {
    "sgd": SGD,
    "adagrad": Adagrad,
    "rowwise_adagrad": RowWiseAdagrad,
    "adam": Adam,
    # fbgemm's adam decays weights apart from the gradient, which is what makes it adamw.
    "adamw": Adam,
    "partial_rowwise_adam": PartialRowWiseAdam,
    "lamb": LAMB,
    "partial_rowwise_lamb": PartialRowWiseLAMB,
}


def weights_of(tables: nn.Module) -> dict[str, nn.Parameter]:
    """Return the weights by table: one is called embedding_bags.<table>.weight or embeddings.<table>.weight."""
    return {name.split(".")[-2]: parameter for name, parameter in tables.named_parameters()}


def fuse(config: SparseConfig, tables: nn.Module, device: torch.device, frozen: Collection[str] = ()) -> None:
    """Let each table's backward pass apply its own update, but for the `frozen` ones; call before tables are sharded.

    Raises:
        ValueError: there is no fused kernel of this kind for `device`, or `by_table` names no table.
    """
    check(config, device.type)
    weights = weights_of(tables)
    dtypes = {table: str(weight.dtype).removeprefix("torch.") for table, weight in weights.items()}
    refuse_unfit(config, dtypes, device.type)
    for table, weight in weights.items():
        rate = config.by_table.get(table, config.learning_rate)
        if rate and table not in frozen:
            apply_in_backward(_CLASSES[config.kind], [weight], {"lr": rate, **_options(config)})
        else:
            # Without a state that would grow though the table does not learn.
            apply_in_backward(SGD, [weight], {"lr": 0.0})


def _options(config: SparseConfig) -> dict[str, Any]:
    from fbgemm_gpu.split_table_batched_embeddings_ops_training import WeightDecayMode

    takes = SPARSE_TAKES[config.kind]
    options: dict[str, Any] = {}
    if "eps" in takes:
        options["eps"] = config.eps
    if "betas" in takes:
        options["beta1"], options["beta2"] = config.betas
    if "weight_decay" in takes and config.weight_decay:
        options["weight_decay"] = config.weight_decay
    if "weight_decay_mode" in takes and config.weight_decay:
        modes = {"l2": WeightDecayMode.L2, "decoupled": WeightDecayMode.DECOUPLE}
        options["weight_decay_mode"] = modes[config.weight_decay_mode]
    if config.max_gradient is not None:
        options |= {"gradient_clipping": True, "max_gradient": config.max_gradient}
    return options
