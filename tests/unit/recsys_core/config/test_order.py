"""Models that read sequences in their order: what their configs have to agree on, and losses that need no sampler."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from recsys_core import config

CONFIGS = Path(__file__).parents[4] / "configs"
CLICKED = {"kind": "sequence", "name": "clicked", "column": "history__item_id", "table": "item_id", "pooling": "none"}


def _refused(tmp_path: Path, **changes: Any) -> str:
    sections = copy.deepcopy(yaml.safe_load((CONFIGS / "movielens_sasrec.yaml").read_text()))
    sections |= changes
    path = tmp_path / "changed.yaml"
    path.write_text(yaml.safe_dump({name: section for name, section in sections.items() if section is not None}))
    with pytest.raises(ValueError, match="changed.yaml: ") as caught:
        config.load(path)
    return str(caught.value)


def _query(*sequences: dict[str, Any]) -> dict[str, Any]:
    item = {"kind": "id", "name": "item_id", "num_embeddings": 2048}
    return {"embedding_dim": 64, "query": [*sequences], "item": [item]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"features": _query(CLICKED | {"pooling": "mean"})},
            "features.query: no sequence that is not pooled, and model.kind sasrec reads one in its order; give it one",
        ),
        (
            {"features": _query(CLICKED)},
            "features.query: 'clicked' has up to any number of elements, and model.max_len",
        ),
        (
            {"features": _query(CLICKED | {"max_length": 50})},
            "preprocess.history.max_length: 100, and feature 'clicked' keeps 50 of these entries",
        ),
        (
            {"features": _query(CLICKED | {"max_length": 100}, CLICKED | {"name": "again", "max_length": 100})},
            "features.query: 'clicked' and 'again' stand entry by entry",
        ),
        (
            {"preprocess": {"examples": "sequences", "history": {"mode": "others", "max_length": 100}}},
            "preprocess.history.mode: others knows what came after an interaction",
        ),
        (
            {"model": {"kind": "two_tower"}},
            "preprocess.examples: sequences, and model.kind two_tower has no states behind their entries to train",
        ),
        (
            {"sampler": {"kind": "weighted"}},
            "sampler: loss.kind full_cross_entropy compares queries with all items, so that nothing is drawn; remove",
        ),
        (
            {"loss": {"kind": "ccl"}, "sampler": {"kind": "weighted"}},
            "model.similarity: inner_product, and loss.kind ccl is of cosine; set model.similarity: cosine, or use",
        ),
        (
            {"loss": {"kind": "sampled_softmax"}},
            "sampler: missing, and loss.kind sampled_softmax compares queries with items that are drawn; say how",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_with_the_remedy(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    assert message in _refused(tmp_path, **changes)


def test_a_model_of_order_learns_from_single_interactions_too(tmp_path: Path) -> None:
    made = config.load(CONFIGS / "movielens_sasrec.yaml", ["preprocess.examples=interactions"])
    assert isinstance(made, config.RunConfig)
    assert made.sampler is None


def test_ready_made_examples_need_no_sampler_either() -> None:
    made = config.load(
        CONFIGS / "u2i_examples.yaml",
        ["sampler=null", "loss={kind: full_cross_entropy}", "model.similarity=inner_product"],
    )
    assert isinstance(made, config.RunConfig)
    assert made.model_dump(mode="json")["sampler"] is None
