"""The gate: whether an evaluated model may go live, and why (not), in sentences for the engineer on call."""

import math
from typing import Literal

from pydantic import Field

from recsys_core.artifacts import Evaluation, Frozen, RetrievalMetrics


class Config(Frozen):
    """YAML section `gate`. Each limit is one condition; null leaves it out. All figures are of the exact search."""

    metric: Literal["hit_rate", "recall", "ndcg", "mrr"] = "hit_rate"
    k: int = Field(default=50, ge=1, description="one of hitrate.ks")
    minimum: float | None = Field(default=None, ge=0, le=1, description="the metric's floor")
    maximum_drop: float | None = Field(
        default=0.1,
        ge=0,
        le=1,
        description="how far below the champion's metric on the same ground truth, as a share of it",
    )
    minimum_lift: float | None = Field(
        default=1.0, ge=0, description="the metric over the popularity baseline's, a ratio"
    )
    minimum_ann_recall: float | None = Field(
        default=0.9, ge=0, le=1, description="how much of the exact top k the index has to return"
    )


class Decision(Frozen):
    """`passed`, and why: the conditions that failed, or, if none did, those that held."""

    passed: bool
    reasons: tuple[str, ...]


def decide(config: Config, evaluation: Evaluation) -> Decision:
    """Hold `evaluation` against every condition of `config`.

    Raises:
        ValueError: `config.k` was not measured.
    """
    name = f"{config.metric}@{config.k}"
    value = _measured(evaluation.exact, config)
    checks: list[tuple[bool, str]] = []
    if config.minimum is not None:
        held = _reaches(value, config.minimum)
        checks.append((held, f"{name} is {value:.4f}, {_side(held)} the minimum of {config.minimum:.4f}."))
    if config.minimum_lift is not None:
        baseline = _measured(evaluation.popularity, config)
        held = _reaches(value, config.minimum_lift * baseline)
        lift = f"{value / baseline:.2f} times" if baseline else "against"
        sentence = (
            f"{name} is {value:.4f}, {lift} the popularity baseline's {baseline:.4f}, "
            f"{_side(held)} the lift of {config.minimum_lift:.2f} asked for."
        )
        checks.append((held, sentence))
    if config.maximum_drop is not None and evaluation.champion is not None:
        champion = _measured(evaluation.champion, config)
        held = _reaches(value, (1 - config.maximum_drop) * champion)
        change = f"{value / champion - 1:+.1%} from" if champion else "against"
        sentence = (
            f"{name} is {value:.4f}, {change} the champion's {champion:.4f} on the same ground truth; "
            f"the largest drop allowed is {config.maximum_drop:.1%}."
        )
        checks.append((held, sentence))
    elif config.maximum_drop is not None:
        checks.append((True, "There is no champion to compare with."))
    if config.minimum_ann_recall is not None:
        recall = evaluation.ann_recall[str(config.k)]
        held = _reaches(recall, config.minimum_ann_recall)
        sentence = (
            f"The index returns {recall:.4f} of the exact top {config.k}, "
            f"{_side(held)} the minimum of {config.minimum_ann_recall:.4f}."
        )
        checks.append((held, sentence))
    failed = tuple(sentence for held, sentence in checks if not held)
    return Decision(passed=not failed, reasons=failed or tuple(sentence for _, sentence in checks))


def _reaches(value: float, limit: float) -> bool:
    # (1 - 0.1) * 0.2 is a little more than 0.18: a drop of exactly what is allowed is allowed.
    return value >= limit or math.isclose(value, limit)


def _side(held: bool) -> str:
    return "at or above" if held else "below"


def _measured(metrics: RetrievalMetrics, config: Config) -> float:
    by_k = getattr(metrics, config.metric)
    if str(config.k) not in by_k:
        raise ValueError(f"gate.k: {config.k} was not measured; set it to one of hitrate.ks ({', '.join(by_k)})")
    return by_k[str(config.k)]
