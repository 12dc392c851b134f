"""A ranking run's whole configuration: every component's own section, in the order of the data's path."""

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from recsys_core.artifacts import ComponentConfig, DayHoldout, Frozen, NextDay, Tail, digest_of
from recsys_core.config import agreement, limits, products, tables
from recsys_core.contract import Config as Contract
from recsys_core.datasets.labelled import base, labelled_days
from recsys_core.features import Config as Features
from recsys_core.gate import RankingConfig as Gate
from recsys_core.launch import CATALOGUE as LAUNCHERS
from recsys_core.launch import Config as Launch
from recsys_core.launch import Local
from recsys_core.lookup import OneOf
from recsys_core.losses.binary_cross_entropy import Config as BinaryCrossEntropy
from recsys_core.ranking import Config as Ranking
from recsys_core.ranking.prepare import Data
from recsys_core.ranking.prepare.days import Config as Prepare
from recsys_core.ranking.publish import Config as Publish
from recsys_core.ranking.requests import EvaluateConfig as Evaluate
from recsys_core.ranking.requests import PredictConfig as Predict
from recsys_core.sections.export import Config as Export
from recsys_core.tracking import Config as Tracking
from recsys_core.training.config import Config as Train


class RankingConfig(Frozen):
    """One YAML file; its section `ranking` makes it one of these. Relative paths start where the command is run.

    With `data.kind: labelled_days` the model is retrained daily, else it is trained once, on splits.
    """

    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9_-]*$", description="of the model; its runs and experiment are named so"
    )
    run_root: products.RunRoot = Field(default=Path("runs"), description="folder that the runs are written to")
    seed: int = Field(default=0, ge=0)
    data: Data
    contract: Contract = Contract()
    holdout: DayHoldout = Field(default=NextDay(), description="the rows that a day's model is measured on")
    prepare: Prepare = Prepare()
    ranking: Ranking
    features: Features
    model: Annotated[ComponentConfig, OneOf("recsys_core.models")]
    loss: Annotated[ComponentConfig, OneOf("recsys_core.losses", default="binary_cross_entropy")] = BinaryCrossEntropy()
    train: Train = Train()
    use_step: int | None = Field(
        default=None,
        description="of the states that train.keep_best kept, that of this step is measured, exported and scored with; "
        "null: the best",
    )
    evaluate: Evaluate = Evaluate()
    export: Export = Export()
    predict: Predict = Predict()
    gate: Gate = Gate()
    publish: Publish = Publish()
    tracking: Tracking = Tracking()
    launch: Annotated[Launch, OneOf(LAUNCHERS, default="local")] = Local()

    @model_validator(mode="before")
    @classmethod
    def _of_its_kind(cls, sections: Any) -> Any:
        data = sections.get("data") if isinstance(sections, dict) else None
        if isinstance(data, dict):
            daily = data.get("kind") == "labelled_days"
            products.refuse(sections, products.RANKING_DAYS if daily else products.RANKING_SPLITS)
        return sections

    @model_serializer(mode="wrap")
    def _as_read(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what is not read of it."""
        return products.without(dump(self), products.RANKING_DAYS if self.is_daily else products.RANKING_SPLITS)

    @model_validator(mode="after")
    def _ranks(self) -> Self:
        limits.check(self)
        if isinstance(self.holdout, Tail) and isinstance(self.data, labelled_days.Config) and not self.data.time_column:
            raise ValueError(
                "holdout: a tail is of the day's newest hours, so each row needs a time; name its column in "
                "data.time_column"
            )
        tables.check(self.features, self.train)
        if self.use_step is not None and not self.train.evaluates:
            raise ValueError(
                f"use_step: {self.use_step} is one of the states that evaluations keep; set train.evaluate_every_steps "
                "or train.evaluate_every_epochs too, or leave it out"
            )
        agreement.check_metrics(self.evaluate.metrics, self.ranking)
        if self.train.evaluates:
            agreement.check_best(self.train.best_metric, self.ranking)
        if self.is_daily:
            agreement.check_gate(self.gate, self.ranking, self.evaluate.metrics)
        agreement.check(self.features, self.model, self.train, self.launch)
        return self

    @property
    def is_daily(self) -> bool:
        """Whether the model is retrained daily, on rows by day."""
        return isinstance(self.data, labelled_days.Config)

    @property
    def days(self) -> labelled_days.Config:
        """The section `data` of a daily config."""
        assert isinstance(self.data, labelled_days.Config), "only of a daily config"
        return self.data

    @property
    def split_data(self) -> base.Config:
        """The section `data` of one on splits."""
        assert isinstance(self.data, base.Config), "only of a config on splits"
        return self.data

    @property
    def hash(self) -> str:
        """Digest of everything but where the runs lie, 12 hexadecimal digits."""
        return digest_of(self.model_dump(mode="json", exclude={"run_root"}))[:12]
