"""Feature kind `expr`: a formula over columns of numbers, such as `log1p(clicks) / (views + 1)`."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import field_validator

from recsys_core.features import _derived, base
from recsys_core.features.columns import lists, numbers
from recsys_core.features.columns.expression import Expression, Value, Vector


class Config(_derived.Config):
    """Keys of an expr feature.

    Names in the `expression` are columns, or features that make numbers; lists of numbers are taken number by number,
    or reduced by functions such as dot, corr and l2_norm. Where a number is missing, or the result is none (1 / 0),
    the value is null.
    """

    kind: Literal["expr"] = "expr"
    expression: str

    @field_validator("expression")
    @classmethod
    def _reads_columns(cls, expression: str) -> str:
        if not Expression(expression).names:
            raise ValueError(f"expression {expression!r} names no column, so all rows would be the same")
        return expression


class Feature(_derived.Feature):
    """One number, or one list of numbers, per row."""

    def __init__(self, config: Config) -> None:
        """Parse the expression, whose names are the columns."""
        self._expression = Expression(config.expression)
        super().__init__(config, self._expression.names)

    def make(self, columns: Sequence[pa.Array]) -> pa.Array:
        """float64, or lists of it."""
        found = self._expression(
            {name: _value(name, column) for name, column in zip(self._expression.names, columns, strict=True)}
        )
        if isinstance(found, Vector):
            offsets = np.concatenate([[0], np.cumsum(found.lengths)])
            return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), lists.numbers(found.values))
        return lists.numbers(found)


def _value(name: str, column: pa.Array) -> Value:
    try:
        if not base.is_list(column.type):
            return numbers.floats(column)
        lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
        return Vector(numbers.floats(pc.list_flatten(column)), lengths)
    except ValueError as error:
        raise ValueError(f"{name!r}: {error}") from error
