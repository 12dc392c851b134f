"""The gate's conditions: one limit held against what was measured, in a sentence with both figures."""

import math
from dataclasses import dataclass
from typing import Literal

from recsys_core.artifacts import Difference, Frozen


class Condition(Frozen):
    """The limit that `key` sets. `held` is None where what was measured does not decide it."""

    key: str
    held: bool | None
    sentence: str


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A metric of the model, and of the champion (None: undefined, or there is no champion), on the same rows.

    `key` is that of the section that has the limits; `rows` and `units` say what was measured on; `better` is the
    direction in which the metric improves; `undefined` says why there is no `value`; `is_part`: on some rows only.
    """

    key: str
    metric: str
    value: float | None
    champion: float | None
    has_champion: bool
    difference: Difference | None
    rows: str
    units: str
    better: Literal["up", "down"] = "up"
    undefined: str = ""
    is_part: bool = False

    def reaches(self, limit: float) -> bool:
        """Whether the value is the limit or better. (1 - 0.1) * 0.2 is a little more than 0.18, and counts as it."""
        assert self.value is not None
        beyond = self.value >= limit if self.better == "up" else self.value <= limit
        return beyond or math.isclose(self.value, limit)


def undefined(measured: Measured, keys: list[str]) -> Condition:
    """Return what becomes of limits on a metric that is undefined: they are not met.

    Only a part of the rows that is compared with the champion, and has no floor, is left open: on some days there are
    no such users.
    """
    held = None if measured.is_part and keys == ["maximum_drop"] else False
    outcome = (
        f"{', '.join(keys)} {'is' if len(keys) == 1 else 'are'} not met" if held is False else "nothing is compared"
    )
    sentence = f"{measured.metric} is undefined, so {outcome}: {measured.undefined}."
    return Condition(key=measured.key, held=held, sentence=sentence)


def bound(measured: Measured, limit: float) -> Condition:
    """Hold the value against a limit of its own: a floor where more is better, else a ceiling."""
    held = measured.reaches(limit)
    word, beyond = ("minimum", "below") if measured.better == "up" else ("maximum", "above")
    side = beyond if not held else "at or above" if measured.better == "up" else "at or below"
    sentence = f"{measured.metric} is {measured.value:.4f}, {side} the {word} of {limit:.4f}."
    return Condition(key=f"{measured.key}.{word}", held=held, sentence=sentence)


def lift(measured: Measured, name: str, baseline: float, limit: float) -> Condition:
    """Hold the value against a baseline's on the same rows; the lift is a ratio, above 1 where the model is better."""
    assert measured.value is not None
    key = f"{measured.key}.minimum_lift"
    if min(measured.value, baseline) < 0:
        sentence = f"{measured.metric} is below 0, where a lift, which is a ratio, says nothing; set {key} to null."
        return Condition(key=key, held=None, sentence=sentence)
    if measured.better == "up":
        held, better, worse, words = measured.reaches(limit * baseline), measured.value, baseline, "times"
    else:
        held = limit * measured.value <= baseline or math.isclose(limit * measured.value, baseline)
        better, worse, words = baseline, measured.value, "times better than"
    ratio = f"{better / worse:.2f} {words}" if worse else "against"
    sentence = (
        f"{measured.metric} is {measured.value:.4f}, {ratio} the {name} baseline's {baseline:.4f}, "
        f"{'at or above' if held else 'below'} the lift of {limit:.2f} asked for."
    )
    return Condition(key=key, held=held, sentence=sentence)


def drop(measured: Measured, limit: float, confidence: float) -> Condition:
    """Hold the model against the champion.

    It is turned down if it is worse by more than `limit` and its interval holds no model as good as the champion; it
    passes if the interval holds none that is worse by more than `limit`. Else the rows do not decide it.
    """
    key, value, champion = f"{measured.key}.maximum_drop", measured.value, measured.champion
    assert value is not None
    if not measured.has_champion:
        return Condition(key=key, held=True, sentence="There is no champion to compare with.")
    if champion is None:
        sentence = f"{measured.metric} of the champion is undefined on {measured.rows}, so nothing is compared."
        return Condition(key=key, held=None, sentence=sentence)
    difference, sign = measured.difference, -1 if measured.better == "up" else 1
    assert difference is not None, "what a champion is measured on, the model is compared on"
    change = f"{(value - champion) / abs(champion):+z.1%} from" if champion else "against"
    allowed = f"the largest {'drop' if sign < 0 else 'rise'} allowed is {limit:.1%}"
    if difference.low is None or difference.high is None:
        interval, held = f" ({measured.units} are too few for an interval)", None
    elif not champion:
        interval, held = "", measured.reaches(champion)
    else:
        low, high, ahead = (end / abs(champion) for end in (difference.low, difference.high, difference.value))
        interval = f" ({low:+z.1%} to {high:+z.1%} with {confidence:.0%} confidence, over {measured.units})"
        held = _verdict(sign * ahead, sorted((sign * low, sign * high)), limit)
    sentence = (
        f"{measured.metric} is {value:.4f}, {change} the champion's {champion:.4f} on {measured.rows}{interval}; "
        f"{allowed}{'' if held is not None else ', and more is neither shown nor ruled out'}."
    )
    return Condition(key=key, held=held, sentence=sentence)


def _verdict(worse: float, interval: list[float], limit: float) -> bool | None:
    """Decide on a model that is `worse` by this share of the champion's metric, and on its interval."""
    least, most = interval
    if most <= limit or math.isclose(most, limit):
        return True
    return False if least > 0 and worse > limit and not math.isclose(worse, limit) else None
