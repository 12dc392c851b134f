"""Parts of the measured rows: some users, some items, or the rows whose column has a value."""

from typing import Literal, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import model_validator

from recsys_core import columns
from recsys_core.artifacts import Frozen

NEW_USERS, COLD_ITEMS = "new_users", "cold_items"
Kind = Literal["boolean", "number", "text"]


class Part(Frozen):
    """A part of the measured rows: those whose `column` has the `value`.

    Without a column its name says which: `new_users` are users (groups) without a past, `cold_items` items without.
    """

    column: str | None = None
    value: bool | int | float | str | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.column is None) != (self.value is None):
            raise ValueError("give column and value, both or neither: a part is the rows whose column has the value")
        return self


class Values(NamedTuple):
    """A column that tells parts of the rows apart, and what its values are."""

    column: str
    kind: Kind

    @classmethod
    def of(cls, part: Part) -> "Values | None":
        """Return those of a part; None of one without a column."""
        if part.column is None or part.value is None:
            return None
        kind = "boolean" if isinstance(part.value, bool) else "text" if isinstance(part.value, str) else "number"
        return cls(part.column, kind)

    def require(self, kind: pa.DataType, key: str, value: object = None) -> None:
        """Check that a column of a type has such values; `key` names the part, and `value` is the part's, if known.

        Raises:
            ValueError: it has not.
        """
        found, types = columns.plain_type(kind), pa.types
        there = {
            "boolean": types.is_boolean(found),
            "text": types.is_string(found),
            "number": types.is_integer(found) or types.is_floating(found),
        }
        if not there[self.kind]:
            raise ValueError(
                f"{key}.value: {f'a {self.kind}' if value is None else repr(value)}, and the column {self.column!r} is "
                f"{kind}; give a value of that type"
            )


def matching(column: pa.ChunkedArray, part: Part, key: str) -> np.ndarray:
    """Return which rows have the part's value, bool [rows]; a null has none. `key` names the part.

    Raises:
        ValueError: the column's type has no such values.
    """
    asked = Values.of(part)
    assert asked is not None, "a part by column and value"
    asked.require(column.type, key, part.value)
    values = columns.by_chunk(columns.plain, column)
    return pc.equal(values, pa.scalar(part.value)).fill_null(False).to_numpy(zero_copy_only=False)  # noqa: FBT003
