"""Mistakes in a config are reported all at once, each with its place and the way out."""

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
    most: int = Field(default=1, le=1_000, description="as there is room for")


class Named(Frozen):
    """An entry of a list."""

    name: str
    steps: int


class Shape(Frozen):
    """A variant that pydantic distinguishes by itself."""

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
    named: tuple[Named, ...] = ()


GOOD = "name: a\nlearning: {steps: 3}\nsampler: {kind: weighted}\n"
FILE = Path("shop.yaml")


def mistakes(text: str, *overrides: str) -> list[str]:
    """Return the lines of the error."""
    sections = yaml.safe_load(text)
    applied = {keys: message for change in overrides for keys, message in override(sections, change).items()}
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
        (GOOD.replace("steps: 3", "steps: 3, x: 1"), "learning.x: unknown key; known here: rate, steps, most"),
        (GOOD.replace("steps: 3", "step: 3"), "learning.steps: missing (there is step)"),
        (GOOD.replace("steps: 3", ""), "learning.steps: missing"),
        (
            GOOD.replace("steps: 3", "steps: many"),
            "learning.steps: input should be a valid integer, unable to parse string as an integer, found 'many'",
        ),
        (GOOD.replace("steps: 3", "steps: 3, rate: 0"), "learning.rate: input should be greater than 0, found 0"),
        (
            GOOD.replace("weighted", "weightd"),
            "sampler: samplers: unknown kind 'weightd' (known: impressions, weighted); did you mean 'weighted'?",
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


def test_all_mistakes_are_reported_at_once() -> None:
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


def test_an_entry_of_a_list_is_named_by_its_name() -> None:
    text = GOOD + "named: [{name: city, steps: x}, {name: twice, steps: x}, {name: twice, steps: x}, {steps: x}]\n"
    assert [line.split(": ")[1] for line in mistakes(text)] == [
        "named[name=city].steps",
        "named[1].steps",
        "named[2].steps",
        "named[3].name",
        "named[3].steps",
    ]


def test_null_clears_a_key_that_takes_none() -> None:
    text = (
        GOOD.replace("steps: 3", "steps: 3, rate: null")
        + "shapes: null\nextra: null\nby_name: {a: {steps: 1, rate: null}}\n"
    )
    whole = parsing.validate(Whole, yaml.safe_load(text), FILE, {})
    assert (whole.learning.rate, whole.shapes, whole.extra, whole.by_name["a"].rate) == (0.1, (), None, 0.1)
    assert "rate" not in whole.learning.model_fields_set
    assert "extra" in whole.model_fields_set


def test_null_neither_clears_an_unknown_key_nor_fills_one_that_is_needed() -> None:
    assert mistakes(GOOD.replace("steps: 3", "steps: null, raet: null")) == [
        "shop.yaml: learning.steps: missing",
        "shop.yaml: learning.raet: unknown key; did you mean rate?",
    ]


def test_what_is_beyond_a_limit_is_refused_with_the_reason() -> None:
    (line,) = mistakes(GOOD.replace("steps: 3", "steps: 3, most: 1001"))
    assert line == (
        "shop.yaml: learning.most: input should be less than or equal to 1000, found 1001 (as there is room for)"
    )


def test_of_very_many_mistakes_the_first_are_reported() -> None:
    lines = mistakes(GOOD + "named: [" + ", ".join(["{name: x}"] * 60) + "]\n")
    assert len(lines) == 51
    assert lines[-1] == "shop.yaml: 10 more mistakes"


def test_the_schema_holds_no_references() -> None:
    text = str(parsing.schema(Whole))
    assert "$ref" not in text
    assert "$defs" not in text
    assert "num_negatives" in text
