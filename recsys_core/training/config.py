"""YAML section `train`: what a training takes its steps with, and how long."""

from typing import Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from recsys_core.artifacts import Frozen
from recsys_core.readers import Selection
from recsys_core.sections import optim
from recsys_core.sections.checkpoint import FineTune
from recsys_core.sections.sharding import Config as Sharding

_EPOCHS = {"num_epochs", "num_warm_epochs"}


class Profile(Frozen):
    """YAML section `train.profile`."""

    start: int = Field(default=20, ge=1, description="the steps before the first that is recorded")
    steps: int = Field(default=5, ge=1, le=100, description="how many are; a trace grows by megabytes with each")


class Config(Frozen):
    """YAML section `train`."""

    batch_size: int = Field(default=1024, ge=1, description="examples per rank and step")
    num_epochs: int = Field(
        default=3, ge=1, description="passes over the examples when training starts from random weights"
    )
    num_warm_epochs: int = Field(
        default=1, ge=1, description="passes over the new examples when it continues a release"
    )
    num_steps: int | None = Field(
        default=None,
        ge=1,
        description="train for this number of steps instead of epochs, in as many passes as they take",
    )
    warm_start: bool = Field(default=True, description="continue from the newest release of an earlier day")
    on_change: Literal["carry", "cold", "refuse"] = Field(
        default="carry",
        description="where that release has other features, tables or layers: take over what still means the same, "
        "train from random weights on a cold start's window, or stop before anything is done",
    )
    drop_remainder: bool = Field(
        default=False,
        description="leave out what an epoch's rows are more than whole batches of all ranks; other rows in each epoch",
    )
    shuffle_rows: int = Field(
        default=131_072, ge=0, description="rows that are mixed in memory; 0 keeps the table's order"
    )
    selection: Selection = Field(default=Selection(), description="which rows are trained on")
    cost_column: str | None = Field(
        default=None, description="a column that says what a row costs, or a list's, whose length is its cost"
    )
    max_cost: float | None = Field(
        default=None, gt=0, description="the most that the rows of a batch may cost together; batch_size limits it too"
    )
    checkpoint_every_steps: int = Field(
        default=1_000, ge=1, description="a killed training loses no more steps than this"
    )
    async_checkpoints: bool = Field(
        default=False, description="write checkpoints from a copy in memory while training goes on"
    )
    keep_checkpoints: int = Field(
        default=1, ge=1, description="how many of the newest checkpoints a running training keeps"
    )
    restore_optimizer: bool = Field(
        default=True, description="false: a warm start takes the release's weights, and its optimizers start anew"
    )
    fine_tune_from: FineTune | None = None
    log_every_steps: int = Field(default=20, ge=1)
    evaluate_every_steps: int | None = Field(
        default=None,
        ge=1,
        description="steps between measurements of the split `valid`, of which the best state is kept; null: the last",
    )
    evaluate_every_epochs: int | None = Field(
        default=None, ge=1, description="likewise after whole epochs, alone or beside evaluate_every_steps"
    )
    keep_best: int = Field(
        default=1, ge=1, description="how many of the best states are kept; training ends with the very best"
    )
    early_stopping_patience: int | None = Field(
        default=None, ge=1, description="stop after this many evaluations in a row without a better one; null: never"
    )
    best_metric: Literal[
        "auc", "gauc", "logloss", "normalized_entropy", "accuracy", "mean_squared_error", "mean_absolute_error"
    ] = Field(
        default="auc",
        description="the metric by which the best state is chosen; of a task that predicts values, one of the errors",
    )
    tensorboard: bool = Field(
        default=False, description="write the curves for TensorBoard too, to train.tensorboard beside the artifact"
    )
    profile: Profile | None = Field(
        default=None, description="record some steps with torch's profiler, to train.profile beside the artifact"
    )
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32",
        description="of matrix products; weights, losses and optimizers stay float32; float16, for GPUs without "
        "bfloat16, scales the loss and waits for the device in every step",
    )
    compile: bool = Field(
        default=False, description="compile all but the tables with torch.compile, which needs a C++ compiler"
    )
    sparse_optimizer: optim.SparseConfig = optim.SparseConfig()
    dense_optimizer: optim.DenseConfig = optim.DenseConfig()
    sharding: Sharding = Sharding()

    @model_validator(mode="after")
    def _can_run(self) -> Self:
        optim.check(self.sparse_optimizer, self.sharding.device, splits_rows=self.sharding.splits_rows)
        if self.num_steps is not None and (given := _EPOCHS & self.model_fields_set):
            raise ValueError(
                f"num_steps and {' and '.join(sorted(given))} both say how long to train; give one of them"
            )
        if (self.cost_column is None) != (self.max_cost is None):
            raise ValueError("cost_column and max_cost go together; give both, or neither")
        if self.drop_remainder and self.max_cost is not None:
            raise ValueError("drop_remainder: batches by max_cost have no one size; give one of them")
        for name in ("early_stopping_patience", "keep_best"):
            if getattr(self, name) != type(self).model_fields[name].default and not self.evaluates:
                raise ValueError(
                    f"{name} counts evaluations; set evaluate_every_steps or evaluate_every_epochs too, or leave it out"
                )
        return self

    @model_serializer(mode="wrap")
    def _as_given(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out the epochs that `num_steps` takes the place of: read back, they would contradict it."""
        fields = dump(self)
        if self.num_steps is not None:
            fields = {name: value for name, value in fields.items() if name not in _EPOCHS}
        return fields

    @property
    def optimizers(self) -> tuple[str, str]:
        """The kinds of both optimizers."""
        return self.sparse_optimizer.kind, self.dense_optimizer.kind

    @property
    def evaluates(self) -> bool:
        """Whether the state is measured while training goes on."""
        return self.evaluate_every_steps is not None or self.evaluate_every_epochs is not None
