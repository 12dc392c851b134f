"""Mistakes in a config are told all at once, each with its place and the way out."""

from pathlib import Path
from typing import Annotated, Literal

import pytest
import yaml
from pydantic import Field

from recsys_core.artifacts import Frozen
from recsys_core.config import parsing
from recsys_core.config.overrides import override
from recsys_core.lookup import OneOf


class Learning(Frozen):
    """A section."""

    rate: float = Field(default=0.1, gt=0)
    steps: int


class Shape(Frozen):
    """A variant that pydantic tells apart by itself."""

    kind: Literal["square"]
    side: float


class Circle(Frozen):
    """The other."""

    kind: Literal["circle"]
    radius: float


class Whole(Frozen):
    """A config with every sort of section."""

    name: str
    learning: Learning
    sampler: Annotated[Frozen, OneOf("recsys_core.samplers")]
    shapes: tuple[Annotated[Shape | Circle, Field(discriminator="kind")], ...] = ()
    by_name: dict[str, Learning] = {}
    extra: Learning | None = None


GOOD = "name: a\nlearning: {steps: 3}\nsampler: {kind: weighted}\n"
FILE = Path("shop.yaml")


def mistakes(text: str, *overrides: str) -> list[str]:
    """Return the lines of the error."""
    sections = yaml.safe_load(text)
    applied = {keys: told for change in overrides for keys, told in override(sections, change).items()}
    with pytest.raises(ValueError, match=".") as error:
        parsing.validate(Whole, sections, FILE, applied)
    return str(error.value).splitlines()


def test_a_good_config_passes() -> None:
    whole = parsing.validate(Whole, yaml.safe_load(GOOD), FILE, {})
    assert whole.learning == Learning(steps=3)
    assert whole.sampler.model_dump()["num_negatives"] == 2048


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (GOOD.replace("steps: 3", "steps: 3, raet: 1"), "learning.raet: unknown key; did you mean rate?"),
        (GOOD.replace("steps: 3", "steps: 3, x: 1"), "learning.x: unknown key; known here: rate, steps"),
        (GOOD.replace("steps: 3", "step: 3"), "learning.steps: missing (there is step)"),
        (GOOD.replace("steps: 3", ""), "learning.steps: missing"),
        (
            GOOD.replace("steps: 3", "steps: many"),
            "learning.steps: input should be a valid integer, unable to parse string as an integer, found 'many'",
        ),
        (GOOD.replace("steps: 3", "steps: 3, rate: 0"), "learning.rate: input should be greater than 0, found 0"),
        (
            GOOD.replace("weighted", "weightd"),
            "sampler: samplers: unknown kind 'weightd' (known: weighted); did you mean 'weighted'?",
        ),
        (
            GOOD.replace("weighted", "weighted, num_negative: 5"),
            "sampler.num_negative: unknown key; did you mean num_negatives?",
        ),
        (
            GOOD + "shapes: [{kind: square, side: 1}, {kind: circle, radus: 2, radius: 2}]",
            "shapes[1].radus: unknown key; did you mean radius?",
        ),
        (GOOD + "by_name: {a: {steps: 1, rat: 2}}", "by_name.a.rat: unknown key; did you mean rate?"),
        (GOOD + "extra: {steps: 1, rat: 2}", "extra.rat: unknown key; did you mean rate?"),
    ],
)
def test_each_mistake_names_its_place(text: str, expected: str) -> None:
    assert f"shop.yaml: {expected}" in mistakes(text)


def test_all_mistakes_are_told_at_once() -> None:
    text = "name: a\nlearning: {step: 3}\nsampler: {kind: weighted, num_negatives: 0}\nshape: []\n"
    assert [line.split(": ")[1] for line in mistakes(text)] == [
        "learning.steps",
        "learning.step",
        "sampler.num_negatives",
        "shape",
    ]


def test_a_mistake_in_an_override_names_the_override() -> None:
    assert mistakes(GOOD, "learning.raet=1", "name=b") == [
        "--set learning.raet=1: learning.raet: unknown key; did you mean rate?"
    ]


def test_a_mistake_on_the_way_to_what_is_set_names_the_override_too() -> None:
    assert mistakes(GOOD, "lerning.rate=1") == ["--set lerning.rate=1: lerning: unknown key; did you mean learning?"]


def test_long_values_are_shortened() -> None:
    (line,) = mistakes(GOOD, f"learning.steps={'x' * 100}")
    assert line.endswith("x…")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\nb:\n  c: 1\n  d: 2\n  c: 3\n", r":5: key 'c' is in line 3 too; keep one of them"),
        ("a: [{b: 1, b: 2}]", r":1: key 'b' is in line 1 too"),
        ("a: [1\nb: 2\n", r":2: not YAML"),
        ("- a\n", ": holds a list where the config's sections are wanted"),
        ("", ": holds nothing"),
    ],
)
def test_a_file_that_is_no_config_is_refused_with_its_line(tmp_path: Path, text: str, expected: str) -> None:
    file = tmp_path / "shop.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=expected):
        parsing.read(file)


def test_a_missing_file_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "shop_two_tower.yaml").write_text("name: a")
    with pytest.raises(ValueError, match=r"no such config file; did you mean .*shop_two_tower.yaml\?"):
        parsing.read(tmp_path / "shop_two_towers.yaml")
    with pytest.raises(ValueError, match=r"no such config file$"):
        parsing.read(tmp_path / "x.yaml")


def test_the_schema_holds_no_references() -> None:
    text = str(parsing.schema(Whole))
    assert "$ref" not in text
    assert "$defs" not in text
    assert "num_negatives" in text
