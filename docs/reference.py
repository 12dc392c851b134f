"""Write the parts of the documentation that the code knows best: every key of a config, every kind of component.

`make reference` runs this file. In a page of this folder, what stands between `<!-- reference NAME -->` and
`<!-- end of reference -->` is replaced; NAME is `configuration`, `ranking configuration` or `components`.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recsys_core import config, lookup

_CATALOGUES = (
    "datasets",
    "datasets.labelled",
    "readers",
    "writers",
    "features",
    "indexes",
    "launch.launchers",
    "models",
    "losses",
    "metrics.ranking",
    "samplers",
)
_LIMITS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
_PART = re.compile(r"(<!-- reference ([^\n]*) -->\n).*?(<!-- end of reference -->\n)", re.DOTALL)


def written(page: str) -> str:
    """Return the text of a page with its parts of the reference as the code has them now."""
    return _PART.sub(lambda part: "\n".join([part[1], *_lines(part[2]), "", part[3]]), page)


def _lines(name: str) -> Iterator[str]:
    if name == "components":
        return _components()
    return _configuration(config.schema(ranking={"configuration": False, "ranking configuration": True}[name]))


def _components() -> Iterator[str]:
    yield "| catalogue | kind | what it is |"
    yield "|---|---|---|"
    for catalogue in _CATALOGUES:
        for kind in lookup.kinds(f"recsys_core.{catalogue}"):
            summary = (lookup.component(f"recsys_core.{catalogue}", kind).__doc__ or "").partition("\n\n")[0]
            yield f"| `{catalogue}` | `{kind}` | {_cell(summary)} |"


def _configuration(schema: dict[str, Any]) -> Iterator[str]:
    sections = {name: _if_given(section) for name, section in schema["properties"].items()}
    plain = {name: section for name, section in sections.items() if not _nested(section)}
    yield from _table({"properties": plain, "required": [name for name in plain if "default" not in plain[name]]}, "")
    for name, section in sections.items():
        if name not in plain:
            yield from ("", f"### `{name}`", "")
            yield from _section(section, f"{name}.")


def _if_given(section: dict[str, Any]) -> dict[str, Any]:
    """Return a section that may be left out as one that is there."""
    given = [choice for choice in section.get("anyOf", ()) if choice.get("type") != "null"]
    return given[0] if len(given) == 1 and _nested(given[0]) else section


def _section(schema: dict[str, Any], prefix: str) -> Iterator[str]:
    if "properties" in schema:
        yield from _described(schema, prefix)
    choices = {json.dumps(choice): (choice, prefix) for choice in schema.get("oneOf", ())}
    # Lists of components: the same kinds may stand in several of them.
    for found in schema.get("properties", {}).values():
        choices |= {json.dumps(choice): (choice, "") for choice in found.get("items", {}).get("oneOf", ())}
    for choice, start in choices.values():
        yield from ("", f"#### `kind: {choice['properties']['kind']['const']}`", "")
        yield from _described(choice, start)


def _described(schema: dict[str, Any], prefix: str) -> Iterator[str]:
    description = schema.get("description", "")
    if not description.startswith("YAML section"):
        yield from (description, "")
    yield from _table(schema, prefix)


def _nested(schema: dict[str, Any]) -> bool:
    return "properties" in schema or "oneOf" in schema


def _table(schema: dict[str, Any], prefix: str) -> Iterator[str]:
    yield from ("| key | value | default | |", "|---|---|---|---|")
    yield from _rows(schema, prefix)


def _rows(schema: dict[str, Any], prefix: str) -> Iterator[str]:
    for name, found in schema["properties"].items():
        if "properties" in found:
            yield from _rows(found, f"{prefix}{name}.")
        elif not (name == "kind" and "const" in found):
            default = f"`{json.dumps(found['default'])}`" if "default" in found else "(empty)"
            if name in schema.get("required", ()):
                default = "(must be given)"
            cells = (f"`{prefix}{name}`", _type(found), default, found.get("description", ""))
            yield f"| {' | '.join(map(_cell, cells))} |"
            for inner, start in _inner(found, f"{prefix}{name}"):
                yield from _rows(inner, start)


def _inner(schema: dict[str, Any], name: str) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield the objects that a key may hold, alone or in a list, with what their own keys begin with."""
    if "properties" in schema:
        yield schema, f"{name}."
    for choice in schema.get("anyOf", ()):
        yield from _inner(choice, name)
    if schema.get("items"):
        yield from _inner(schema["items"], f"{name}[]")


def _type(schema: dict[str, Any]) -> str:
    if "oneOf" in schema:
        kinds = [choice["properties"]["kind"]["const"] for choice in schema["oneOf"]]
        return "one of the kinds " + ", ".join(f"`{kind}`" for kind in kinds)
    if "anyOf" in schema:
        return " or ".join(_type(choice) for choice in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return " or ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'])}" if schema.get("items") else "list"
    if schema.get("type") == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"mapping to {_type(schema['additionalProperties'])}"
    limits = [f"{sign} {schema[word]:g}" for word, sign in _LIMITS.items() if word in schema]
    return " ".join([schema.get("format") or schema.get("type", "anything"), *limits])


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    for path in sorted(Path(__file__).parent.glob("*.md")):
        path.write_text(written(path.read_text(encoding="utf-8")), encoding="utf-8")
