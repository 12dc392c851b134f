"""The only dynamic import: a component's `kind` is the name of the file that holds it.

`features`, `models`, `readers`, … are catalogues: packages with one component per file. A kind with a dot
(`mypackage.mymodel`) names a module of the user's own package instead.

A component may also be a folder, where its class takes seconds to import: its Config in `__init__.py`, and the class in
a file of its own, such as `model.py`, which is imported only when the class is wanted.
"""

import ast
import difflib
import functools
import importlib
import pkgutil
import sys
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from pydantic import BaseModel, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import core_schema

from recsys_core.artifacts import ComponentConfig, Frozen

T = TypeVar("T")
# "discriminator" is OpenAPI's; editors do not need it.
_REFERRING = ("$defs", "$ref", "discriminator")
# What a component has besides its Config.
_CONTENTS = {
    "recsys_core.datasets": "write",
    "recsys_core.datasets.labelled": "write",
    "recsys_core.features": "Feature",
    "recsys_core.indexes": "Index",
    "recsys_core.launch.launchers": "Launcher",
    "recsys_core.losses": "Loss",
    "recsys_core.metrics.ranking": "Metric",
    "recsys_core.models": "Model",
    "recsys_core.readers": "Reader",
    "recsys_core.samplers": "Sampler",
    "recsys_core.writers": "Writer",
}


@functools.cache
def kinds(catalogue: str) -> tuple[str, ...]:
    """Return the kinds of `catalogue` (an importable package), sorted; `base` is the contract, not a kind."""
    package = importlib.import_module(catalogue)
    folders = {
        folder.parent.name for path in package.__path__ for folder in Path(path).glob(f"*/{_file_of(catalogue)}")
    }
    modules = pkgutil.iter_modules(package.__path__)
    names = (module.name for module in modules if not module.ispkg or module.name in folders)
    return tuple(sorted(name for name in names if name != "base" and not name.startswith("_")))


def _file_of(catalogue: str) -> str:
    """Return the name of the file that holds the class of a component that is a folder."""
    return f"{_CONTENTS.get(catalogue, 'component').lower()}.py"


