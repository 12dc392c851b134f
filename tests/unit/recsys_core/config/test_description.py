"""What `dayline describe` says of a model, counted by hand."""

import pytest

from recsys_core.config import RankingConfig, RunConfig
from recsys_core.config.description import describe, mermaid

FEATURES = {
    "embedding_dim": 4,
    "query": [
        {"kind": "id", "name": "user", "num_embeddings": 10},
        {"kind": "raw", "name": "age"},
        {"kind": "sequence", "name": "clicked", "table": "item"},
    ],
    "item": [{"kind": "id", "name": "item", "num_embeddings": 20}],
    "tables": [{"name": "item", "dtype": "float16"}],
}


def _ranking(model, **features):
    return RankingConfig.model_validate(
        {
            "name": "m",
            "data": {"kind": "splits", "source": "d", "day": "2024-01-01"},
            "features": FEATURES | features,
            "ranking": {"tasks": {"click": {"label": "c"}, "sale": {"label": "s"}}} if "tasks" in model else {},
            "model": model,
        }
    )


def test_tables_features_and_layers_are_counted_by_hand():
    found = describe(_ranking({"kind": "mmoe", "num_experts": 3, "hidden": [5], "tasks": {"click": {}, "sale": {}}}))
    tables = {one.name: (one.num_embeddings, one.num_parameters, one.num_bytes, one.features) for one in found.tables}
    assert tables == {"user": (10, 40, 160, ("user",)), "item": (20, 80, 160, ("clicked", "item"))}
    features = {one.name: (one.side, one.table, one.pooling, one.width) for one in found.features}
    assert features == {
        "user": ("query", "user", "mean", 4),
        "clicked": ("query", "item", "mean", 4),
        "age": ("query", None, None, 1),
        "item": ("item", "item", "mean", 4),
    }
    parts = {part.name: (part.num_parameters, part.flops) for part in found.parts}
    # Of 13 inputs: three experts of 5, a gate over them for each task, and a tower of 32 for each.
    assert parts == {
        "head.experts": (3 * (13 * 5 + 5), 3 * 2 * 13 * 5),
        "head.gates": (2 * 13 * 3, 2 * 2 * 13 * 3),
        "head.towers": (2 * (5 * 32 + 32 + 33), 2 * 2 * (5 * 32 + 32)),
    }
    assert found.entries is None
    assert found.num_parameters == 120 + sum(count for count, _ in parts.values())
    assert found.num_bytes == 320 + 4 * sum(count for count, _ in parts.values())


def test_a_head_without_parts_and_sequences_that_are_not_pooled():
    plain = describe(_ranking({"kind": "fm"}))
    # A weight and a vector of 3 for the number, and the bias.
    assert [(part.name, part.num_parameters) for part in plain.parts] == [("head.fields", 4), ("head, itself", 1)]
    clicked = {"kind": "sequence", "name": "clicked", "table": "item", "pooling": "none", "max_length": 3}
    query = [*FEATURES["query"][:2], clicked]
    model = {"kind": "bst", "behaviours": {"sequences": ["clicked"], "targets": ["item"]}, "max_length": 3}
    found = describe(_ranking(model | {"hidden": [8]}, query=query))
    assert found.entries == 50
    assert ("clicked", "none") in {(one.name, one.pooling) for one in found.features}
    assert found.flops > 0
    ages = {"kind": "raw", "name": "ages", "pooling": "none"}
    din = {"kind": "multi_tower_din", "attention": [{"sequences": ["ages"], "targets": ["age"], "hidden": [4]}]}
    numbered = describe(_ranking(din | {"towers": [{"hidden": [4]}]}, query=[*FEATURES["query"], ages]))
    assert ("ages", None, "none", 1) in {(one.name, one.table, one.pooling, one.width) for one in numbered.features}


def _retrieval(**changes):
    sections = {
        "name": "r",
        "data": {"kind": "synthetic"},
        "features": FEATURES,
        "model": {"kind": "two_tower", "query_hidden": [6], "item_hidden": [], "output_dim": 4},
        "loss": {"kind": "sampled_softmax"},
        "sampler": {"kind": "weighted", "num_negatives": 4},
    }
    return RunConfig.model_validate(sections | changes)


def test_towers_are_described_one_by_one():
    found = describe(_retrieval())
    # The query: user, clicked and age through 6 to 4; the item through one layer.
    parts = {part.name.split(".")[0]: (part.num_parameters, part.flops) for part in found.parts}
    assert parts == {"query": (9 * 6 + 6 + 6 * 4 + 4, 2 * (9 * 6 + 6 * 4)), "item": (4 * 4 + 4, 2 * 4 * 4)}


def test_a_diagram_leads_from_features_to_what_reads_them():
    lines = mermaid(describe(_retrieval())).splitlines()
    assert lines[0] == "flowchart LR"
    assert '  t1[("item<br/>20 x 4")]' in lines
    edges = [line.strip() for line in lines if "-->" in line]
    # Numbers lead to their tower, ids to their table; both sides share one.
    assert {"f0 --> t0", "t0 --> query", "t1 --> query", "t1 --> item"} <= set(edges)
    assert len(edges) == len(set(edges))
    ranked = mermaid(describe(_ranking({"kind": "fm"})))
    assert "t0 --> head" in ranked
    assert "subgraph head" in ranked


def test_a_model_that_does_not_take_the_features_is_refused():
    with pytest.raises(ValueError, match=r"model.wide_only: there is no feature 'town'"):
        describe(_ranking({"kind": "wide_and_deep", "wide_only": ["town"]}))
