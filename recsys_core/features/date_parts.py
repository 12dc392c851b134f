"""Feature kind `date_parts`: one part of a time, such as its hour or its weekday."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import field_validator

from recsys_core.features import _derived
from recsys_core.features.columns.lists import Lists

Part = Literal[
    "year", "quarter", "month", "week", "day", "day_of_year", "weekday", "is_weekend", "hour", "minute", "second"
]
_PARTS: dict[str, Callable[[Any], Any]] = {
    "year": pc.year,
    "quarter": pc.quarter,
    "month": pc.month,
    "week": pc.iso_week,
    "day": pc.day,
    "day_of_year": pc.day_of_year,
    "weekday": pc.day_of_week,
    "is_weekend": lambda time: pc.greater_equal(pc.day_of_week(time), 5),
    "hour": pc.hour,
    "minute": pc.minute,
    "second": pc.second,
}
assert set(_PARTS) == set(get_args(Part))


class Config(_derived.Config):
    """Keys of a date_parts feature.

    The column holds timestamps, dates, ISO texts, or integers in `unit` since 1970. Times are of UTC unless they say
    otherwise, and are read in `timezone`. Monday is weekday 0; weeks are ISO's.
    """

    kind: Literal["date_parts"] = "date_parts"
    part: Part
    unit: Literal["s", "ms", "us", "ns"] = "s"
    timezone: str = "UTC"

    @field_validator("timezone")
    @classmethod
    def _known(cls, timezone: str) -> str:
        try:
            ZoneInfo(timezone)
        except (ZoneInfoNotFoundError, ValueError):
            raise ValueError(f"there is no timezone {timezone!r}; write one such as Asia/Shanghai") from None
        return timezone


class Feature(_derived.Feature):
    """One integer for each time."""

    def __init__(self, config: Config) -> None:
        """Read the `column`."""
        super().__init__(config)
        self._config = config

    def make(self, columns: Sequence[pa.Array]) -> pa.Array:
        """int64 of the column's shape."""
        lists = Lists(columns[0])
        times, types = lists.values, pa.types
        if types.is_integer(times.type) or types.is_null(times.type):
            times = times.cast(pa.int64()).cast(pa.timestamp(self._config.unit))
        elif types.is_string(times.type) or types.is_date(times.type):
            times = times.cast(pa.timestamp("ms"))
        elif not types.is_timestamp(times.type):
            raise ValueError(f"its type {columns[0].type} is no time; cast it to a timestamp")
        if times.type.tz is None:
            times = pc.assume_timezone(times, "UTC")
        local = pc.local_timestamp(times.cast(pa.timestamp(times.type.unit, self._config.timezone)))
        return lists.back(_PARTS[self._config.part](local).cast(pa.int64()))
