"""Changes from the command line reach every selected place, and one that selects nothing says what there is."""

from pathlib import Path
from typing import Any

import pytest

from recsys_core import config as configs
from recsys_core.config.overrides import override

DEMO = Path(__file__).parents[4] / "configs" / "demo.yaml"


def features() -> dict[str, Any]:
    """A config's lists."""
    entries = [{"name": "city", "size": 10}, {"name": "age", "shape": {"kind": "raw"}}, {"name": "tag", "size": 30}]
    return {"query": entries, "ks": [1, 5, 50]}


def test_overrides_reach_into_lists_sections_and_absent_sections() -> None:
    sections: dict[str, Any] = {"a": [{"b": 1}, {"b": [5, 6]}], "c": None}
    assert override(sections, "a[1].b[0]=[x, 1e3]") == {("a", 1, "b", 0): "--set a[1].b[0]=[x, 1e3]"}
    override(sections, "c.d=2024-01-15")
    override(sections, "e.f=")
    assert sections["a"][1] == {"b": [["x", "1e3"], 6]}
    assert str(sections["c"]["d"]) == "2024-01-15"
    assert sections["e"] == {"f": None}


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("a", "not of the form section.key=value"),
        ("a..b=1", "not of the form section.key=value"),
        ("a[x]=1", r"\[x\] selects nothing; write \[0\]"),
        ("a=[1", "not YAML"),
        ("a[2]=1", r"a has 2 entries in the config, so \[2\] is out of range"),
        ("a[2].b=1", r"a has 2 entries in the config, so \[2\] is out of range"),
        ("a.b=1", "a is a list in the config, which has no key 'b'"),
        ("n[0]=1", "n is text in the config, not a list"),
        ("n.b=1", "n is text in the config, which has no key 'b'"),
        ("t.b=1", "t is a yes or no in the config, which has no key 'b'"),
        ("i.b=1", "i is a number in the config, which has no key 'b'"),
        ("s[0]=1", "s is a section in the config, not a list"),
        ("new[0]=1", r"new has 0 entries in the config, so \[0\] is out of range"),
    ],
)
def test_an_override_that_leads_nowhere_is_refused(assignment: str, expected: str) -> None:
    with pytest.raises(ValueError, match=rf"--set .*: {expected}"):
        override({"a": [1, 2], "n": "text", "s": {}, "t": True, "i": 3}, assignment)


@pytest.mark.parametrize(
    ("path", "chosen"),
    [
        ("query[name=age]", [1]),
        ("query[-1]", [2]),
        ("query[:]", [0, 1, 2]),
        ("query[1:3]", [1, 2]),
        ("query[:-1]", [0, 1]),
        ("query[size>=10]", [0, 2]),
        ("query[size>10]", [2]),
        ("query[size<30]", [0]),
        ("query[size<=10]", [0]),
        ("query[name!=city]", [1, 2]),
        ("query[name>=city]", [0, 2]),
        ("query[shape.kind=raw]", [1]),
        ('query[name="city"]', [0]),
    ],
)
def test_a_selector_chooses_entries(path: str, chosen: list[int]) -> None:
    sections = features()
    message = f"--set {path}.new=7"
    assert override(sections, f"{path}.new=7") == {("query", number, "new"): message for number in chosen}
    assert [number for number, entry in enumerate(sections["query"]) if entry.get("new") == 7] == chosen


def test_each_selected_entry_gets_a_value_of_its_own() -> None:
    sections = features()
    override(sections, "query[:].sizes=[1]")
    override(sections, "query[0].sizes[0]=2")
    override(sections, "ks[1:]=9")
    assert [entry["sizes"] for entry in sections["query"]] == [[2], [1], [1]]
    assert sections["ks"] == [1, 9, 9]


def test_json_sets_several_paths_and_keeps_semicolons() -> None:
    sections = features()
    change = '{"query[name=city].size": 5, "ks": [1], "run_root": "/x;y", "rate": 1e-3}'
    applied = override(sections, change)
    assert list(applied) == [("query", 0, "size"), ("ks",), ("run_root",), ("rate",)]
    assert set(applied.values()) == {f"--edit-config-json {change}"}
    assert (sections["query"][0]["size"], sections["ks"], sections["run_root"]) == (5, [1], "/x;y")
    assert sections["rate"] == 1e-3


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("query[name=cty].size=1", "none with name = cty: its entries have name city, age, tag; did you mean city"),
        (
            "query[size>30].size=1",
            "query has 3 entries in the config, none with size > 30: its entries have size 10, 30",
        ),
        ("query[colour=red].size=1", "none with colour = red: none of them has colour"),
        ("query[name=[].size=1", "not of the form"),
        ("query[7:].size=1", "query has 3 entries in the config, and the range selects none of them"),
        ("query[-4].size=1", r"so \[-4\] is out of range"),
        ("ks[name=1]=1", "none of them has name"),
        ('{"a": 1', "--edit-config-json .*: not JSON"),
        ('{"a..b": 1}', "'a..b' is not of the form section.key"),
        ('{"ks": 1, "ks": 2}', "ks is there twice; keep one of them"),
        ('{"query[name=x].c": 1}', "--edit-config-json .*none with name = x"),
    ],
)
def test_a_change_that_matches_nothing_says_what_there_is(change: str, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        override(features(), change)


def test_a_config_takes_both_forms() -> None:
    changes = ["features.query[kind=sequence].max_length=7", '{"features.item[name=price].normalizer": "none"}']
    with pytest.raises(ValueError, match=".") as error:
        configs.load(DEMO, [*changes, "features.query[:].colour=red"])
    lines = str(error.value).splitlines()
    assert lines[0].startswith("--set features.query[:].colour=red: features.query[name=clicked].colour: unknown key")
    loaded = configs.load(DEMO, [changes[0]])
    assert [feature.max_length for feature in loaded.features.query if feature.kind == "sequence"] == [7, 7, 7]
