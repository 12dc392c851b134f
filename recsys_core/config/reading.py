"""From a config's text to plain values, within bounds: whatever it holds, the answer is values or one line.

Only what a config needs is taken of YAML: text, numbers, dates, lists, sections with keys of text, and aliases.
"""

import codecs
import difflib
import json
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

_MAX_BYTES = 1 << 20
_MAX_ALIASED = 10_000
_MAX_DEPTH = 64
_MAX_SHOWN = 200
_LIMIT = 1 << 63
_TAG = "tag:yaml.org,2002:"
_MERGE = f"{_TAG}merge"
_TAGS = {f"{_TAG}{name}" for name in ("str", "int", "float", "bool", "null", "timestamp", "merge", "map", "seq")}
# What YAML takes for text, but for the mark of a file's beginning in the middle of it.
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
# What neither a path nor a file of text can hold.
_UNWRITABLE = re.compile("[\0\ud800-\udfff]")
_TOO_DEEP = "nested too deeply"


def read(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file.

    Raises:
        ValueError: no such file, one that cannot be read, not YAML in UTF-8, not a mapping, a key that appears twice or
            is no text, or aliases that stand for too much; names the line.
    """
    sections = value(_text(path), str(path))
    if not isinstance(sections, dict):
        found = kind_of(sections)
        raise ValueError(f"{path}: holds {found} where the config's sections are wanted, `name: …`")  # noqa: TRY004
    return sections


def value(text: str, place: str, *, lines: bool = True) -> Any:
    """Return the value of YAML text that stands at `place`, of a file with `lines`.

    Raises:
        ValueError: it is no YAML, or more than a config needs of it; names the line.
    """

    def at(mark: yaml.Mark | None) -> str:
        return f"{place}:{mark.line + 1 if mark else 1}" if lines else place

    if found := _UNPRINTABLE.search(text):
        line, column = text.count("\n", 0, found.start()) + 1, found.start() - text.rfind("\n", 0, found.start())
        where = f"{place}:{line}:{column}" if lines else place
        message = f"character U+{ord(found[0]):04X} cannot stand in YAML; remove it, or write it as an escape in quotes"
        raise ValueError(f"{where}: {message}")
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _Bounds(at).check(node)
        return _unshared(loader.construct_document(node))
    except yaml.MarkedYAMLError as error:
        raise ValueError(f"{at(error.problem_mark)}: not YAML: {_one_line(error.problem)}") from None
    except RecursionError:
        raise ValueError(f"{place}: {_TOO_DEEP}") from None
    finally:
        loader.dispose()


def json_object(text: str, source: str) -> dict[str, Any]:
    """Return the JSON object in `text`, which `source` names.

    Raises:
        ValueError: it is no JSON object, has a key twice, or a number or text that no config can hold.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        if twice := {key for key in keys if keys.count(key) > 1}:
            raise ValueError(f"{source}: {', '.join(sorted(twice))} is there twice; keep one of them")
        return dict(pairs)

    def whole(digits: str) -> int:
        if len(digits) > len(str(_LIMIT)) + 1 or not -_LIMIT <= int(digits) < _LIMIT:
            raise ValueError(f"{source}: {_too_large(digits)}")
        return int(digits)

    def constant(name: str) -> Any:
        raise ValueError(f"{source}: not JSON: {name} is no number")

    try:
        found = json.loads(text, object_pairs_hook=once, parse_int=whole, parse_constant=constant)
    except json.JSONDecodeError as error:
        raise ValueError(f"{source}: not JSON: {error}") from None
    except RecursionError:
        raise ValueError(f"{source}: {_TOO_DEEP}") from None
    assert isinstance(found, dict)
    _refuse_unfit(found, source)
    return found


def _refuse_unfit(made: Any, source: str) -> None:
    waiting: list[tuple[Any, int]] = [(made, 0)]
    while waiting:
        held, depth = waiting.pop()
        if depth == _MAX_DEPTH:
            raise ValueError(f"{source}: {_TOO_DEEP}")
        if isinstance(held, str) and (character := _UNWRITABLE.search(held)):
            raise ValueError(f"{source}: {_unwritable(character)}")
        inner = [*held, *held.values()] if isinstance(held, dict) else held if isinstance(held, list) else ()
        waiting += [(entry, depth + 1) for entry in inner]


def kind_of(value: Any) -> str:
    """Return what a user calls a value of YAML: a list, text, a number."""
    if value is None:
        return "nothing"
    kinds = {dict: "a section", list: "a list", str: "text", bool: "a yes or no", int: "a number", float: "a number"}
    return kinds.get(type(value), "a date")


def printable(text: str) -> str:
    """Return `text` as it can stand in a line: control characters as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def visible(text: str) -> str:
    """Return `text` as it can be quoted in a line: `printable`, the end of a long one left out."""
    return printable(text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…")


def _text(path: Path) -> str:
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise ValueError(f"{path}: a directory; name a config file in it")
        if not stat.S_ISREG(mode):
            raise ValueError(f"{path}: a pipe or a device; a run reads its config more than once, so name a file")
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        if path.is_symlink():
            raise ValueError(f"{path}: a link to {path.readlink()}, which is not there; mend the link") from None
        near = difflib.get_close_matches(path.name, [other.name for other in path.parent.glob("*.y*ml")], n=1)
        hint = f"; did you mean {path.with_name(near[0])}?" if near else ""
        raise ValueError(f"{path}: no such config file{hint}") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None
    if len(content) > _MAX_BYTES:
        message = "ids and the like belong in files that it names"
        raise ValueError(f"{path}: larger than {_MAX_BYTES:,} bytes, which no config is; {message}")
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in content[:4]:
        raise ValueError(f"{path}:1: UTF-16 or UTF-32; save the file as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line, byte = content.count(b"\n", 0, error.start) + 1, content[error.start]
        raise ValueError(f"{path}:{line}: byte 0x{byte:02x} is not UTF-8; save the file as UTF-8") from None


class _Loader(yaml.SafeLoader):
    """Says of each value that cannot be where it is written."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            made = super().construct_object(node, deep=deep)
        except (ValueError, OverflowError, LookupError, AttributeError) as error:
            message = f"{_shown(node)}: {error}" if isinstance(node, yaml.ScalarNode) else str(error)
            raise yaml.constructor.ConstructorError(None, None, message, node.start_mark) from None
        if isinstance(made, int) and not -_LIMIT <= made < _LIMIT:
            raise yaml.constructor.ConstructorError(None, None, _too_large(_shown(node)), node.start_mark)
        return made


class _Bounds:
    """Holds a document's nodes against what a config may be, before anything is made of them."""

    def __init__(self, at: Any) -> None:
        self._at = at
        self._sizes: dict[int, int] = {}
        self._inside: set[int] = set()
        self._aliased = 0

    def check(self, node: yaml.Node) -> int:
        """Return how many values the node stands for."""
        if id(node) in self._inside:
            raise ValueError(f"{self._at(node.start_mark)}: an alias stands for what it stands in; write it out")
        if id(node) in self._sizes:
            # Scalars are not shared: what is here again is so by an alias.
            self._aliased += self._sizes[id(node)]
            if self._aliased > _MAX_ALIASED:
                message = f"aliases stand for more than {_MAX_ALIASED:,} values; write out what is meant"
                raise ValueError(f"{self._at(node.start_mark)}: {message}")
            return self._sizes[id(node)]
        if node.tag not in _TAGS:
            raise ValueError(f"{self._at(node.start_mark)}: tag {node.tag.replace(_TAG, '!!')} is not taken; remove it")
        if len(self._inside) == _MAX_DEPTH:
            raise ValueError(f"{self._at(node.start_mark)}: {_TOO_DEEP}")
        self._inside.add(id(node))
        size = 1 + sum(self.check(inner) for inner in self._entries(node))
        self._inside.remove(id(node))
        self._sizes[id(node)] = size
        return size

    def _entries(self, node: yaml.Node) -> Iterator[yaml.Node]:
        if isinstance(node, yaml.SequenceNode):
            yield from node.value
        elif isinstance(node, yaml.MappingNode):
            seen: dict[str, int] = {}
            for key, inner in node.value:
                line = key.start_mark.line + 1
                if not isinstance(key, yaml.ScalarNode) or key.tag not in (f"{_TAG}str", _MERGE):
                    message = (
                        f"{_shown(key)} is a key and no text"
                        if isinstance(key, yaml.ScalarNode)
                        else "a key is no text"
                    )
                    raise ValueError(
                        f"{self._at(key.start_mark)}: {message}; put quotes around it, or name what is meant"
                    )
                if key.value in seen:
                    message = f"key {_shown(key)!r} is in line {seen[key.value]} too; keep one of them"
                    raise ValueError(f"{self._at(key.start_mark)}: {message}")
                seen[key.value] = line
                yield key
                yield inner
        elif found := _UNWRITABLE.search(node.value):
            raise ValueError(f"{self._at(node.start_mark)}: {_unwritable(found)}")


def _unshared(made: Any) -> Any:
    """Return the value with nothing in two places: a change to what an alias stands for is one there alone."""
    if isinstance(made, dict):
        return {key: _unshared(inner) for key, inner in made.items()}
    return [_unshared(inner) for inner in made] if isinstance(made, list) else made


def _shown(node: yaml.Node) -> str:
    return visible(str(node.value))


def _too_large(digits: str) -> str:
    return f"{visible(digits)}: whole numbers lie between -2^63 and 2^63"


def _unwritable(found: re.Match[str]) -> str:
    return f"character U+{ord(found[0]):04X} stands in a text; remove it"


def _one_line(problem: str | None) -> str:
    return visible(" ".join((problem or "cannot be read").split()))
