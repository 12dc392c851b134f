"""Overrides that hold credentials: Prefect keeps a flow's parameters and shows them, so that it gets them without.

What a command was really given stays in its process, where the flow's tasks run too.
"""

from collections.abc import Sequence

from recsys_core.redaction import redact

_given: dict[str, str] = {}


def hide(overrides: Sequence[str]) -> list[str]:
    """Return `overrides` as they may be shown; `reveal` knows what they stand for."""
    shown: list[str] = []
    for override in overrides:
        text = redact(override)
        while text != override and _given.get(text, override) != override:
            text += "*"
        if text != override:
            _given[text] = override
        shown.append(text)
    return shown


def reveal(overrides: Sequence[str]) -> list[str]:
    """Return what was hidden in this process as it was given, and anything else as it is."""
    return [_given.get(override, override) for override in overrides]
