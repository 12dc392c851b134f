"""What a path may leave open until a run fills it in: `{day}`, the run's day as YYYY-MM-DD."""

import datetime
import re

_DAY = "{day}"
_BRACES = re.compile(r"\{[^{}]*\}?|\}")


def check(path: str | None) -> str | None:
    """Return `path`, a table's or a folder's, whose braces are all of known placeholders.

    Raises:
        ValueError: one is not; it is in the message.
    """
    for found in _BRACES.finditer(path or ""):
        if found[0] != _DAY:
            raise ValueError(
                f"{found[0]!r} in {path!r} is no placeholder; {_DAY} is the only one, the day as YYYY-MM-DD"
            )
    return path


def fill(path: str, day: datetime.date) -> str:
    """Return `path` with the day in its place."""
    return path.replace(_DAY, day.isoformat())
