"""A run's whole configuration, in the order of the data's path: of retrieval here, of ranking in `ranking`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from recsys_core.artifacts import ComponentConfig, Frozen, Holdout, NextDay, Rows, Split, digest_of
from recsys_core.config import agreement, limits, parsing, products, reading, tables
from recsys_core.config.overrides import override
from recsys_core.config.ranking import RankingConfig
from recsys_core.contract import Config as Contract
from recsys_core.datasets import examples
from recsys_core.features import Config as Features
from recsys_core.gate import Config as Gate
from recsys_core.indexes import Config as Index
from recsys_core.indexes.ivf_flat import Config as IvfFlat
from recsys_core.ingest import Config as Data
from recsys_core.launch import CATALOGUE as LAUNCHERS
from recsys_core.launch import Config as Launch
from recsys_core.launch import Local
from recsys_core.lookup import OneOf
from recsys_core.losses.sampled_softmax import Config as SampledSoftmax
from recsys_core.redaction import redacted
from recsys_core.retrieval.preprocess import Config as Preprocess
from recsys_core.retrieval.preprocess import Sampling
from recsys_core.retrieval.publish import Config as Publish
from recsys_core.retrieval.requests import EmbedConfig as Embed
from recsys_core.retrieval.requests import EvaluateConfig as Evaluate
from recsys_core.retrieval.requests import HitRateConfig as HitRate
from recsys_core.samplers import impressions
from recsys_core.sections.export import Config as Export
from recsys_core.tracking import Config as Tracking
from recsys_core.training.config import Config as Train


class RunConfig(Frozen):
    """One YAML file. Relative paths start where the command is run."""

    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9_-]*$", description="of the model; its runs, experiment and releases are named so"
    )
    run_root: products.RunRoot = Field(default=Path("runs"), description="folder that the runs are written to")
    seed: int = Field(default=0, ge=0)
    data: Data
    contract: Contract = Contract()
    holdout: Holdout = Field(default=NextDay(), description="the interactions that a day's model is measured on")
    preprocess: Preprocess = Preprocess()
    features: Features
    model: Annotated[ComponentConfig, OneOf("recsys_core.models")]
    sampler: Annotated[ComponentConfig, OneOf("recsys_core.samplers", default="weighted")] | None = None
    loss: Annotated[ComponentConfig, OneOf("recsys_core.losses", default="sampled_softmax")] = SampledSoftmax()
    train: Annotated[Train, products.RETRIEVAL] = Train()
    evaluate: Evaluate = Evaluate()
    export: Export = Export()
    embed: Embed = Embed()
    index: Annotated[Index, OneOf("recsys_core.indexes", default="ivf_flat")] = IvfFlat()
    hitrate: HitRate = HitRate()
    gate: Gate = Gate()
    publish: Publish = Publish()
    tracking: Tracking = Tracking()
    launch: Annotated[Launch, OneOf(LAUNCHERS, default="local")] = Local()

    @model_validator(mode="before")
    @classmethod
    def _of_its_kind(cls, sections: Any) -> Any:
        data = sections.get("data") if isinstance(sections, dict) else None
        if isinstance(data, dict) and data.get("kind") == "examples":
            products.refuse(sections, products.EXAMPLES)
        return sections

    @model_serializer(mode="wrap")
    def _as_read(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what is not read of it."""
        return products.without(dump(self), products.EXAMPLES) if self.examples is not None else dump(self)

    @model_validator(mode="after")
    def _retrieves(self) -> Self:
        limits.check(self)
        if isinstance(self.holdout, Rows) and self.holdout.by != "user_id":
            raise ValueError(
                f"holdout.by: {self.holdout.by}, and what a user took later is no past that the same user's measured "
                "rows may know; hold out by user_id"
            )
        if isinstance(self.holdout, Split):
            self._starts_cold(self.holdout.kind)
        if self.examples is not None and "negatives" in self.examples.source and self.preprocess.sampling != Sampling():
            raise ValueError(
                "preprocess.sampling: items are drawn by the weights of data.source.negatives, so nothing reads it; "
                "remove it"
            )
        if self.examples is not None and isinstance(self.sampler, impressions.Config):
            raise ValueError(
                "sampler.kind: impressions mixes the weights of a log's items, and ready-made examples (data.kind: "
                "examples) have none; use kind: weighted"
            )
        for feature in (*self.features.query, *self.features.item):
            if feature.at_serving is not None:
                raise ValueError(
                    f"features: at_serving of {feature.name!r}: rows that a retrieval model is trained on say nothing "
                    "of how an item was shown; remove it"
                )
        tables.check(self.features, self.train)
        agreement.check_measured(self.gate, self.hitrate, self.index)
        agreement.check(self.features, self.model, self.train, self.launch)
        agreement.check_loss(self.loss, self.model, self.sampler)
        agreement.check_order(self.features, self.model, self.preprocess)
        return self

    def _starts_cold(self, split: str) -> None:
        lie = f"holdout.kind: {split} holds out rows of any day"
        if self.train.warm_start:
            raise ValueError(
                f"train.warm_start: true, and {lie}, which a release of an earlier day has learned; set it to false"
            )
        if self.publish.absorb:
            raise ValueError(f"publish.absorb: true, and {lie}, which are not those of a day; set it to false")

    @property
    def examples(self) -> examples.Config | None:
        """The section `data` where it is of ready-made examples; None: there is a log."""
        return self.data if isinstance(self.data, examples.Config) else None

    @property
    def hash(self) -> str:
        """Digest of everything but where the runs lie, 12 hexadecimal digits."""
        return digest_of(self.model_dump(mode="json", exclude={"run_root"}))[:12]


def load(path: Path, overrides: Sequence[str] = ()) -> RunConfig | RankingConfig:
    """Read a config, a ranking one if it has a section `ranking`.

    `overrides` are such as `train.batch_size=512` or `features.query[name=city].column=town`, or JSON objects of paths
    and values; see `overrides`.

    Raises:
        ValueError: one line for each mistake, with its place and the nearest valid key.
    """
    sections = reading.read(path)
    applied: dict[tuple[parsing.Key, ...], str] = {}
    for change in overrides:
        applied |= override(sections, change)
    try:
        return parsing.validate(RankingConfig if "ranking" in sections else RunConfig, sections, path, applied)
    except RecursionError:
        raise ValueError(f"{path}: nested too deeply") from None


def show(config: RunConfig | RankingConfig) -> str:
    """Return the whole config as YAML, defaults included; `load` reads it back as it was, but for credentials."""
    return yaml.safe_dump(redacted(config.model_dump(mode="json")), sort_keys=False, allow_unicode=True)


def schema(*, ranking: bool = False) -> dict[str, Any]:
    """Return the JSON schema by which an editor completes and checks a config file, one of `ranking` if so."""
    record = RankingConfig if ranking else RunConfig
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **parsing.schema(record)}
