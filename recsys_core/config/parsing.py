"""From YAML text and `--set` overrides to a validated record, every mistake told at once and in the file's words."""

import difflib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from recsys_core.lookup import inlined

M = TypeVar("M", bound=BaseModel)
Key = str | int
Schema = dict[str, Any]

_MAX_SHOWN = 60
_STEP = re.compile(r"(?P<key>[^.\[\]=]+)(?P<indexes>(\[\d+\])*)")


def read(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file.

    Raises:
        ValueError: no such file, not YAML, not a mapping, or a key that appears twice; names the line.
    """
    if not path.is_file():
        near = difflib.get_close_matches(path.name, [other.name for other in path.parent.glob("*.y*ml")], n=1)
        hint = f"; did you mean {path.with_name(near[0])}?" if near else ""
        raise ValueError(f"{path}: no such config file{hint}")
    text = path.read_text()
    try:
        _refuse_duplicates(yaml.compose(text, Loader=yaml.SafeLoader), path)
        sections = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ValueError(f"{path}:{line}: not YAML: {error.problem}") from None
    if not isinstance(sections, dict):
        found = _kind_of(sections)
        raise ValueError(f"{path}: holds {found} where the config's sections are wanted, `name: …`")  # noqa: TRY004
    return sections


def override(sections: dict[str, Any], assignment: str) -> tuple[Key, ...]:
    """Apply `a.b[0].c=value` to `sections`, the value read as YAML; return the path that was set.

    Raises:
        ValueError: no `=`, a path that leads through something that is no section or list, or an index out of range.
    """
    told = f"--set {assignment}"
    path, equals, text = assignment.partition("=")
    steps = [_STEP.fullmatch(step) for step in path.strip().split(".")]
    if not equals or not all(steps):
        raise ValueError(f"{told}: not of the form section.key=value or section.list[0].key=value")
    keys: list[Key] = []
    for step in steps:
        assert step is not None
        keys += [step["key"], *map(int, re.findall(r"\d+", step["indexes"]))]
    try:
        value = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        raise ValueError(f"{told}: the value is not YAML: {error.problem}") from None
    place: Any = sections
    for depth, key in enumerate(keys):
        _refuse_dead_end(place, key, spell(keys[:depth]), told)
        if depth == len(keys) - 1:
            place[key] = value
        elif isinstance(key, str) and place.get(key) is None:
            place[key] = {} if isinstance(keys[depth + 1], str) else []
        place = place[key]
    return tuple(keys)


def validate(record: type[M], sections: dict[str, Any], path: Path, overrides: dict[tuple[Key, ...], str]) -> M:
    """Return `sections` as `record`; `overrides` tells which paths came from which assignment.

    Raises:
        ValueError: one line per mistake: where it was written, the key's path, what is wrong, the nearest valid key.
    """
    try:
        return record.model_validate(sections)
    except ValidationError as error:
        whole = schema(record)
        lines = [_line(details, whole, sections, path, overrides) for details in error.errors()]
        raise ValueError("\n".join(dict.fromkeys(lines))) from None


def schema(record: type[BaseModel]) -> Schema:
    """Return the JSON schema of `record` without references, so that the schemas of components nest in it."""
    return inlined(record.model_json_schema())


def spell(keys: Sequence[Key]) -> str:
    """Return `a.b[0].c`."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys).removeprefix(".")


def _refuse_dead_end(place: Any, key: Key, at: str, told: str) -> None:
    if isinstance(key, int):
        if not isinstance(place, list):
            raise ValueError(f"{told}: {at} is {_kind_of(place)} in the config, not a list")  # noqa: TRY004
        if key >= len(place):
            raise ValueError(f"{told}: {at} has {len(place)} entries in the config, so [{key}] is out of range")
    elif not isinstance(place, dict):
        found = _kind_of(place)
        raise ValueError(f"{told}: {at} is {found} in the config, which has no key {key!r}")  # noqa: TRY004


def _refuse_duplicates(node: yaml.Node | None, path: Path) -> None:
    if isinstance(node, yaml.MappingNode):
        seen: dict[Any, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.value in seen:
                raise ValueError(f"{path}:{line}: key {key.value!r} is in line {seen[key.value]} too; keep one of them")
            seen[key.value] = line
            _refuse_duplicates(value, path)
    elif isinstance(node, yaml.SequenceNode):
        for entry in node.value:
            _refuse_duplicates(entry, path)


def _line(
    details: ErrorDetails, whole: Schema, sections: dict[str, Any], path: Path, overrides: dict[tuple[Key, ...], str]
) -> str:
    keys, parent = _written(details["loc"], sections)
    # A mistake inside of what was set, or in the way to it.
    told_by = (f"--set {text}" for set_, text in overrides.items() if keys and keys[: len(set_)] == set_[: len(keys)])
    origin = next(told_by, str(path))
    told = f"{origin}: {spell(keys)}: " if keys else f"{origin}: "
    if details["type"] == "extra_forbidden":
        known = list(_known(whole, keys[:-1], sections))
        near = difflib.get_close_matches(str(keys[-1]), known, n=1)
        return f"{told}unknown key; " + (f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}")
    if details["type"] == "missing":
        near = difflib.get_close_matches(str(keys[-1]), map(str, parent), n=1) if isinstance(parent, dict) else []
        return f"{told}missing" + (f" (there is {near[0]})" if near else "")
    message = details["msg"].removeprefix("Value error, ")
    if details["type"] == "value_error":
        return told + message
    return f"{told}{message[0].lower()}{message[1:]}, found {_short(details['input'])}"


def _written(location: tuple[Key, ...], sections: Any) -> tuple[tuple[Key, ...], Any]:
    """Drop what pydantic puts into a location but nobody wrote (tags of unions); return the rest and its parent."""
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
    return key in place if isinstance(place, dict) else isinstance(place, list) and isinstance(key, int)


def _known(whole: Schema, keys: Sequence[Key], sections: Any) -> Iterator[str]:
    """Yield the keys that the schema has at the path `keys`."""
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
        for variant in _variants(node, place):
            yield from variant.get("properties", {})


def _variants(node: Schema, place: Any) -> list[Schema]:
    """Return what `anyOf` and `oneOf` offer for `place`; a section with a `kind` is of that kind."""
    if not (offered := [*node.get("anyOf", ()), *node.get("oneOf", ())]):
        return [node]
    deeper = [variant for inner in offered for variant in _variants(inner, place)]
    kind = place.get("kind") if isinstance(place, dict) else None
    return [v for v in deeper if v.get("properties", {}).get("kind", {}).get("const") == kind] or deeper


def _kind_of(value: Any) -> str:
    if value is None:
        return "nothing"
    return {dict: "a section", list: "a list", str: "text", bool: "a yes or no"}.get(type(value), "a number")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"
