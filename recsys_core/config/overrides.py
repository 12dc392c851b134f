"""Changes to a config from the command line: `--set KEY=VALUE` and `--edit-config-json '{KEY: VALUE}'`.

A key is a path such as `train.batch_size`. What stands in brackets selects entries of a list: `[0]` and `[-1]` by
number, `[1:3]` and `[:]` a range, `[name=city]` those whose key `name` has that value, also `[num_embeddings>=1000]`
or `[shape.kind!=square]`. A value goes to every selected entry. What selects nothing is an error.
"""

import copy
import difflib
import itertools
import operator
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from recsys_core.config import reading
from recsys_core.config.parsing import Key, spell
from recsys_core.config.reading import kind_of

_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_STEP = r"[^.\[\]=]+(?:\[[^\[\]]*\])*"
_PATH = re.compile(rf"\s*({_STEP}(?:\.{_STEP})*)\s*")
_INDEX = re.compile(r"-?\d{1,18}")
_SLICE = re.compile(r"(-?\d{1,18})?:(-?\d{1,18})?")
_CONDITION = re.compile(r"(?P<key>[^=!<>]+)(?P<sign>!=|>=|<=|=|>|<)(?P<value>.*)")
_MAX_LISTED = 20
# More than any config has, and few enough for the time that matching a path takes.
_MAX_PATH = 1_000


class _Condition(NamedTuple):
    """`[name=city]`: `keys` is the path inside an entry."""

    keys: tuple[str, ...]
    sign: str
    value: Any


_Selector = str | int | slice | _Condition


def override(sections: dict[str, Any], change: str) -> dict[tuple[Key, ...], str]:
    """Apply `change` to `sections`; return each path that was set, with the option that set it as messages show it.

    `change` is `a.b[0].c=value`, the value read as YAML, or the text of a JSON object of such paths and values.

    Raises:
        ValueError: not of that form, a path that leads through something that is no section or list, or a selector
            that matches nothing; names what there is.
    """
    if change.lstrip().startswith("{"):
        option = f"--edit-config-json {reading.visible(change)}"
        edits = _edits(change, option)
    else:
        option = f"--set {reading.visible(change)}"
        edits = {}
        found = _PATH.match(change[: _MAX_PATH + 1])
        if not found or change[found.end() : found.end() + 1] != "=":
            raise ValueError(f"{option}: not of the form section.key=value or section.list[0].key=value")
        edits[found[1]] = reading.value(change[found.end() + 1 :], option, lines=False)
    return {keys: option for path, value in edits.items() for keys in _assign(sections, path, value, option)}


def _edits(text: str, option: str) -> dict[str, Any]:
    edits = reading.json_object(text, option)
    for path in edits:
        if len(path) > _MAX_PATH or not _PATH.fullmatch(path):
            raise ValueError(
                f"{option}: {reading.visible(path)!r} is not of the form section.key or section.list[0].key"
            )
    return {path.strip(): value for path, value in edits.items()}


def _assign(sections: dict[str, Any], path: str, value: Any, option: str) -> Iterator[tuple[Key, ...]]:
    """Set `value` at every place that `path` selects; yield those places."""
    selectors = _selectors(path, option)
    places: list[tuple[tuple[Key, ...], Any]] = [((), sections)]
    for selector, after in itertools.pairwise(selectors):
        inside: list[tuple[tuple[Key, ...], Any]] = []
        for keys, place in places:
            for key in _chosen(place, selector, spell(keys), option):
                if isinstance(key, str) and place.get(key) is None:
                    place[key] = {} if isinstance(after, str) else []
                inside.append(((*keys, key), place[key]))
        places = inside
    for keys, place in places:
        for key in _chosen(place, selectors[-1], spell(keys), option):
            place[key] = copy.deepcopy(value)
            yield (*keys, key)


def _selectors(path: str, option: str) -> list[_Selector]:
    selectors: list[_Selector] = []
    for step in re.findall(_STEP, path):
        key, *brackets = re.split(r"\[([^\[\]]*)\]", step)
        selectors.append(key)
        for inside in brackets[::2]:
            if _INDEX.fullmatch(inside):
                selectors.append(int(inside))
            elif found := _SLICE.fullmatch(inside):
                selectors.append(slice(*(int(number) if number else None for number in found.groups())))
            elif found := _CONDITION.fullmatch(inside):
                selectors.append(_Condition(tuple(found["key"].split(".")), found["sign"], _scalar(found["value"])))
            else:
                raise ValueError(f"{option}: [{inside}] selects nothing; write [0], [-1], [1:3], [:] or [name=value]")
    return selectors


def _scalar(text: str) -> Any:
    try:
        return reading.value(text, "", lines=False)
    except ValueError:
        return text


def _chosen(place: Any, selector: _Selector, at: str, option: str) -> list[Key]:
    """Return the keys of `place` that `selector` chooses, at least one."""
    if isinstance(selector, str):
        if not isinstance(place, dict):
            found = kind_of(place)
            raise ValueError(f"{option}: {at} is {found} in the config, which has no key {selector!r}")  # noqa: TRY004
        return [selector]
    if not isinstance(place, list):
        raise ValueError(f"{option}: {at} is {kind_of(place)} in the config, not a list")  # noqa: TRY004
    held = f"{at} has {len(place)} entries in the config"
    if isinstance(selector, int):
        if not -len(place) <= selector < len(place):
            raise ValueError(f"{option}: {held}, so [{selector}] is out of range")
        return [selector % len(place)]
    if isinstance(selector, slice):
        if not (numbers := list(range(len(place)))[selector]):
            raise ValueError(f"{option}: {held}, and the range selects none of them")
        return [*numbers]
    values = [_inside(entry, selector.keys) for entry in place]
    if not (matching := [n for n, value in enumerate(values) if _holds(value, selector)]):
        key = ".".join(selector.keys)
        known = list(dict.fromkeys(str(value) for value in values if value is not None))
        near = difflib.get_close_matches(str(selector.value), known, n=1)
        there = f"its entries have {key} {', '.join(known[:_MAX_LISTED])}" if known else f"none of them has {key}"
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"{option}: {held}, none with {key} {selector.sign} {selector.value}: {there}{hint}")
    return [*matching]


def _inside(entry: Any, keys: tuple[str, ...]) -> Any:
    for key in keys:
        entry = entry.get(key) if isinstance(entry, dict) else None
    return entry


def _holds(value: Any, condition: _Condition) -> bool:
    """Whether an entry's value meets the condition; an entry without the key meets none."""
    if value is None:
        return False
    numbers = (int, float)
    if condition.sign in ("=", "!=") or (isinstance(value, numbers) and isinstance(condition.value, numbers)):
        return _COMPARE[condition.sign](value, condition.value)
    return _COMPARE[condition.sign](str(value), str(condition.value))
