"""The gate's conditions on logged requests, which the new model and the live one have answered."""

import math

from pydantic import Field

from recsys_core.artifacts import Frozen, ReplayedLog
from recsys_core.gate.conditions import Condition

_KEY = "gate.replay"


class Config(Frozen):
    """Section `gate.replay`: requests that `dayline serve --log` has kept, asked of the new model and of the live one.

    Each limit is one condition; null leaves it out.
    """

    log: str = Field(description="the log's folder, a part of it, or files: a path as of data")
    requests: int = Field(default=1_000, ge=1, le=100_000, description="the newest that are replayed")
    maximum_unanswered: float | None = Field(
        default=0.0, ge=0, le=1, description="largest share of them that the live model answers and the new one refuses"
    )
    maximum_changed: float | None = Field(
        default=None, ge=0, le=1, description="largest share of answers whose best item is another"
    )
    minimum_overlap: float | None = Field(
        default=None, ge=0, le=1, description="of retrieval: the mean share of the live model's items that come again"
    )
    maximum_latency_ratio: float | None = Field(
        default=None, gt=0, description="a request's CPU time over the live model's, medians in one process"
    )


def conditions(config: Config, found: ReplayedLog) -> list[Condition]:
    """Hold a replay against every limit of `config`.

    On the first day there is no live model, and perhaps no log: that holds, and the sentence says so. Later a log
    without requests is unclear.
    """
    if not found.num_rows:
        later = "" if found.champion is None else f", though {found.champion} is live"
        sentence = f"{found.log} has no requests that this model would answer{later}, so nothing is replayed."
        return [Condition(key=_KEY, held=True if found.champion is None else None, sentence=sentence)]
    made: list[Condition] = []
    if config.maximum_unanswered is not None:
        made.append(_unanswered(found, config.maximum_unanswered))
    if found.champion is None:
        sentence = f"There is no live model whose answers to {found.num_rows:,} logged requests could be compared."
        return [*made, Condition(key=_KEY, held=True, sentence=sentence)]
    if config.maximum_changed is not None:
        made.append(_share(found, "maximum_changed", found.changed, config.maximum_changed))
    if config.minimum_overlap is not None:
        made.append(_share(found, "minimum_overlap", found.overlap, config.minimum_overlap))
    if config.maximum_latency_ratio is not None:
        made.append(_latency(found, config.maximum_latency_ratio))
    return made


def metrics(found: ReplayedLog) -> dict[str, float]:
    """Return the figures by the names that MLflow gets."""
    ratio = latency_ratio(found)
    made = {
        "requests": found.num_rows,
        "unanswered": found.unanswered / found.num_rows if found.num_rows else None,
        "changed": found.changed,
        "overlap": found.overlap,
        "latency_ratio": ratio,
        "cpu_ms": None if found.seconds is None else found.seconds * 1e3,
    }
    return {f"replay/{name}": float(value) for name, value in made.items() if value is not None}


def latency_ratio(found: ReplayedLog) -> float | None:
    """Return a request's time over the live model's; None where one of them has answered none."""
    if found.seconds is None or not found.champion_seconds:
        return None
    return found.seconds / found.champion_seconds


def _unanswered(found: ReplayedLog, limit: float) -> Condition:
    share = found.unanswered / found.num_rows
    held = share <= limit or math.isclose(share, limit)
    reason = f" (such as: {found.refusal})" if found.refusal and not held else ""
    sentence = (
        f"Of {found.num_rows:,} logged requests {found.unanswered:,} ({share:.1%}) are refused by the new model alone, "
        f"{'at or below' if held else 'above'} the largest share of {limit:.1%}{reason}."
    )
    return Condition(key=f"{_KEY}.maximum_unanswered", held=held, sentence=sentence)


def _share(found: ReplayedLog, name: str, value: float | None, limit: float) -> Condition:
    key = f"{_KEY}.{name}"
    if value is None:
        sentence = f"None of {found.num_rows:,} logged requests has answers to compare, so {name} is not known."
        return Condition(key=key, held=None, sentence=sentence)
    is_floor = name.startswith("minimum")
    held = (value >= limit if is_floor else value <= limit) or math.isclose(value, limit)
    beyond = ("at or above" if held else "below") if is_floor else ("at or below" if held else "above")
    what = "of the live model's items come again" if is_floor else "of the answers have another best item"
    sentence = (
        f"{value:.1%} {what}, over {found.compared:,} logged requests against {found.champion}, {beyond} the "
        f"{'minimum' if is_floor else 'maximum'} of {limit:.1%}."
    )
    return Condition(key=key, held=held, sentence=sentence)


def _latency(found: ReplayedLog, limit: float) -> Condition:
    key, ratio = f"{_KEY}.maximum_latency_ratio", latency_ratio(found)
    if ratio is None:
        sentence = "No logged request was answered by both models, so the ratio of their times is not known."
        return Condition(key=key, held=None, sentence=sentence)
    held = ratio <= limit or math.isclose(ratio, limit)
    assert found.seconds is not None
    sentence = (
        f"A logged request takes {found.seconds * 1e3:.2f} ms of CPU time, {ratio:.2f} times that of {found.champion}, "
        f"{'at or below' if held else 'above'} the maximum of {limit:.2f}."
    )
    return Condition(key=key, held=held, sentence=sentence)
