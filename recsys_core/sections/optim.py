"""YAML sections of `train` that say how a model learns: the optimizer of its tables, and that of all else."""

from collections.abc import Mapping
from typing import Literal, Self

from pydantic import Field, model_validator

from recsys_core.artifacts import Frozen
from recsys_core.sections import schedules

SparseKind = Literal[
    "sgd",
    "adagrad",
    "rowwise_adagrad",
    "adam",
    "adamw",
    "partial_rowwise_adam",
    "lamb",
    "partial_rowwise_lamb",
]
_MOMENTS = ("eps", "betas", "weight_decay")
SPARSE_TAKES: dict[SparseKind, tuple[str, ...]] = {
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
_BY_ROW: tuple[SparseKind, ...] = ("rowwise_adagrad", "partial_rowwise_adam", "lamb", "partial_rowwise_lamb")
# What CPUs do: the kernels for them refuse the other kinds and ignore weight decay without a word; the adam kinds are
# ours (`sharding.adam`), and decay.
_ON_CPU: tuple[SparseKind, ...] = ("rowwise_adagrad", "adagrad", "sgd", "adam", "adamw")
DenseKind = Literal["sgd", "adagrad", "adam", "adamw", "adadelta", "rmsprop"]
DENSE_TAKES: dict[DenseKind, tuple[str, ...]] = {
    "sgd": ("momentum", "nesterov"),
    "adagrad": ("eps", "initial_accumulator_value"),
    "adam": ("eps", "betas"),
    "adamw": ("eps", "betas"),
    "adadelta": ("eps", "rho"),
    "rmsprop": ("eps", "alpha", "momentum"),
}


class SparseConfig(Frozen):
    """YAML section `train.sparse_optimizer`: of the embedding tables."""

    kind: SparseKind = Field(
        default="rowwise_adagrad", description="CPUs have rowwise_adagrad, adagrad, sgd, adam and adamw"
    )
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
        options = {option for options in SPARSE_TAKES.values() for option in options}
        if foreign := sorted((options & self.model_fields_set) - {*SPARSE_TAKES[self.kind]}):
            given = [name for name in foreign if getattr(self, name) != type(self).model_fields[name].default]
            if given:
                takes = ", ".join(SPARSE_TAKES[self.kind]) or "none of the options"
                raise ValueError(f"{', '.join(given)}: {self.kind} has no such option; it takes {takes}")
        if negative := [table for table, rate in self.by_table.items() if not rate >= 0]:
            raise ValueError(f"by_table: the learning rate of {negative[0]} is below 0")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas: {list(self.betas)} are not in [0, 1)")
        return self


def check(config: SparseConfig, device: str, *, splits_rows: bool = False) -> None:
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


def refuse_unfit(config: SparseConfig, dtypes: Mapping[str, str], device: str) -> None:
    """Refuse tables (`dtypes` by name) that cannot be trained on `device`, `cpu` or another.

    Raises:
        ValueError: `by_table` names a table that is not there, or one has a type that the kernels do not know.
    """
    if unknown := sorted(config.by_table.keys() - dtypes):
        raise ValueError(
            f"train.sparse_optimizer.by_table: no table {', '.join(unknown)}; there are {', '.join(sorted(dtypes))}"
        )
    for table, dtype in dtypes.items():
        if device == "cpu" and dtype == "bfloat16":
            raise ValueError(
                f"features.tables, {table!r}: kernels for CPUs have no bfloat16; set dtype: float16, which takes as "
                "many bytes, or train.sharding.device: cuda"
            )


class Group(Frozen):
    """Parameters that learn in another way than the rest; what is null is as for the rest."""

    pattern: str = Field(description="glob on parameter names, such as `*.bias` or `query.*`; the first match counts")
    learning_rate: float | None = Field(default=None, ge=0, description="0 keeps them as they are")
    weight_decay: float | None = Field(default=None, ge=0)


class DenseConfig(Frozen):
    """YAML section `train.dense_optimizer`: of everything but the embedding tables."""

    kind: DenseKind = "adam"
    learning_rate: float = Field(default=0.001, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    schedule: schedules.Config = schedules.Constant()
    groups: tuple[Group, ...] = ()
    max_gradient_norm: float | None = Field(
        default=None, gt=0, description="the gradient over all dense parameters is scaled down to this length"
    )
    accumulate_batches: int = Field(
        default=1, ge=1, description="batches of one update; tables, fused into the backward pass, learn from each"
    )
    average_decay: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="evaluation and export take an exponential moving average of the weights, such as 0.999",
    )
    momentum: float | None = Field(default=None, ge=0, lt=1, description="of sgd and rmsprop; null: none")
    nesterov: bool | None = Field(default=None, description="of sgd")
    betas: tuple[float, float] | None = Field(default=None, description="of adam and adamw; null: 0.9, 0.999")
    eps: float | None = Field(default=None, gt=0, description="not of sgd; null: torch's default")
    rho: float | None = Field(default=None, ge=0, le=1, description="of adadelta; null: 0.9")
    alpha: float | None = Field(default=None, ge=0, lt=1, description="of rmsprop; null: 0.99")
    initial_accumulator_value: float | None = Field(default=None, ge=0, description="of adagrad; null: 0")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        options = {option for options in DENSE_TAKES.values() for option in options}
        given = {name for name in options if getattr(self, name) is not None}
        if foreign := sorted(given - {*DENSE_TAKES[self.kind]}):
            takes = ", ".join(DENSE_TAKES[self.kind])
            raise ValueError(f"{', '.join(foreign)}: {self.kind} has no such option; it takes {takes}")
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov: needs a momentum")
        if self.betas and not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas: {list(self.betas)} are not in [0, 1)")
        return self
