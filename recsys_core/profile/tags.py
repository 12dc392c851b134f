"""What a column probably is to a recommender, judged by its name, its type and its values; a person has the last word.

`user` and `item` say whose column it is, `id` that it names one of them (or the row), `sequence` that a row holds many.
"""

import re
from typing import NamedTuple

from recsys_core.profile.records import ColumnProfile, Tag

_OWNERS: dict[Tag, set[str]] = {
    "user": {"user", "uid", "member", "visitor", "customer", "viewer", "buyer"},
    "item": {
        *("item", "iid", "movie", "product", "sku", "ad", "adgroup", "video", "article", "song", "track", "goods"),
        *("listing", "doc"),
    },
}
_LABELS = {
    *("label", "labels", "click", "clicked", "clk", "is_click", "is_clicked", "conversion", "converted", "purchase"),
    *("purchased", "target", "rating", "buy", "like", "liked", "watched", "y"),
}
_WEIGHTS = {"weight", "weights", "sample_weight", "example_weight", "importance"}
_KEYS = ("id", "key", "uuid")
_SHARE_OF_A_KEY = 0.98
_LABEL_VALUES = 20


class Suggestion(NamedTuple):
    """The tags, and why."""

    tags: tuple[Tag, ...]
    reason: str


def suggest(name: str, column: ColumnProfile, table: str = "") -> Suggestion:
    """Return what the column `name` of a table (`users` and `items` say whose it is) probably is."""
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    words = re.findall(r"[a-z0-9]+", snake)
    whole = "_".join(words)
    number = column.zeros is not None
    owner, why = _owner(words, table)
    if column.type.startswith(("list", "large_list", "fixed_size_list")):
        return Suggestion((*owner, "sequence"), ", ".join([*why, "each row is a list"]))
    if whole in _WEIGHTS and number:
        return Suggestion(("weight",), f"named {name}, and holds numbers")
    if whole in _LABELS and number and (column.distinct or 0) <= _LABEL_VALUES:
        return Suggestion(("label",), f"named {name}, and holds {column.distinct} distinct numbers")
    named = words[-1:] == [] or words[-1] in _KEYS
    if any(whole in names or (named and "_".join(words[:-1]) in names) for names in _OWNERS.values()):
        return Suggestion((*owner, "id"), ", ".join([*why, "which it identifies"]))
    if named and column.values > 1 and (column.distinct or 0) >= _SHARE_OF_A_KEY * column.values:
        return Suggestion(
            (*owner, "id"), ", ".join([*why, f"{column.distinct:,} distinct in {column.values:,} values"])
        )
    return Suggestion(owner or ("context",), ", ".join(why) or "neither a user's nor an item's by its name")


def _owner(words: list[str], table: str) -> tuple[tuple[Tag, ...], list[str]]:
    for tag, names in _OWNERS.items():
        if hit := next((word for word in words if word in names or word.removesuffix("s") in names), None):
            return (tag,), [f"{hit!r} is in its name"]
    for tag in _OWNERS:
        if table == f"{tag}s":
            return (tag,), [f"a field of {table}"]
    return (), []
