"""The gate of ranking: limits on one metric of the held-out rows, and on the calibration."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from recsys_core.artifacts import LabelledMetrics, LabelledSlice, RankingEvaluation
from recsys_core.gate import limits
from recsys_core.gate.conditions import Condition, Measured, bound, drop, lift, undefined
from recsys_core.metrics.ranking import direction


class Slice(limits.Slice):
    """See `limits.Slice`; a metric that is better the lower it is has a ceiling."""

    maximum: float | None = Field(default=None, description="the metric's ceiling on these rows")


def _rising(span: tuple[float, float] | None) -> tuple[float, float] | None:
    if span is not None and not 0 <= span[0] < span[1]:
        raise ValueError(f"{list(span)}: give the least and the most, such as [0.8, 1.25]")
    return span


class Config(limits.Common):
    """YAML section `gate` of a daily ranking config. Each limit is one condition; null leaves it out."""

    task: str | None = Field(
        default=None,
        description="of several tasks the one by which is decided: its metric, calibration and slices, on its rows; "
        "null: the first of ranking.tasks",
    )
    metric: str = Field(default="auc", description="kind of a metric: one of every evaluation, or of evaluate.metrics")
    minimum: float | None = Field(default=None, description="the floor of a metric that is better the higher")
    maximum: float | None = Field(default=None, description="the ceiling of one that is better the lower")
    maximum_drop: float | None = Field(default=0.01, ge=0, le=1, description=limits.MAXIMUM_DROP)
    minimum_lift: float | None = Field(
        default=1.0,
        ge=0,
        description="the metric over the baseline's, a ratio (the baseline's over it, where less is better)",
    )
    baseline: Literal["rate", "item_rate"] = Field(
        default="rate",
        description="what minimum_lift is over: past rows' share of positives for all alike, or each item's own "
        "(ranking.item)",
    )
    calibration: Annotated[tuple[float, float] | None, AfterValidator(_rising)] = Field(
        default=None,
        description="least and most of predicted positives over actual ones, such as [0.8, 1.25]; above 1 where a "
        "feature has a value at_serving",
    )
    # Records are frozen, so a narrower slice is one of those of both products.
    slices: Annotated[dict[str, Slice], AfterValidator(limits.named)] = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default={}, description=f"{limits.SLICES}, `maximum`"
    )

    @model_validator(mode="after")
    def _replays_scores(self) -> Self:
        if self.replay is not None and self.replay.minimum_overlap is not None:
            raise ValueError(
                "replay.minimum_overlap: a ranking model finds no items, it scores those that are given; set "
                "replay.maximum_changed"
            )
        return self

    @model_validator(mode="after")
    def _bounded_on_its_worse_side(self) -> Self:
        better = direction(self.metric)
        if better == "one":
            raise ValueError(f"metric: {self.metric} is best near 1; set gate.calibration, and another metric")
        useless, key = ("maximum", "minimum") if better == "up" else ("minimum", "maximum")
        for place, part in {"": self, **{f"slices.{name}.": part for name, part in self.slices.items()}}.items():
            if getattr(part, useless) is not None:
                side = "higher" if useless == "maximum" else "lower"
                raise ValueError(f"{place}{useless}: {self.metric} is better the {side} it is; set {key} instead")
        return self


def conditions(config: Config, evaluation: RankingEvaluation) -> list[Condition]:
    """Hold `evaluation` against every limit of `config`; limits on a metric that is undefined are not met."""
    metrics = evaluation.metrics
    measured = _measured(config, "gate", evaluation, evaluation.num_units)
    wanted = ("minimum", "maximum", "minimum_lift", "maximum_drop")
    keys = [key for key in wanted if getattr(config, key) is not None]
    found: list[Condition] = []
    if measured.value is None:
        found += [undefined(measured, keys)] if keys else []
    else:
        found += _bounds(measured, config)
        if config.minimum_lift is not None:
            found.append(_lift(config, measured, evaluation.baselines.get(config.baseline), config.minimum_lift))
        if config.maximum_drop is not None:
            found.append(drop(measured, config.maximum_drop, config.confidence))
    if config.calibration is not None:
        found.append(_calibration(_of_task(config, "calibration"), metrics, config.calibration))
    for name in config.slices:
        found += _of_slice(config, name, evaluation.slices[name])
    return found


def _lift(config: Config, measured: Measured, baseline: LabelledMetrics | None, limit: float) -> Condition:
    if baseline is None:
        sentence = f"There are no past rows to make the baseline {config.baseline} of, so the lift is not known."
        return Condition(key="gate.minimum_lift", held=None, sentence=sentence)
    value = _value(baseline, config.metric)
    assert value is not None, "what is defined of a model is defined of a baseline on the same rows"
    return lift(measured, config.baseline, value, limit)


def _of_slice(config: Config, name: str, found: LabelledSlice) -> list[Condition]:
    part = config.slices[name]
    measured = _measured(config, f"gate.slices.{name}", found, found.num_units, part=name)
    keys = [key for key in ("minimum", "maximum", "maximum_drop") if getattr(part, key) is not None]
    if measured.value is None:
        return [undefined(measured, keys)] if keys else []
    compared = [drop(measured, part.maximum_drop, config.confidence)] if part.maximum_drop is not None else []
    return [*_bounds(measured, part), *compared]


def _of_task(config: Config, metric: str) -> str:
    """Return what a metric is called in sentences."""
    return metric if config.task is None else f"{config.task} {metric}"


def _bounds(measured: Measured, config: Config | Slice) -> list[Condition]:
    limit = config.minimum if measured.better == "up" else config.maximum
    return [] if limit is None else [bound(measured, limit)]


def _measured(
    config: Config, key: str, found: RankingEvaluation | LabelledSlice, num_units: int, part: str | None = None
) -> Measured:
    name, metrics, champion = config.metric, found.metrics, found.champion
    called = _of_task(config, name)
    value = _value(metrics, name) if metrics else None
    unit = "groups" if found.has_groups else "rows"
    return Measured(
        key=key,
        metric=f"{called} of {part}" if part else called,
        value=value,
        champion=_value(champion, name) if champion else None,
        has_champion=champion is not None,
        difference=found.differences.get(name),
        rows="the same rows",
        units=f"{num_units:,} {unit}",
        better="up" if direction(name) == "up" else "down",
        undefined=_reason(metrics, name) if value is None else "",
        is_part=part is not None,
    )


def _reason(metrics: LabelledMetrics | None, name: str) -> str:
    if metrics is None:
        return "there is no such row with a weight"
    if metrics.num_positives in (0, metrics.num_rows):
        which = "none" if not metrics.num_positives else "every one"
        return f"of the {metrics.num_rows:,} rows {which} is positive"
    return "no group has rows of both labels" if name == "gauc" else "rows of one label weigh nothing"


def _calibration(called: str, metrics: LabelledMetrics, span: tuple[float, float]) -> Condition:
    value, (least, most) = metrics.calibration, span
    if value is None:
        sentence = f"{called} is undefined, so calibration is not met: {_reason(metrics, 'calibration')}."
        return Condition(key="gate.calibration", held=False, sentence=sentence)
    held = least <= value <= most
    sentence = (
        f"{called} (predicted positives over actual ones) is {value:.4f}, "
        f"{'within' if held else 'outside of'} {least:.4f} to {most:.4f}."
    )
    return Condition(key="gate.calibration", held=held, sentence=sentence)


def _value(metrics: LabelledMetrics, name: str) -> float | None:
    return metrics.others[name] if name in metrics.others else getattr(metrics, name)