def component(catalogue: str, kind: str) -> ModuleType:
    """Import the component `kind` of `catalogue`.

    Raises:
        ValueError: no such file, or a user's module that cannot be found, cannot be imported or is no component; names
            the nearest kind.
    """
    if "." in kind:
        return _own(catalogue, kind)
    known = kinds(catalogue)
    if kind not in known:
        nearest = difflib.get_close_matches(kind, known, n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        raise ValueError(f"{catalogue.rpartition('.')[2]}: unknown kind {kind!r} (known: {', '.join(known)}){hint}")
    return importlib.import_module(f"{catalogue}.{kind}")


def content(catalogue: str, kind: str) -> Any:
    """Return the class of the component `kind` (of a dataset its function `write`), of its file or its folder.

    Raises:
        ValueError: see `component`; or the file of the class cannot be imported.
    """
    module, name = component(catalogue, kind), _CONTENTS[catalogue]
    if not hasattr(module, name):
        module = _imported(f"{module.__name__}.{name.lower()}")
    return getattr(module, name)


def keeping(catalogue: str, kind: str, contract: type[T], *, does: str) -> type[T]:
    """Return the class of the component `kind`, which keeps `contract`, one of several of the catalogue.

    `does` says what such components do.

    Raises:
        ValueError: no such component, or of another contract; lists the ones that would do.
    """
    if not issubclass(content(catalogue, kind), contract):
        what = _CONTENTS[catalogue].lower()
        fitting = [own for own in kinds(catalogue) if issubclass(content(catalogue, own), contract)]
        raise ValueError(f"{what}.kind {kind!r}: not a {what} that {does}; use one of {', '.join(fitting)}")  # noqa: TRY004 - the config is wrong, not a type
    return content(catalogue, kind)


def _own(catalogue: str, kind: str) -> ModuleType:
    """Import a module of the user's, once its source shows that it means to be a component: importing runs it."""
    spec = _find(kind)
    holds = f"a component of {catalogue.rpartition('.')[2]} has a Config and {_CONTENTS.get(catalogue, 'its class')}"
    if spec.origin is None or not spec.has_location or not _names_config(Path(spec.origin)):
        raise ValueError(f"kind {kind!r}: a module, but no component: it defines no Config; {holds}")
    module = _imported(kind)
    config = getattr(module, "Config", None)
    if not (isinstance(config, type) and issubclass(config, BaseModel)):
        raise ValueError(f"kind {kind!r}: its Config is no pydantic model; {holds}")  # noqa: TRY004 - of the config
    wanted = catalogue in _CONTENTS and not getattr(config, "in_place", False)
    if wanted and not hasattr(module, _CONTENTS[catalogue]) and not _is_folder(spec, _file_of(catalogue)):
        raise ValueError(f"kind {kind!r}: has no {_CONTENTS[catalogue]}; {holds}")
    return module


def _is_folder(spec: ModuleSpec, file: str) -> bool:
    return any((Path(path) / file).is_file() for path in spec.submodule_search_locations or ())


def _imported(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        message, spec = (str(error).splitlines() or [""])[0], _find(name)
        raise ValueError(f"kind {name!r}: importing {spec.origin} failed: {type(error).__name__}: {message}") from error


def _find(kind: str) -> ModuleSpec:
    """Return where a module is, without importing the packages that it is in."""
    names = kind.split(".")
    missing = ValueError(f"kind {kind!r}: no such module; is its package installed where this runs?")
    if not all(name.isidentifier() for name in names):
        raise missing
    if names[0] in sys.stdlib_module_names:
        raise ValueError(f"kind {kind!r}: a module of Python itself, and no component")
    spec, path = None, None
    for end in range(1, len(names) + 1):
        name = ".".join(names[:end])
        found = (finder.find_spec(name, path) for finder in sys.meta_path)
        if (spec := next(filter(None, found), None)) is None:
            raise missing
        path = spec.submodule_search_locations or []
    assert spec is not None
    return spec


def _names_config(source: Path) -> bool:
    """Whether a module binds the name Config; what is compiled says so only when it is imported."""
    if source.suffix != ".py":
        return True
    try:
        tree = ast.parse(source.read_bytes())
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"{source}: not Python: {error}") from None
    for statement in tree.body:
        if isinstance(statement, ast.ClassDef) and statement.name == "Config":
            return True
        if isinstance(statement, ast.ImportFrom | ast.Import):
            if "Config" in {alias.asname or alias.name for alias in statement.names}:
                return True
        elif isinstance(statement, ast.Assign | ast.AnnAssign):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            if any(isinstance(target, ast.Name) and target.id == "Config" for target in targets):
                return True
    return False


@dataclass(frozen=True)
class OneOf:
    """Annotation of a field that holds the `Config` of any component: `Annotated[ComponentConfig, OneOf(catalogue)]`.

    A mapping is parsed by its `kind`, which may be left out where there is a `default`, or where the catalogue has one
    component only. The JSON schema lists the catalogue's own components.
    """

    catalogue: str
    default: str | None = None

    def parse(self, section: Any) -> Any:
        """Turn a mapping into the component's Config; a Config passes through.

        Raises:
            ValueError: no `kind` where there are several, no such component, or a bad key or value.
        """
        if not isinstance(section, dict):
            return section
        known = kinds(self.catalogue)
        kind = section.get("kind", known[0] if len(known) == 1 else self.default)
        if not isinstance(kind, str):
            raise ValueError(f"kind: missing; say which of {', '.join(known)}")  # noqa: TRY004 - pydantic reports it
        return component(self.catalogue, kind).Config.model_validate(section)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        """Parse by kind, dump as the component's own Config dumps."""
        # A Config of a user's own may derive from Frozen alone.
        schema = handler.generate_schema(Frozen) if source is ComponentConfig else handler(source)
        return core_schema.no_info_before_validator_function(
            self.parse,
            schema,
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
