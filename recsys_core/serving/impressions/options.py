"""How a log of requests and a log of clicks are joined."""

import datetime
from typing import Self

from pydantic import Field, model_validator

from recsys_core.artifacts import Frozen
from recsys_core.features.columns import types
from recsys_core.serving.service import live

REQUEST_ID = "request_id"
ITEM_ID = "item_id"
OWN = (REQUEST_ID, "time", "version", "position", ITEM_ID, "score")
"""The columns that every joined row begins with."""
_PATHS = (live.RECOMMEND, live.BOTH, live.RANK)


class Options(Frozen):
    """What decides which click belongs to which shown item, and what a row of the table holds."""

    key: str = Field(
        default=REQUEST_ID, description="what both logs have: request_id, or a column of the requests' user"
    )
    click_key: str | None = Field(default=None, description="what it is called among the clicks; null: the same")
    click_item: str = ITEM_ID
    click_time: str = "timestamp"
    window_seconds: int = Field(default=1_800, ge=1, le=7 * 86_400)
    paths: tuple[str, ...] = Field(default=(live.RECOMMEND, live.BOTH), min_length=1)
    shown: int | None = Field(default=None, ge=1, description="how many items of a list were shown; null: all of them")
    label: str = "click"
    types: dict[str, str] = Field(default={}, description="types of columns that the first day does not show")
    leave_out: tuple[str, ...] = Field(default=(), description="columns of requests that the rows do not have")

    @model_validator(mode="after")
    def _known(self) -> Self:
        if strange := [path for path in self.paths if path not in _PATHS]:
            raise ValueError(f"paths: {strange[0]!r} answers with no list; name some of {', '.join(_PATHS)}")
        if self.label in OWN:
            raise ValueError(f"label: {self.label!r} is another column of the rows; name it otherwise")
        for name, kind in self.types.items():
            try:
                types.parse(kind)
            except (KeyError, ValueError):
                raise ValueError(
                    f"types: {name}={kind} is no type; give int64, float32, float64, string, bool, date32, "
                    "timestamp[us], or a list<…> of one"
                ) from None
        if both := sorted(self.types.keys() & set(self.leave_out)):
            raise ValueError(f"types: {both[0]!r} is left out too; say one of both")
        return self

    @property
    def window(self) -> datetime.timedelta:
        """How long after it was shown an item can be clicked."""
        return datetime.timedelta(seconds=self.window_seconds)
