"""What is asked of the stages in processes of their own, and their sections of the config: without torch and faiss."""

from pathlib import Path
from typing import Annotated, ClassVar, Self

from pydantic import Field, field_validator, model_validator

from recsys_core import artifacts, placeholders
from recsys_core.artifacts import (
    ComponentConfig,
    Dataset,
    Embeddings,
    ExportedModel,
    Frozen,
    Holdout,
    Index,
    NextDay,
    TrainingData,
)
from recsys_core.gate import Part
from recsys_core.indexes import Config as Indexing
from recsys_core.lookup import OneOf
from recsys_core.sections.export import Config as Export
from recsys_core.sections.sharding import Config as Sharding
from recsys_core.training.config import Config as Train


class TrainRequest(artifacts.Request):
    """What the training of a retrieval model needs; `base` is the checkpoint to continue from.

    `base_engine` are the features that it was trained with, null: where that training had them. `pretrained` are the
    `fingerprints` of the files that tables start from.
    """

    UNKEYED: ClassVar[frozenset[str]] = artifacts.Request.UNKEYED | {"base_engine"}

    config: Train
    model: Annotated[ComponentConfig, OneOf("recsys_core.models")]
    sampler: Annotated[ComponentConfig, OneOf("recsys_core.samplers", default="weighted")] | None
    loss: Annotated[ComponentConfig, OneOf("recsys_core.losses")]
    num_ranks: int
    seed: int
    data: TrainingData
    base: artifacts.Checkpoint | None
    base_engine: Path | None = None
    pretrained: dict[str, str] = Field(default={})


class EvaluateConfig(Frozen):
    """YAML section `evaluate`."""

    batch_size: int = Field(default=1024, ge=1, description="pairs of query and item per rank and step")
    ks: tuple[int, ...] = Field(default=(1, 5, 50), min_length=1, description="recall@K among the sampled negatives")


class EvaluateRequest(artifacts.Request):
    """What the evaluation needs: a checkpoint, or what was exported of one, and `data`.

    The fitted features of a checkpoint are those in `engine`, or else of `features`, or else of `data`.
    """

    UNKEYED: ClassVar[frozenset[str]] = artifacts.Request.UNKEYED | {"engine"}

    config: EvaluateConfig
    model: Annotated[ComponentConfig, OneOf("recsys_core.models")]
    sampler: Annotated[ComponentConfig, OneOf("recsys_core.samplers", default="weighted")] | None
    loss: Annotated[ComponentConfig, OneOf("recsys_core.losses")]
    sharding: Sharding
    num_ranks: int
    seed: int
    data: TrainingData
    checkpoint: artifacts.Checkpoint | None = None
    exported: ExportedModel | None = None
    features: TrainingData | None = None
    engine: Path | None = None
    engine_digest: str | None = None

    @model_validator(mode="after")
    def _of_one_state(self) -> Self:
        assert (self.checkpoint is None) != (self.exported is None), "one of them is evaluated"
        return self


class ExportRequest(artifacts.Request):
    """What the export needs.

    The rows of `data` are those that eager and exported towers are compared on; null: those that the training kept.
    The fitted features are in `engine`; null: in `data`, or where the training kept them.
    """

    UNKEYED: ClassVar[frozenset[str]] = artifacts.Request.UNKEYED | {"engine"}

    config: Export
    model: Annotated[ComponentConfig, OneOf("recsys_core.models")]
    data: TrainingData | None = None
    checkpoint: artifacts.Checkpoint
    engine: Path | None = None
    engine_digest: str | None = None


class EmbedConfig(Frozen):
    """YAML section `embed`."""

    batch_size: int = Field(default=8_192, ge=1, description="rows per rank and step")
    items_output: str | None = Field(
        default=None, description="table or folder to write item_id and embedding to as well; {day} becomes the day"
    )
    queries_output: str | None = Field(default=None, description="the same of the ground truth's users")

    _placeholders = field_validator("items_output", "queries_output")(placeholders.check)


class EmbedRequest(artifacts.Request):
    """What embedding a day needs; `stage` names the progress events (`embed`, `embed_champion`)."""

    config: EmbedConfig
    data: TrainingData
    model: ExportedModel
    stage: str = "embed"


class IndexRequest(artifacts.Request):
    """What building an index needs; what it returns is measured of the queries' exact lists, of each length."""

    config: Annotated[Indexing, OneOf("recsys_core.indexes")]
    embeddings: Embeddings
    seed: int
    recall_ks: tuple[int, ...] = (50,)


class EaseConfig(Frozen):
    """The baseline EASE: a table of all pairs of items, solved for each time."""

    regularization: float = Field(default=250.0, gt=0, description="the larger, the less rare items say")
    max_items: int = Field(
        default=5_000,
        ge=1,
        description="of a larger item table it is not measured: 5,000 items take 10 s of a core and 0.8 GB, and twice "
        "as many eight times the seconds and four times the memory",
    )


class HitRateConfig(Frozen):
    """YAML section `hitrate`."""

    ks: tuple[int, ...] = Field(
        default=(20, 50, 200), min_length=1, description="lengths of the lists that are measured"
    )
    mask_seen: bool = Field(default=True, description="items that the user interacted with before are not recommended")
    sweep: tuple[int, ...] | None = Field(
        default=None, description="nprobe (hnsw: ef_search) values to try; null: powers of two; empty: none"
    )
    num_sweep_queries: int = Field(default=2_000, ge=1, description="queries of the sweep, evenly spaced")
    popularity_k: int | None = Field(
        default=None, description="one of ks: the K of the hit rate by popularity bucket; null: the middle one"
    )
    num_popularity_buckets: int = Field(default=5, ge=2, description="buckets of equal interaction mass")
    popularity_days: int = Field(
        default=7, ge=1, description="days of the recent popularity, over which gate.minimum_lift is"
    )
    markov_span: int = Field(
        default=10,
        ge=1,
        le=1_000,
        description="how many items after an item count as following it, and how many of a user's last are asked",
    )
    markov_decay: float = Field(default=0.8, gt=0, le=1, description="what following one item later weighs, a ratio")
    ease: EaseConfig | None = Field(
        default=None, description="measure the linear model EASE too, of at most `max_items`"
    )
    item_item_history: int = Field(default=200, ge=1, description="interactions of a user that count, the most recent")
    item_item_interactions: int = Field(
        default=10_000_000, ge=1, description="interactions of the log that count, newest days; of Markov's too"
    )

    @field_validator("ks", "sweep")
    @classmethod
    def _rising(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if value is not None and (any(number < 1 for number in value) or list(value) != sorted(set(value))):
            raise ValueError(f"{list(value)}: give whole numbers from 1 on, each once, the smallest first")
        return value

    @model_validator(mode="after")
    def _popularity_k_is_measured(self) -> Self:
        if self.popularity_k is not None and self.popularity_k not in self.ks:
            raise ValueError(f"popularity_k: {self.popularity_k} is none of ks {list(self.ks)}; set it to one of them")
        return self


class HitRateRequest(artifacts.Request):
    """What measuring a model needs; `dataset` is the log that baselines learn from, `champion` what is live.

    Without a log there is no baseline but the popularity that the item table tells.
    `holdout` says which rows of the log are the ground truth.
    `parts` are those of the ground truth that are measured too, and `confidence` is that of the intervals.
    """

    config: HitRateConfig
    dataset: Dataset | None
    holdout: Holdout = NextDay()
    data: TrainingData
    embeddings: Embeddings
    index: Index
    champion: Embeddings | None = None
    parts: dict[str, Part] = Field(default={})
    confidence: float = 0.95
