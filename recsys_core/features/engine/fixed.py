"""Columns that hold one value wherever a model is asked, though it is trained on what they hold in each row.

Such as the position at which an item was shown: clicks depend on it, and of a request it is not known. Position as a
feature with a fixed value at inference: Guo et al. 2019 (PAL: a position-bias aware learning framework for CTR
prediction), of whose two approaches it is the one that PAL is compared with.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from recsys_core.features.base import Feature, Side
from recsys_core.features.columns import types
from recsys_core.features.engine.graph import Graph, Values, applied


def values(features: Mapping[Side, Sequence[Feature]], graphs: Mapping[str, Graph]) -> dict[str, Any]:
    """Return the value of each column that has one.

    Raises:
        ValueError: a feature with one reads no single column of the data, or two of a column disagree.
    """
    found: dict[str, Any] = {}
    for side, own in features.items():
        for feature in own:
            name, value = feature.config.name, feature.config.at_serving
            if value is None:
                continue
            column = feature.columns[0]
            if len(feature.columns) > 1 or graphs[side].maker(feature, column) is not None:
                raise ValueError(
                    f"{side}[name={name}].at_serving: it is of one column of the data, and the feature reads "
                    f"{', '.join(feature.columns)}; say it of a feature that reads the column itself"
                )
            if found.setdefault(column, value) != value:
                raise ValueError(
                    f"{side}[name={name}].at_serving: {value!r}, and another feature of column {column!r} says "
                    f"{found[column]!r}; say one"
                )
    return found


def columns(at_serving: Mapping[str, Any], kinds: Mapping[str, str], num_rows: int) -> dict[str, pa.Array]:
    """Return each column, `num_rows` times its value, of the type that it had in training, if that is known.

    Raises:
        ValueError: a value is none of that type.
    """
    return {name: _column(name, value, kinds.get(name), num_rows) for name, value in at_serving.items()}


def refuse_unfit(
    features: Mapping[Side, Sequence[Feature]],
    graphs: Mapping[str, Graph],
    at_serving: Mapping[str, Any],
    kinds: Mapping[str, Mapping[str, str]],
) -> None:
    """Refuse a value that a feature of its column alone cannot take, before anything is trained for it.

    Raises:
        ValueError: names the feature and the column.
    """
    for side, own in features.items():
        values = Values(graphs[side], pa.table({"row": pa.nulls(1)}), _missing, columns(at_serving, kinds[side], 1))
        for feature in own:
            if (
                feature.is_output
                and feature.fitted is not False
                and at_serving.keys() >= {*graphs[side].leaves(feature)}
            ):
                applied(feature, values, feature.transform)


def _missing(feature: Feature, column: str, known: Sequence[str]) -> None:
    raise AssertionError(f"{feature.config.name}: {column} is none of {known}")


def _column(name: str, value: Any, kind: str | None, num_rows: int) -> pa.Array:
    """Return `num_rows` times the value, of the type that the column had in training, None: not known.

    Raises:
        ValueError: it is no value of that type.
    """
    try:
        one = types.column([value], types.parse(kind)) if kind is not None else pa.array([value])
    except ValueError as error:
        raise ValueError(f"column {name!r}: at_serving {value!r} is no {kind}, which the column is: {error}") from None
    return pa.repeat(one[0], num_rows)
