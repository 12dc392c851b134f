"""The functions of expressions, each over whole columns: of single numbers, and of lists."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

_EARTH_RADIUS_KM = 6371.0088

CONSTANTS = {"pi": math.pi, "e": math.e}


def truth(found: Any, *operands: Any) -> np.ndarray:
    """1 or 0, and NaN where an operand is."""
    unknown = np.isnan(operands[0])
    for operand in operands[1:]:
        unknown = unknown | np.isnan(operand)
    return np.where(unknown, np.nan, np.where(found, 1.0, 0.0))


def choose(condition: np.ndarray, yes: np.ndarray, no: np.ndarray) -> np.ndarray:
    """One of two by whether the condition is 0, NaN where that is."""
    return np.where(np.isnan(condition), np.nan, np.where(condition != 0, yes, no))


def haversine(lat1: np.ndarray, lon1: np.ndarray, lat2: np.ndarray, lon2: np.ndarray) -> np.ndarray:
    """Kilometres between two places on the Earth, given in degrees."""
    a, b, c, d = (np.radians(angle) for angle in (lat1, lon1, lat2, lon2))
    h = np.sin((c - a) / 2) ** 2 + np.cos(a) * np.cos(c) * np.sin((d - b) / 2) ** 2
    return 2 * _EARTH_RADIUS_KM * np.arcsin(np.sqrt(np.clip(h, 0, 1)))


def _round(x: np.ndarray, digits: np.ndarray | float = 0.0) -> np.ndarray:
    scale = np.power(10.0, digits)
    # As C does: halves away from zero.
    return np.trunc(x * scale + np.copysign(0.5, x)) / scale


def _each(function: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """Extend a function of two numbers to any number of them."""

    def many(*numbers: np.ndarray) -> np.ndarray:
        found = numbers[0]
        for number in numbers[1:]:
            found = function(found, number)
        return found

    return many


def _sums(values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    return _reduced(np.add, values, lengths, 0.0)


def _reduced(function: np.ufunc, values: np.ndarray, lengths: np.ndarray, empty: float) -> np.ndarray:
    """float64 [B] over each row's numbers; `empty` for a row without any."""
    found = np.full(len(lengths), empty)
    filled = np.flatnonzero(lengths)
    if len(filled):
        found[filled] = function.reduceat(values, (np.cumsum(lengths) - lengths)[filled])
    return found


def _mean(values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    return _sums(values, lengths) / lengths


def _centred(values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    return values - np.repeat(_mean(values, lengths), lengths)


def _variance(values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    return _mean(_centred(values, lengths) ** 2, lengths)


def _dot(a: np.ndarray, b: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    return _sums(a * b, lengths)


def _l2(values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    return np.sqrt(_sums(values**2, lengths))


def _cosine(a: np.ndarray, b: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    return _dot(a, b, lengths) / (_l2(a, lengths) * _l2(b, lengths))


def _correlation(a: np.ndarray, b: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    return _cosine(_centred(a, lengths), _centred(b, lengths), lengths)


def _median(values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    owners = np.repeat(np.arange(len(lengths)), lengths)
    ordered = np.append(values[np.lexsort((values, owners))], np.nan)
    first = np.cumsum(lengths) - lengths
    low, high = first + (lengths - 1) // 2, first + lengths // 2
    found = (ordered[np.maximum(low, 0)] + ordered[high]) / 2
    unknown = np.isnan(_sums(values, lengths))
    return np.where((lengths == 0) | unknown, np.nan, found)


def _at(place: str) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    def function(values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        padded = np.append(values, np.nan)
        ends = np.cumsum(lengths)
        places = ends - lengths if place == "first" else ends - 1
        return np.where(lengths > 0, padded[np.minimum(np.maximum(places, 0), len(values))], np.nan)

    return function


def _special(name: str) -> Callable[[Any], np.ndarray]:
    def function(values: Any) -> np.ndarray:
        # Most configs have no such formula, and it takes a while to import.
        from scipy import special

        return getattr(special, name)(values)

    return function


_MANY = 99
_Known = dict[str, tuple[Callable[..., Any], int, int]]

SCALAR: _Known = {
    **{name: (getattr(np, name), 1, 1) for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh", "sqrt", "cbrt")},
    **{name: (getattr(np, name), 1, 1) for name in ("exp", "exp2", "expm1", "log2", "log10", "log1p", "floor", "ceil")},
    **{name: (getattr(np, name), 1, 1) for name in ("trunc", "sign")},
    **{f"a{name}": (getattr(np, f"arc{name}"), 1, 1) for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh")},
    "abs": (np.absolute, 1, 1),
    "log": (np.log, 1, 1),
    "ln": (np.log, 1, 1),
    "round": (_round, 1, 2),
    "square": (np.square, 1, 1),
    "sigmoid": (_special("expit"), 1, 1),
    "logit": (_special("logit"), 1, 1),
    "relu": (lambda x: np.maximum(x, 0.0), 1, 1),
    "erf": (_special("erf"), 1, 1),
    "gamma": (_special("gamma"), 1, 1),
    "radians": (np.radians, 1, 1),
    "degrees": (np.degrees, 1, 1),
    "is_null": (lambda x: np.where(np.isnan(x), 1.0, 0.0), 1, 1),
    "if_null": (lambda x, default: np.where(np.isnan(x), default, x), 2, 2),
    "atan2": (np.arctan2, 2, 2),
    "hypot": (np.hypot, 2, 2),
    "pow": (np.power, 2, 2),
    "mod": (np.fmod, 2, 2),
    "min": (_each(np.minimum), 1, _MANY),
    "max": (_each(np.maximum), 1, _MANY),
    "sum": (_each(np.add), 1, _MANY),
    "avg": (lambda *x: _each(np.add)(*x) / len(x), 1, _MANY),
    "clip": (lambda x, low, high: np.minimum(np.maximum(x, low), high), 3, 3),
    "if": (choose, 3, 3),
    "haversine": (haversine, 4, 4),
}
"""Function, fewest and most arguments; each argument a number, or a list whose numbers are taken one by one."""

VECTOR: _Known = {
    "length": (lambda _, lengths: lengths.astype(np.float64), 1, 1),
    "vsum": (_sums, 1, 1),
    "vmean": (_mean, 1, 1),
    "vmin": (lambda values, lengths: _reduced(np.minimum, values, lengths, np.nan), 1, 1),
    "vmax": (lambda values, lengths: _reduced(np.maximum, values, lengths, np.nan), 1, 1),
    "variance": (_variance, 1, 1),
    "std": (lambda values, lengths: np.sqrt(_variance(values, lengths)), 1, 1),
    "median": (_median, 1, 1),
    "first": (_at("first"), 1, 1),
    "last": (_at("last"), 1, 1),
    "l1_norm": (lambda values, lengths: _sums(np.absolute(values), lengths), 1, 1),
    "l2_norm": (_l2, 1, 1),
    "dot": (_dot, 2, 2),
    "cosine": (_cosine, 2, 2),
    "euclidean": (lambda a, b, lengths: _l2(a - b, lengths), 2, 2),
    "corr": (_correlation, 2, 2),
}
"""Likewise; each argument a list, the result a number per row."""
