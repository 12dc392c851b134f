"""From YAML text to a validated record, every mistake reported at once and in the file's words."""

import copy
import difflib
import functools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from recsys_core.config.reading import visible
from recsys_core.lookup import inlined

M = TypeVar("M", bound=BaseModel)
Key = str | int
Schema = dict[str, Any]

_MAX_SHOWN = 60
_MAX_LINES = 50
_NAME = re.compile(r"[A-Za-z0-9_.-]+")
# What is beyond a limit, which the key's description gives the reason of.
_BEYOND = ("less_than", "less_than_equal", "greater_than", "greater_than_equal")


def validate(record: type[M], sections: dict[str, Any], path: Path, overrides: dict[tuple[Key, ...], str]) -> M:
    """Return `sections` as `record`; `overrides` gives the option that set a path.

    A null where the record takes none clears the key: it is as if it had not been written.

    Raises:
        ValueError: one line per mistake: where it was written, the key's path, what is wrong, the nearest valid key.
    """
    while True:
        try:
            return record.model_validate(sections)
        except ValidationError as error:
            mistakes = error.errors(include_url=False)
        if not (nulls := list(_nulls(mistakes, sections))):
            break
        sections = copy.deepcopy(sections)
        for keys in nulls:
            place: Any = sections
            for key in keys[:-1]:
                place = place[key]
            place.pop(keys[-1], None)
    whole = schema(record)
    lines = [*dict.fromkeys(_line(details, whole, sections, path, overrides) for details in mistakes[:_MAX_LINES])]
    if len(mistakes) > _MAX_LINES:
        lines.append(f"{path}: {len(mistakes) - _MAX_LINES:,} more mistakes")
    raise ValueError("\n".join(lines))


@functools.cache
def schema(record: type[BaseModel]) -> Schema:
    """Return the JSON schema of `record` without references, so that the schemas of components nest in it."""
    return inlined(record.model_json_schema())


def spell(keys: Sequence[Key], sections: Any = None) -> str:
    """Return `a.b[0].c`, or `a.b[name=city].c` where no other entry of that list in `sections` has the name."""
    spelled = ""
    place: Any = sections
    for key in keys:
        spelled += f"[{_name_of(place, key)}]" if isinstance(key, int) else f".{visible(str(key))}"
        place = place[key] if _has(place, key) else None
    return spelled.removeprefix(".")


def _name_of(entries: Any, number: int) -> str:
    """Return `name=city` if that selects the entry and no other, or else its number."""
    if not isinstance(entries, list):
        return str(number)
    names = [entry.get("name") if isinstance(entry, dict) else None for entry in entries]
    name = names[number]
    return f"name={name}" if isinstance(name, str) and _NAME.fullmatch(name) and names.count(name) == 1 else str(number)


def _nulls(mistakes: Sequence[ErrorDetails], sections: Any) -> Iterator[tuple[Key, ...]]:
    """Yield the paths of known keys that are null and may not be."""
    for details in mistakes:
        if details["input"] is None and details["type"] not in ("extra_forbidden", "missing"):
            keys, parent = _written(details["loc"], sections)
            if keys and isinstance(parent, dict) and keys[-1] in parent and parent[keys[-1]] is None:
                yield keys


def _line(
    details: ErrorDetails, whole: Schema, sections: dict[str, Any], path: Path, overrides: dict[tuple[Key, ...], str]
) -> str:
    keys, parent = _written(details["loc"], sections)
    # A mistake inside of what was set, or in the way to it.
    sources = (text for set_, text in overrides.items() if keys and keys[: len(set_)] == set_[: len(keys)])
    origin = next(sources, str(path))
    if not keys:
        # A mistake that only the whole shows names its key itself.
        begins = details["msg"].removeprefix("Value error, ")
        origin = next((text for set_, text in overrides.items() if begins.startswith(spell(set_, sections))), origin)
    start = f"{origin}: {spell(keys, sections)}: " if keys else f"{origin}: "
    if details["type"] == "extra_forbidden":
        known = list(_known(whole, keys[:-1], sections))
        near = difflib.get_close_matches(str(keys[-1]), known, n=1)
        return f"{start}unknown key; " + (f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}")
    if details["type"] == "missing":
        near = difflib.get_close_matches(str(keys[-1]), map(str, parent), n=1) if isinstance(parent, dict) else []
        return f"{start}missing" + (f" (there is {near[0]})" if near else "")
    message = details["msg"].removeprefix("Value error, ")
    if details["type"] == "value_error":
        return start + message
    reason = _described(whole, keys, sections) if details["type"] in _BEYOND else ""
    return f"{start}{message[0].lower()}{message[1:]}, found {_short(details['input'])}{reason}"


def _written(location: tuple[Key, ...], sections: Any) -> tuple[tuple[Key, ...], Any]:
    """Drop what pydantic adds to a location and the file lacks (tags of unions); return the rest and its parent."""
    keys: list[Key] = []
    place: Any = sections
    parent: Any = None
    for position, key in enumerate(location):
        inside = _has(place, key)
        if inside or (isinstance(place, dict) and position == len(location) - 1):
            keys.append(key)
            parent = place
            place = parent[key] if inside else None
    return tuple(keys), parent


def _has(place: Any, key: Key) -> bool:
    if isinstance(place, dict):
        return key in place
    return isinstance(place, list) and isinstance(key, int) and 0 <= key < len(place)


def _known(whole: Schema, keys: Sequence[Key], sections: Any) -> Iterator[str]:
    """Yield the keys that the schema has at the path `keys`."""
    for variant in _at(whole, keys, sections):
        yield from variant.get("properties", {})


def _described(whole: Schema, keys: Sequence[Key], sections: Any) -> str:
    """Return what the schema says of the key at the path `keys`, in brackets."""
    nodes = [variant.get("properties", {}).get(keys[-1]) for variant in _at(whole, keys[:-1], sections)] if keys else []
    return next((f" ({node['description']})" for node in nodes if node and "description" in node), "")


def _at(whole: Schema, keys: Sequence[Key], sections: Any) -> Iterator[Schema]:
    """Yield the schemas that what stands at the path `keys` may be of."""
    nodes = [whole]
    place = sections
    for key in keys:
        inner: list[Schema] = []
        for variant in (variant for node in nodes for variant in _variants(node, place)):
            found = variant.get("items") if isinstance(key, int) else variant.get("properties", {}).get(key)
            found = found or variant.get("additionalProperties")
            if isinstance(found, dict):
                inner.append(found)
        nodes, place = inner, place[key]
    for node in nodes:
        yield from _variants(node, place)


def _variants(node: Schema, place: Any) -> list[Schema]:
    """Return what `anyOf` and `oneOf` offer for `place`; a section with a `kind` is of that kind."""
    if not (offered := [*node.get("anyOf", ()), *node.get("oneOf", ())]):
        return [node]
    deeper = [variant for inner in offered for variant in _variants(inner, place)]
    kind = place.get("kind") if isinstance(place, dict) else None
    return [v for v in deeper if v.get("properties", {}).get("kind", {}).get("const") == kind] or deeper


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"
