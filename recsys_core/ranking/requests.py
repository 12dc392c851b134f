"""What is asked of the stages in processes of their own, and their sections of the config: without torch."""

import datetime
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from recsys_core import artifacts, placeholders, readers
from recsys_core.artifacts import ComponentConfig, ExportedRanker, Frozen, LabelledData
from recsys_core.artifacts.ranking import Predicts
from recsys_core.lookup import OneOf
from recsys_core.metrics.ranking import CATALOGUE, always
from recsys_core.ranking import Config as Ranking
from recsys_core.sections.export import Config as Export
from recsys_core.sections.sharding import Config as Sharding
from recsys_core.training.config import Config as Train


class TrainRequest(artifacts.Request):
    """What the training of a ranking model needs; `day` names it, and `base` is the checkpoint to continue from.

    `base_engine` are the features that it was trained with, null: where that training had them. `pretrained` are the
    fingerprints of the files that tables start from.
    """

    UNKEYED: ClassVar[frozenset[str]] = artifacts.Request.UNKEYED | {"base_engine"}

    config: Train
    ranking: Ranking
    model: Annotated[ComponentConfig, OneOf("recsys_core.models")]
    loss: Annotated[ComponentConfig, OneOf("recsys_core.losses")]
    num_ranks: int
    seed: int
    day: datetime.date
    data: LabelledData
    base: artifacts.Checkpoint | None = None
    base_engine: Path | None = None
    pretrained: dict[str, str] = Field(default={})


class EvaluateConfig(Frozen):
    """YAML section `evaluate` of a ranking config."""

    batch_size: int = Field(default=8_192, ge=1, description="rows per rank and step")
    split: Literal["train", "valid", "test"] = Field(default="test", description="the rows that are measured")
    metrics: tuple[Annotated[ComponentConfig, OneOf(CATALOGUE)], ...] = Field(
        default=(), description="metrics beside those that every evaluation has, such as your own: `{kind: shop.brier}`"
    )

    @model_validator(mode="after")
    def _measured_once(self) -> Self:
        for kind in (metric.kind for metric in self.metrics):
            if kind in always() or [metric.kind for metric in self.metrics].count(kind) > 1:
                raise ValueError(f"metrics: {kind} is measured already; leave it out")
        return self


class EvaluateRequest(artifacts.Request):
    """What the evaluation needs: a checkpoint, or what was exported of one, and the rows.

    These are a split of `data`, or the table `source`, whose CSV is read by `csv`; `source_digest` stands for its
    content. The fitted features of a checkpoint are those in `engine`, or else of `data`.
    """

    UNKEYED: ClassVar[frozenset[str]] = artifacts.Request.UNKEYED | {"engine"}

    config: EvaluateConfig
    ranking: Ranking
    model: Annotated[ComponentConfig, OneOf("recsys_core.models")]
    sharding: Sharding
    num_ranks: int
    seed: int
    data: LabelledData | None = None
    source: str | None = None
    source_digest: str | None = None
    csv: readers.CsvOptions = readers.CsvOptions()
    checkpoint: artifacts.Checkpoint | None = None
    exported: ExportedRanker | None = None
    engine: Path | None = None
    engine_digest: str | None = None

    @model_validator(mode="after")
    def _of_one_state(self) -> Self:
        assert (self.checkpoint is None) != (self.exported is None), "one of them is evaluated"
        assert (self.data is None) != (self.source is None), "on one of them"
        return self


class ExportRequest(artifacts.Request):
    """What the export needs; see `retrieval.requests.ExportRequest`. `ranking` names the labels, to measure by.

    `predicts` says what the model's outputs stand for; none: all are logits of probabilities.
    """

    UNKEYED: ClassVar[frozenset[str]] = artifacts.Request.UNKEYED | {"engine"}

    config: Export
    ranking: Ranking | None = None
    predicts: tuple[Predicts, ...] = ()
    model: Annotated[ComponentConfig, OneOf("recsys_core.models")]
    data: LabelledData | None = None
    checkpoint: artifacts.Checkpoint
    engine: Path | None = None
    engine_digest: str | None = None


class PredictConfig(Frozen):
    """YAML section `predict` of a ranking config."""

    source: str | None = Field(
        default=None,
        description="path of the table to score, {day} becomes the day; null: the split that is evaluated",
    )
    output: str | None = Field(
        default=None, description="table or folder to write the scored rows to as well; {day} becomes the day"
    )
    reserved_columns: tuple[str, ...] | None = Field(
        default=None, description="columns of it that are written beside score and probability; null: all"
    )
    batch_size: int = Field(default=8_192, ge=1, description="rows per rank and step")
    csv: readers.CsvOptions = Field(
        default=readers.CsvOptions(),
        description="how the source's files of CSV are written; columns that were text in training are text",
    )

    @model_validator(mode="after")
    def _reads_csv(self) -> Self:
        if self.source is None and self.csv != readers.CsvOptions():
            raise ValueError("csv: it is of predict.source, and none is named; leave it out, or set data.csv")
        return self

    _placeholders = field_validator("source", "output")(placeholders.check)


class PredictRequest(artifacts.Request):
    """What scoring a table needs; `source_digest` stands for the table's content.

    With `data` the rows are those of its `split`, and `source` only names them in messages. `stage` names the progress
    events (`predict`, `score`, `score_champion`).
    """

    config: PredictConfig
    source: str
    source_digest: str
    data: LabelledData | None = None
    split: str = "test"
    model: ExportedRanker
    stage: str = "predict"
