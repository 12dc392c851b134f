"""The only dynamic import: a component's `kind` is the name of the file that holds it.

`features`, `models`, `readers`, … are catalogues: packages with one component per file. A kind with a dot
(`mypackage.mymodel`) names a module of the user's own package instead.
"""

import difflib
import functools
import importlib
import importlib.util
import pkgutil
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import core_schema

# "discriminator" is OpenAPI's; editors do not need it.
_REFERRING = ("$defs", "$ref", "discriminator")


@functools.cache
def kinds(catalogue: str) -> tuple[str, ...]:
    """Return the kinds of `catalogue` (an importable package), sorted; `base` is the contract, not a kind."""
    package = importlib.import_module(catalogue)
    names = (module.name for module in pkgutil.iter_modules(package.__path__) if not module.ispkg)
    return tuple(sorted(name for name in names if name != "base" and not name.startswith("_")))


def component(catalogue: str, kind: str) -> ModuleType:
    """Import the component `kind` of `catalogue`.

    Raises:
        ValueError: no such file, or a user's module that cannot be found; names the nearest kind.
    """
    if "." in kind:
        try:
            found = importlib.util.find_spec(kind) is not None
        except ModuleNotFoundError:
            found = False
        if not found:
            raise ValueError(f"kind {kind!r}: no such module; is its package installed where this runs?")
        return importlib.import_module(kind)
    known = kinds(catalogue)
    if kind not in known:
        nearest = difflib.get_close_matches(kind, known, n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        raise ValueError(f"{catalogue.rpartition('.')[2]}: unknown kind {kind!r} (known: {', '.join(known)}){hint}")
    return importlib.import_module(f"{catalogue}.{kind}")


@dataclass(frozen=True)
class OneOf:
    """Annotation of a pydantic field that holds the `Config` of any component: `Annotated[Frozen, OneOf(catalogue)]`.

    A mapping is parsed by its `kind`, which may be left out where the catalogue has one component only. The JSON
    schema lists the catalogue's own components.
    """

    catalogue: str

    def parse(self, section: Any) -> Any:
        """Turn a mapping into the component's Config; a Config passes through.

        Raises:
            ValueError: no `kind` where there are several, no such component, or a bad key or value.
        """
        if not isinstance(section, dict):
            return section
        known = kinds(self.catalogue)
        kind = section.get("kind", known[0] if len(known) == 1 else None)
        if not isinstance(kind, str):
            raise ValueError(f"kind: missing; say which of {', '.join(known)}")  # noqa: TRY004 - pydantic reports it
        return component(self.catalogue, kind).Config.model_validate(section)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        """Parse by kind, dump as the component's own Config dumps."""
        return core_schema.no_info_before_validator_function(
            self.parse,
            handler(source),
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda config, info: config.model_dump(mode=info.mode), info_arg=True
            ),
        )

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Return `oneOf` over the catalogue's components."""
        # References lead into a component's own schema, and would lead nowhere from the whole.
        schemas = [component(self.catalogue, kind).Config.model_json_schema() for kind in kinds(self.catalogue)]
        return {"oneOf": [inlined(each) for each in schemas]}


def inlined(node: Any, definitions: dict[str, Any] | None = None) -> Any:
    """Return a JSON schema with what its references lead to in their place."""
    if isinstance(node, list):
        return [inlined(entry, definitions) for entry in node]
    if not isinstance(node, dict):
        return node
    known = (definitions or {}) | node.get("$defs", {})
    rest = {key: inlined(value, known) for key, value in node.items() if key not in _REFERRING}
    if "$ref" in node:
        return inlined(known[node["$ref"].rpartition("/")[2]], known) | rest
    return rest
