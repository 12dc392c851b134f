"""Parts of the measured rows: some users, some items, or the rows whose column has a value."""

from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import model_validator

from recsys_core import columns
from recsys_core.artifacts import Frozen

NEW_USERS, COLD_ITEMS = "new_users", "cold_items"


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


def matching(column: pa.ChunkedArray, part: Part, key: str) -> np.ndarray:
    """Return which rows have the part's value, bool [rows]; a null has none. `key` names the part.

    Raises:
        ValueError: the column's type has no such values.
    """
    values = columns.by_chunk(columns.plain, column)
    kind, value = values.type, part.value
    types = pa.types
    if isinstance(value, bool):
        comparable = types.is_boolean(kind)
    elif isinstance(value, str):
        comparable = types.is_string(kind)
    else:
        comparable = types.is_integer(kind) or types.is_floating(kind)
    if not comparable:
        raise ValueError(f"{key}.value: {value!r}, and the column {part.column!r} is {kind}; give a value of that type")
    return pc.equal(values, pa.scalar(value)).fill_null(False).to_numpy(zero_copy_only=False)  # noqa: FBT003
