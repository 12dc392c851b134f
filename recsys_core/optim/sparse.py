"""Optimizers of embedding tables, applied within the backward pass: by fbgemm's kernels, or on CPUs by our own Adam.

What a table's gradient touches is updated at once, row by row; no gradient of a table is ever held as a whole.
"""

from collections.abc import Collection
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import nn
from torch.distributed.optim.apply_optimizer_in_backward import _apply_optimizer_in_backward as apply_in_backward
from torchrec.optim.optimizers import LAMB, SGD, Adagrad, Adam, PartialRowWiseAdam, PartialRowWiseLAMB
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad

from recsys_core.artifacts import Frozen
from recsys_core.optim import schedules

Kind = Literal[
    "sgd",
    "adagrad",
    "rowwise_adagrad",
    "adam",
    "adamw",
    "partial_rowwise_adam",
    "lamb",
    "partial_rowwise_lamb",
]
_CLASSES: dict[Kind, type[torch.optim.Optimizer]] = {
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
_MOMENTS = ("eps", "betas", "weight_decay")
_TAKES: dict[Kind, tuple[str, ...]] = {
    "sgd": (),
    "adagrad": ("eps", "initial_accumulator"),
    "rowwise_adagrad": ("eps", "initial_accumulator", "weight_decay", "weight_decay_mode"),
    "adam": ("eps", "betas"),
    "adamw": _MOMENTS,
    "partial_rowwise_adam": _MOMENTS,
    "lamb": _MOMENTS,
    "partial_rowwise_lamb": _MOMENTS,
}
# These look at a row as a whole, or keep one number for it.
_BY_ROW: tuple[Kind, ...] = ("rowwise_adagrad", "partial_rowwise_adam", "lamb", "partial_rowwise_lamb")
# What CPUs do: the kernels for them refuse the other kinds and ignore weight decay without a word; the adam kinds are
# ours (`sharding.adam`), and decay.
_ON_CPU: tuple[Kind, ...] = ("rowwise_adagrad", "adagrad", "sgd", "adam", "adamw")


class Config(Frozen):
    """YAML section `train.sparse_optimizer`: of the embedding tables."""

    kind: Kind = Field(default="rowwise_adagrad", description="CPUs have rowwise_adagrad, adagrad, sgd, adam and adamw")
    learning_rate: float = Field(default=0.05, gt=0)
    by_table: dict[str, float] = Field(default={}, description="learning rate of single tables; 0 keeps one as it is")
    schedule: schedules.Config = schedules.Constant()
    max_gradient: float | None = Field(
        default=None, gt=0, description="each element of the gradient of what one example looked up is cut to ± this"
    )
    eps: float = Field(default=1e-8, gt=0, description="not of sgd")
    betas: tuple[float, float] = Field(default=(0.9, 0.999), description="of the adam and lamb kinds")
    initial_accumulator: float = Field(default=0.0, ge=0, description="of the adagrad kinds")
    weight_decay: float = Field(
        default=0.0,
        ge=0,
        description="of rows that a step looks up: of adamw, and on GPUs of rowwise_adagrad, partial_rowwise_adam and "
        "the lamb kinds",
    )
    weight_decay_mode: Literal["l2", "decoupled"] = Field(
        default="decoupled", description="of rowwise_adagrad: through the gradient, or apart from it"
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        options = {option for options in _TAKES.values() for option in options}
        if foreign := sorted((options & self.model_fields_set) - {*_TAKES[self.kind]}):
            given = [name for name in foreign if getattr(self, name) != type(self).model_fields[name].default]
            if given:
                takes = ", ".join(_TAKES[self.kind]) or "none of the options"
                raise ValueError(f"{', '.join(given)}: {self.kind} has no such option; it takes {takes}")
        if negative := [table for table, rate in self.by_table.items() if not rate >= 0]:
            raise ValueError(f"by_table: the learning rate of {negative[0]} is below 0")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas: {list(self.betas)} are not in [0, 1)")
        return self


def check(config: Config, device: str, *, splits_rows: bool = False) -> None:
    """Refuse what fbgemm's kernels for `device` (`cpu` or `cuda`) cannot do.

    Where a table's columns may lie on several ranks (`splits_rows`), each of them would take its piece for a row: the
    result would depend on the number of ranks, and a checkpoint would fit no other.

    Raises:
        ValueError: names what they can.
    """
    if splits_rows and config.kind in _BY_ROW:
        raise ValueError(
            f"train.sparse_optimizer.kind: {config.kind} works on whole rows, which train.sharding's column_wise cuts "
            "in pieces; use adagrad, sgd, adam or adamw, or shard by table_wise and row_wise"
        )
    if device != "cpu":
        return
    if config.kind not in _ON_CPU:
        raise ValueError(
            f"train.sparse_optimizer.kind: {config.kind} has no fused kernel for CPUs; use one of {', '.join(_ON_CPU)}"
        )
    if config.weight_decay and config.kind != "adamw":
        raise ValueError(
            f"train.sparse_optimizer.weight_decay: the kernel for CPUs of {config.kind} ignores it; set it to 0, use "
            "adamw, or train on a GPU"
        )


def refuse_unfit(config: Config, tables: nn.Module, device: str) -> None:
    """Refuse `tables` (their weights may lie nowhere) that cannot be trained on `device`, `cpu` or another.

    Raises:
        ValueError: `by_table` names a table that is not there, or one has a type that the kernels do not know.
    """
    weights = weights_of(tables)
    if unknown := sorted(config.by_table.keys() - weights):
        raise ValueError(
            f"train.sparse_optimizer.by_table: no table {', '.join(unknown)}; there are {', '.join(sorted(weights))}"
        )
    for table, weight in weights.items():
        if device == "cpu" and weight.dtype == torch.bfloat16:
            raise ValueError(
                f"features.tables, {table!r}: kernels for CPUs have no bfloat16; set dtype: float16, which takes as "
                "many bytes, or train.sharding.device: cuda"
            )


def weights_of(tables: nn.Module) -> dict[str, nn.Parameter]:
    """Return the weights by table: one is called embedding_bags.<table>.weight or embeddings.<table>.weight."""
    return {name.split(".")[-2]: parameter for name, parameter in tables.named_parameters()}


def fuse(config: Config, tables: nn.Module, device: torch.device, frozen: Collection[str] = ()) -> None:
    """Let each table's backward pass apply its own update, but for the `frozen` ones; call before tables are sharded.

    Raises:
        ValueError: there is no fused kernel of this kind for `device`, or `by_table` names no table.
    """
    check(config, device.type)
    refuse_unfit(config, tables, device.type)
    weights = weights_of(tables)
    for table, weight in weights.items():
        rate = config.by_table.get(table, config.learning_rate)
        if rate and table not in frozen:
            apply_in_backward(_CLASSES[config.kind], [weight], {"lr": rate, **_options(config)})
        else:
            # Without a state that would grow though the table does not learn.
            apply_in_backward(SGD, [weight], {"lr": 0.0})


def _options(config: Config) -> dict[str, Any]:
    from fbgemm_gpu.split_table_batched_embeddings_ops_training import WeightDecayMode

    takes = _TAKES[config.kind]
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
