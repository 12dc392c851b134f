"""Configs as they come out of tired hands, wrong editors and broken templates: each is valid, or refused line by line.

Each of the 400 is a file of `configs/` with some mutations that follow from its number.
"""

import copy
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from flows.cli import app

CONFIGS = sorted((Path(__file__).parents[4] / "configs").glob("*.yaml"))
_NUM_CONFIGS = 400
_NUMBERS = [
    0,
    -1,
    1,
    2**31,
    2**63 - 1,
    2**63,
    -(2**63) - 1,
    10**30,
    0.5,
    -0.0,
    1e-320,
    1e300,
    float("inf"),
    float("nan"),
]
_TEXTS = [
    "",
    " ",
    "x",
    "kind",
    "null",
    "{day}",
    "{next_day}",
    "{",
    "~",
    "é",
    "用户",
    "\u202e",
    "a\x01b",
    "🙂" * 50,
    "x" * 5_000,
]
_TEXTS += [
    "../..",
    "/",
    "/dev/zero",
    "/etc/passwd",
    "s3://bucket/x",
    "odps://p/tables/t",
    "http://host/x",
    "http://[",
    "%s%n",
]
_KINDS = [
    "id",
    "raw",
    "sequence",
    "lookup",
    "match",
    "expr",
    "combo",
    "tokenize",
    "date_parts",
    "overlap",
    "kv_dot_product",
]
_KINDS += ["two_tower", "dlrm", "multi_tower", "multi_tower_din", "daily", "tables", "splits", "synthetic", "deepctr"]
_KINDS += [
    "adam",
    "sgd",
    "lamb",
    "constant",
    "file",
    "flat",
    "json.decoder",
    ".x",
    "recsys_core.gate",
    "os",
    "base",
    "_rows",
]
_JUNK: list[Any] = [
    None,
    True,
    [],
    {},
    [None],
    [[[]]],
    {"x": 1},
    {"kind": "id"},
    [{"name": "a"}] * 2,
    ["a", 1, None, {}],
]

Tree = dict[str, Any]
Place = tuple[Any, Any]


def _places(node: Any) -> Iterator[Place]:
    """Yield every (list or section, number or key) of a tree."""
    for key in list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
        yield node, key
        yield from _places(node[key])


def _any(tree: Tree, chance: random.Random, of: Callable[[Any], bool] = lambda _: True) -> Place:
    fitting = [(node, key) for node, key in _places(tree) if of(node[key])]
    return chance.choice(fitting or [*_places(tree)] or [(tree, "name")])


def _drop(tree: Tree, chance: random.Random) -> None:
    node, key = _any(tree, chance)
    node.pop(key, None) if isinstance(node, dict) else node.pop(key)


def _rename(tree: Tree, chance: random.Random) -> None:
    node, key = chance.choice([place for place in _places(tree) if isinstance(place[0], dict)] or [(tree, "name")])
    made: list[Any] = [str(key)[1:], f"{key}s", str(key).upper(), chance.choice(_TEXTS), None, 3, True, 1.5]
    node[chance.choice(made)] = node.pop(key, None)


def _retype(tree: Tree, chance: random.Random) -> None:
    node, key = _any(tree, chance)
    node[key] = copy.deepcopy(chance.choice([*_JUNK, *_TEXTS, *_NUMBERS]))


def _number(tree: Tree, chance: random.Random) -> None:
    node, key = _any(tree, chance, lambda value: isinstance(value, int | float))
    node[key] = chance.choice(_NUMBERS)


def _text(tree: Tree, chance: random.Random) -> None:
    node, key = _any(tree, chance, lambda value: isinstance(value, str))
    node[key] = chance.choice(_TEXTS)


def _kind(tree: Tree, chance: random.Random) -> None:
    node, key = chance.choice([place for place in _places(tree) if place[1] == "kind"] or [(tree, "kind")])
    node[key] = chance.choice(_KINDS)


def _null(tree: Tree, chance: random.Random) -> None:
    node, key = _any(tree, chance)
    node[key] = None


def _move(tree: Tree, chance: random.Random) -> None:
    (one, key), (other, place) = _any(tree, chance), _any(tree, chance)
    other[place] = copy.deepcopy(one[key])


def _add(tree: Tree, chance: random.Random) -> None:
    node, key = _any(tree, chance, lambda value: isinstance(value, dict | list))
    inside = node[key]
    if isinstance(inside, list):
        inside.append(copy.deepcopy(chance.choice([*inside, *_JUNK])))
    elif isinstance(inside, dict):
        inside[chance.choice(_TEXTS)] = copy.deepcopy(chance.choice(_JUNK))


def _spoilt(text: str, chance: random.Random) -> bytes:
    """Return the file's bytes, in some cases with what no editor should have left in it."""
    at = chance.randrange(len(text) + 1)
    lines = text.splitlines()
    line = chance.choice(lines or [""])
    made = [
        (text[:at] + chance.choice("\x00\x07\x1b\x7f\t\u2028\ufeff\"'{[&*!%@`:#") + text[at:]).encode(),
        text[:at].encode(),
        f"{text}\n{line}".encode(),
        f"{text}\nx: &x [*x]\n".encode(),
        text.replace("name", "näme", 1).encode("latin-1", "replace"),
        text.encode("utf-16"),
        text.encode()[:at] + b"\xff\xfe\x80" + text.encode()[at:],
        text.replace("  ", "\t", 1).encode(),
        f"{text}\n? [a]\n: 1\n{chance.randrange(9)}: 1\n".encode(),
    ]
    return chance.choice(made) if chance.random() < 0.2 else text.encode()


_MUTATIONS = [_drop, _rename, _retype, _retype, _number, _number, _text, _kind, _null, _move, _add]


def mutated(number: int) -> bytes:
    """Return config `number`."""
    chance = random.Random(number)
    tree = yaml.safe_load(CONFIGS[number % len(CONFIGS)].read_text())
    for _ in range(chance.choice([1, 1, 2, 3, 6])):
        chance.choice(_MUTATIONS)(tree, chance)
    return _spoilt(yaml.dump(tree, sort_keys=False, allow_unicode=True), chance)


@pytest.mark.parametrize("number", range(_NUM_CONFIGS))
def test_a_mutated_config_is_valid_or_refused_line_by_line(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "mutated.yaml"
    file.write_bytes(mutated(number))
    monkeypatch.chdir(CONFIGS[0].parents[1])
    done = CliRunner().invoke(app, ["config", "check", str(file)])
    if done.exit_code == 0:
        assert done.stdout.startswith(f"{file}: valid, ")
        return
    assert (done.exit_code, done.stdout) == (2, ""), repr(done.exception)
    lines = done.stderr.splitlines()
    assert lines
    assert all(line.startswith(f"error: {file}") for line in lines), lines
