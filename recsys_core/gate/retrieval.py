"""The gate of retrieval: limits on one metric of the exact search at one K, and on the index."""

import math
from typing import Literal

from pydantic import Field

from recsys_core.artifacts import Evaluation, RetrievalMetrics, RetrievalSlice
from recsys_core.gate.conditions import Condition, Measured, bound, drop, lift, undefined
from recsys_core.gate.limits import MAXIMUM_DROP, Common


class Config(Common):
    """YAML section `gate`. Each limit is one condition; null leaves it out. All figures are of the exact search."""

    metric: Literal["hit_rate", "recall", "ndcg", "mrr"] = "hit_rate"
    k: int = Field(default=50, ge=1, description="one of hitrate.ks")
    minimum: float | None = Field(default=None, ge=0, le=1, description="the metric's floor")
    maximum_drop: float | None = Field(default=0.1, ge=0, le=1, description=MAXIMUM_DROP)
    minimum_lift: float | None = Field(
        default=1.0,
        ge=0,
        description="the metric over that of the popularity of the last days (hitrate.popularity_days), a ratio; "
        "without a log over that of the item table's counts",
    )
    minimum_ann_recall: float | None = Field(
        default=0.9, ge=0, le=1, description="how much of the exact top k the index has to return"
    )


def conditions(config: Config, evaluation: Evaluation) -> list[Condition]:
    """Hold `evaluation` against every limit of `config`.

    Raises:
        ValueError: `config.k` was not measured.
    """
    name = f"{config.metric}@{config.k}"
    champion = evaluation.champion
    measured = Measured(
        key="gate",
        metric=name,
        value=_at(evaluation.exact, config),
        champion=_at(champion, config) if champion else None,
        has_champion=champion is not None,
        difference=evaluation.differences.get(name),
        rows="the same ground truth",
        units=f"{evaluation.num_queries:,} users",
    )
    found: list[Condition] = []
    if config.minimum is not None:
        found.append(bound(measured, config.minimum))
    if config.minimum_lift is not None:
        recent = evaluation.recent_popularity
        name, baseline = ("popularity", evaluation.popularity) if recent is None else ("recent popularity", recent)
        found.append(lift(measured, name, _at(baseline, config), config.minimum_lift))
    if config.maximum_drop is not None:
        found.append(drop(measured, config.maximum_drop, config.confidence))
    for part in config.slices:
        found += _of_slice(config, part, evaluation.slices[part])
    if config.minimum_ann_recall is not None:
        found.append(_ann_recall(config, evaluation.ann_recall[str(config.k)], config.minimum_ann_recall))
    return found


def _of_slice(config: Config, part: str, found: RetrievalSlice) -> list[Condition]:
    limits, name = config.slices[part], f"{config.metric}@{config.k}"
    measured = Measured(
        key=f"gate.slices.{part}",
        metric=f"{name} of {part}",
        value=_at(found.exact, config) if found.exact else None,
        champion=_at(found.champion, config) if found.champion else None,
        has_champion=found.champion is not None,
        difference=found.differences.get(name),
        rows="the same ground truth",
        units=f"{found.num_queries:,} users",
        undefined="the day's ground truth has nothing of it",
        is_part=True,
    )
    keys = [key for key in ("minimum", "maximum_drop") if getattr(limits, key) is not None]
    if measured.value is None:
        return [undefined(measured, keys)] if keys else []
    floor = [bound(measured, limits.minimum)] if limits.minimum is not None else []
    return floor + ([drop(measured, limits.maximum_drop, config.confidence)] if limits.maximum_drop is not None else [])


def _ann_recall(config: Config, recall: float, limit: float) -> Condition:
    held = recall >= limit or math.isclose(recall, limit)
    sentence = (
        f"The index returns {recall:.4f} of the exact top {config.k}, "
        f"{'at or above' if held else 'below'} the minimum of {limit:.4f}."
    )
    return Condition(key="gate.minimum_ann_recall", held=held, sentence=sentence)


def _at(metrics: RetrievalMetrics, config: Config) -> float:
    by_k = getattr(metrics, config.metric)
    if str(config.k) not in by_k:
        raise ValueError(f"gate.k: {config.k} was not measured; set it to one of hitrate.ks ({', '.join(by_k)})")
    return by_k[str(config.k)]
