"""What is said of names that are not known."""

from collections.abc import Iterable

from recsys_core.uri import nearest


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """Say that `name` is none of `known`, and which of them is nearest."""
    names = list(known)
    return f"there is no {what} {name!r} (there are: {', '.join(names) or 'none'}){nearest(name, names)}"
