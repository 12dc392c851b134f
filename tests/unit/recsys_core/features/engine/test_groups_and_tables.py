"""Grouped sequences, tables that features share, and what the config's check refuses of them."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from recsys_core.features import Config, Engine, Initializer

ITEM: list[dict[str, Any]] = [
    {"kind": "id", "name": "item", "num_embeddings": 10, "encoding": "identity"},
    {"kind": "id", "name": "brand", "num_embeddings": 10, "encoding": "identity"},
]
CLICKS: dict[str, Any] = {
    "name": "clicks",
    "max_length": 2,
    "separator": ";",
    "features": [
        {"kind": "sequence", "name": "item", "table": "item", "pooling": "none"},
        {"kind": "sequence", "name": "made_by", "column": "brand", "table": "brand", "pooling": "none"},
        {"kind": "id", "name": "device", "num_embeddings": 8, "encoding": "hash"},
    ],
}


def config(**keys: Any) -> Config:
    return Config.model_validate({"embedding_dim": 4, "query": [], "item": ITEM} | keys)


def test_a_group_stands_for_its_features() -> None:
    made = config(groups=[CLICKS])
    assert made.groups == ()
    assert [(f.name, f.column, f.group) for f in made.query] == [
        ("clicks__item", "clicks__item", "clicks"),
        ("clicks__made_by", "clicks__brand", "clicks"),
        ("clicks__device", "clicks__device", "clicks"),
    ]
    assert Config.model_validate(made.model_dump(mode="json")) == made


def test_all_of_a_group_is_cut_and_split_alike() -> None:
    engine = Engine.build(config(groups=[CLICKS | {"side": "query"}]))
    table = pa.table(
        {
            "clicks__item": [[1, 2, 3], None, [4]],
            "clicks__brand": [[5, 6, 7], [], [8]],
            "clicks__device": ["a;b;c", "", "d"],
        }
    )
    encoded = engine.transform(table, "query").sparse
    assert encoded["clicks__item"].values.tolist() == [2, 3, 4]
    assert encoded["clicks__made_by"].values.tolist() == [6, 7, 8]
    assert [jagged.lengths.tolist() for jagged in encoded.values()] == [[2, 0, 1]] * 3
    first = Engine.build(config(groups=[CLICKS | {"keep": "first"}])).transform(table, "query").sparse
    assert first["clicks__item"].values.tolist() == [1, 2, 4]


def test_members_of_different_lengths_are_refused() -> None:
    engine = Engine.build(config(groups=[CLICKS]))
    table = pa.table({"clicks__item": [[1], [2, 3]], "clicks__brand": [[1], [2, None]], "clicks__device": ["a", "b;c"]})
    with pytest.raises(
        ValueError, match="row 1: group 'clicks': feature 'clicks__item' has 2 entries and 'clicks__made_by' 1"
    ):
        engine.transform(table, "query")


def test_numbers_of_a_group_stand_beside_its_ids() -> None:
    price = {"kind": "raw", "name": "price", "pooling": "none", "fill": -1}
    engine = Engine.build(config(groups=[CLICKS | {"features": [CLICKS["features"][0], price]}]))
    table = pa.table({"clicks__item": [[1, 2, 3], None, [4]], "clicks__price": ["9;0.5;", "", "7.25"]})
    encoded = engine.transform(table, "query")
    assert (encoded.sparse["clicks__item"].values.tolist(), list(encoded.numbers)) == ([2, 3, 4], ["clicks__price"])
    assert encoded.numbers["clicks__price"].values.tolist() == [[0.5], [-1], [7.25]]
    assert encoded.numbers["clicks__price"].lengths.tolist() == [2, 0, 1]
    taken = encoded.take(np.array([2, 0]))
    assert taken.numbers["clicks__price"].values.tolist() == [[7.25], [0.5], [-1]]
    with pytest.raises(
        ValueError, match="row 0: group 'clicks': feature 'clicks__item' has 1 entries and 'clicks__price' 2"
    ):
        engine.transform(pa.table({"clicks__item": [[1]], "clicks__price": ["1;2"]}), "query")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"groups": [CLICKS | {"features": [{"kind": "id", "num_embeddings": 4}]}]}, "a feature has no name"),
        (
            {"groups": [CLICKS | {"features": [CLICKS["features"][0] | {"max_length": 3}]}]},
            "feature 'item' has max_length of its own; say it once, for the group",
        ),
        ({"groups": [CLICKS | {"features": [{"kind": "raw", "name": "x"}]}]}, "max_length"),
        ({"groups": [CLICKS | {"length": 3}]}, "length"),
        ({"tables": [{"name": "itm"}]}, "tables: there is no table 'itm' .*did you mean 'item'"),
        ({"tables": [{"name": "item"}, {"name": "item"}]}, "tables: one is there twice"),
        ({"tables": [{"name": "item", "dtype": "float8"}]}, "dtype"),
        (
            {"query": [{"kind": "sequence", "name": "s", "table": "item", "embedding_dim": 8}]}
            | {"item": [ITEM[0] | {"embedding_dim": 4}]},
            r"table 'item': features that share it have one embedding_dim, not \{'s': 8, 'item': 4\}",
        ),
        ({"query": [{"kind": "raw", "name": "x", "boundaries": [1], "table": "itm"}]}, "there is no table 'itm'"),
        ({"query": [{"kind": "raw", "name": "x", "boundaries": [2, 1]}]}, "boundaries must be rising numbers"),
        (
            {"query": [{"kind": "id", "name": "x", "vocabulary": ["a", "b", "a"]}]},
            "vocabulary: 'a' is there twice; name each id once",
        ),
        (
            {
                "query": [
                    {"kind": "expr", "name": "a", "expression": "b + 1"},
                    {"kind": "expr", "name": "b", "expression": "a + 1"},
                ]
            },
            r"feature 'a' needs itself \(a -> b -> a\)",
        ),
    ],
)
def test_what_cannot_be_is_refused_by_the_config(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        config(**keys)


def test_a_bucket_is_an_id_of_the_table_that_it_shares() -> None:
    price = {"kind": "raw", "name": "price", "boundaries": [10, 20], "table": "level", "pooling": "sum"}
    level = {"kind": "id", "name": "level", "num_embeddings": 8}
    engine = Engine.build(config(query=[price, level]))
    table = pa.table({"price": [5, None, 15, 25.0], "level": [2, 7, 2, None]})
    engine.fit([table], [])
    # Seen three times: 2 (twice as a level, once as a bucket); once each: 0, 1 and 7, in this order.
    encoded = engine.transform(table, "query").sparse
    assert encoded["price"].values.tolist() == [2, 3, 1]
    assert encoded["price"].lengths.tolist() == [1, 0, 1, 1]
    assert encoded["level"].values.tolist() == [1, 4, 1]
    (spec,) = [table for table in engine.tables if table.name == "level"]
    assert spec.features == (("price", "query"), ("level", "query"))


def test_a_table_s_settings_reach_its_spec_and_are_saved(tmp_path) -> None:
    start = {"kind": "normal", "mean": 0, "std": 0.1}
    made = config(tables=[{"name": "brand", "initializer": start, "dtype": "bfloat16", "trainable": False}])
    Engine.build(made).save(tmp_path)
    item, brand = Engine.load(tmp_path).tables
    assert (item.initializer, item.dtype, item.trainable) == (None, "float32", True)
    assert brand.initializer == Initializer.model_validate(start)
    assert (brand.dtype, brand.trainable) == ("bfloat16", False)


def test_fitted_buckets_are_the_same_after_saving_and_on_the_next_day(tmp_path) -> None:
    made = config(query=[{"kind": "raw", "name": "x", "num_buckets": 4}])
    engine = Engine.build(made)
    engine.fit([pa.table({"x": np.arange(100.0)})], [])
    engine.save(tmp_path)
    loaded = Engine.load(tmp_path)
    asked = pa.table({"x": [0, 25, 49.5, 50, 80]})
    wanted = engine.transform(asked, "query").sparse["x"].values.tolist()
    assert wanted == [0, 1, 1, 2, 3]
    next_day = Engine.build(made, loaded)
    next_day.fit([pa.table({"x": np.arange(1000.0)})], [])
    for one in (loaded, next_day):
        assert one.transform(asked, "query").sparse["x"].values.tolist() == wanted
