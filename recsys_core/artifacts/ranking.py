"""What the stages of ranking leave behind."""

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from recsys_core.artifacts.core import Artifact, Frozen
from recsys_core.artifacts.difference import Cost, Difference


class HeldOut(Artifact):
    """Sampled-softmax loss and recall of the checkpoint on the ground-truth day's rows, each row once."""

    stage: ClassVar[str] = "evaluate"

    loss: float
    sampled_recall: dict[str, float]


class LabelledMetrics(Frozen):
    """What labelled rows measure; None where it is not defined (rows of one label only, no groups).

    auc: the share of pairs (positive, negative) in which the positive scores higher, ties half, pairs weighted by
        the product of their weights; the area under the ROC curve.
    gauc: the mean of the groups' AUCs by their weight of rows, over groups with both labels (Zhou et al. 2018,
        section 6.2).
    logloss: the mean binary cross-entropy in nats.
    normalized_entropy: logloss over that of always predicting the share of positives (He et al. 2014, section 3).
    calibration: predicted positives over actual ones; of values their sum over that of the labels.
    accuracy: the share of rows, by weight, whose label is what a probability of at least .5 predicts; None in records
        of before it was measured.
    others: by the kind of a metric of `evaluate.metrics`, and of a task of values those of its own.

    Of a task of values (see `ranking.Task.predicts`) only `calibration` and `others` are there; positive are labels
    above 0.
    """

    num_rows: int
    num_positives: int
    auc: float | None
    gauc: float | None
    logloss: float | None
    normalized_entropy: float | None
    calibration: float | None
    accuracy: float | None = None
    others: dict[str, float | None] = Field(default={})

    def figures(self) -> dict[str, float]:
        """Return all figures that are defined, by name."""
        fields = {name: getattr(self, name) for name in LabelledMetrics.model_fields if name != "others"} | self.others
        return {name: value for name, value in fields.items() if value is not None}

    @model_serializer(mode="wrap")
    def _as_ever(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave `others` out where there are none: most readers want numbers only."""
        fields = dump(self)
        return fields if self.others else {name: value for name, value in fields.items() if name != "others"}


class LabelledSlice(Frozen):
    """Metrics of some of the rows, as `RankingEvaluation` has them of all; None where no such row has a weight."""

    num_units: int
    has_groups: bool
    metrics: LabelledMetrics | None
    champion: LabelledMetrics | None
    differences: dict[str, Difference]


class RankingEvaluation(Artifact):
    """Metrics of every row of a split; `roc.parquet` and `calibration.parquet` have the points of its pictures.

    Of several tasks `metrics`, and all that is compared with them, are of the one that `gate.task` names, on its rows;
    by default of the first one, which is of all rows. `tasks` has each one's, None where no row is of it. `champion`
    and `baselines` (`rate`, `item_rate`) are measured on the same rows. `differences` are those to the champion by
    metric; for their intervals `num_units` groups were drawn (rows, unless `has_groups`). `slices` are parts of the
    rows, by name. `rows_digest` is that of all rows that were scored.
    """

    stage: ClassVar[str] = "evaluate"

    split: str
    metrics: LabelledMetrics
    tasks: dict[str, LabelledMetrics | None] = Field(default={})
    champion: LabelledMetrics | None = None
    baselines: dict[str, LabelledMetrics] = Field(default={})
    differences: dict[str, Difference] = Field(default={})
    num_units: int = 0
    has_groups: bool = False
    slices: dict[str, LabelledSlice] = Field(default={})
    rows_digest: str | None = None


ONLY = ""
"""The name of the task of a model that has one."""


Predicts = Literal["probability", "value", "amount"]
"""What a model's output s stands for: the probability sigmoid(s), the value s, or the amount exp(s)."""


def score_columns(task: str, predicts: Predicts = "probability") -> tuple[str, str]:
    """Return what the columns of a task's output and of what it predicts are called."""
    names = "score", "probability" if predicts == "probability" else "value"
    return names if task == ONLY else (f"{names[0]}_{task}", f"{names[1]}_{task}")


class ExportedRanker(Artifact):
    """`model.pt` with `signature.json`: one scripted module; `features/` is the fitted engine.

    `tasks` are the names of its output's columns, none where it has one score, and `predicts` says what each stands
    for; none where all are logits of probabilities. In the format `pt2` the module is
    `model.pt2`. `cost` is that of tables that are not as they were trained.
    """

    stage: ClassVar[str] = "export"

    parity_max_abs_difference: float
    tasks: tuple[str, ...] = ()
    predicts: tuple[Predicts, ...] = ()
    format: str = "torchscript"
    table_dtype: str = "trained"
    cost: Cost | None = None

    @property
    def engine(self) -> Path:
        """The fitted feature engine, a byte-for-byte copy of the one trained with."""
        return self.path / "features"

    @property
    def columns(self) -> list[tuple[str, str]]:
        """What the columns of scores and of what they predict are called, by the output's columns."""
        return [score_columns(*column) for column in zip(self.tasks or (ONLY,), self.predicted, strict=True)]

    @property
    def predicted(self) -> tuple[Predicts, ...]:
        """What each of the output's columns stands for."""
        return self.predicts or ("probability",) * max(len(self.tasks), 1)


class Predictions(Artifact):
    """Scored rows in `rows/`, in the order of the table they come from: its columns, `score` and `probability`."""

    stage: ClassVar[str] = "predict"

    source: str
    model_digest: str

    @property
    def rows(self) -> Path:
        """Parquet folder."""
        return self.path / "rows"
