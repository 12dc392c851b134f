"""Sequences of one behaviour: several features that stand entry by entry for the same clicks, declared together."""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, PositiveInt, TypeAdapter, ValidationError

from recsys_core.artifacts import Frozen
from recsys_core.features.base import FeatureConfig, Side

# What a group says for all of its features.
_SHARED = ("max_length", "keep", "separator")


class Group(Frozen):
    """Features of one sequence: a member `item` of the group `clicks` is the feature `clicks__item`.

    It reads the column `clicks__item`, or `clicks__<column>` where it names one. A row in which members have different
    numbers of entries is refused.
    """

    name: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    side: Side = "query"
    max_length: PositiveInt | None = Field(default=None, description="entries that are kept of a longer row")
    keep: Literal["last", "first"] = Field(default="last", description="which of them")
    separator: str | None = Field(default=None, min_length=1, description="splits texts into lists")
    features: tuple[dict[str, Any], ...] = Field(
        min_length=1, description="of kind id, sequence or raw (pooling: none), as on their side"
    )


def expanded(groups: Sequence[Group], side: Side) -> list[dict[str, Any]]:
    """Return the features of `side`'s groups as the sections that they stand for.

    Raises:
        ValueError: a member has no name, sets what the group does, or reads an absolute column.
    """
    found: list[dict[str, Any]] = []
    for group in groups:
        if group.side != side:
            continue
        shared = {key: getattr(group, key) for key in _SHARED if getattr(group, key) is not None}
        for member in group.features:
            name = member.get("name")
            if not isinstance(name, str):
                raise ValueError(f"groups, {group.name!r}: a feature has no name")  # noqa: TRY004 - of the config
            if twice := [key for key in (*_SHARED, "group") if key in member]:
                raise ValueError(
                    f"groups, {group.name!r}: feature {name!r} has {twice[0]} of its own; say it once, for the group"
                )
            column = f"{group.name}__{member.get('column') or name}"
            found.append(member | shared | {"name": f"{group.name}__{name}", "column": column, "group": group.name})
    return found


def member(one: TypeAdapter[FeatureConfig], member: dict[str, Any]) -> FeatureConfig:
    """Return the feature of a group's member, whose place in the file is none on its side."""
    try:
        return one.validate_python(member)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = "".join(f".{part}" for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise ValueError(f"groups[name={member['group']}], {member['name']!r}{key}: {message}") from None
