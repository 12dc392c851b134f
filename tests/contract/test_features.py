"""Every file of features/ keeps the catalogue's promises, those of a later day included."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tokenizers
from pydantic import ValidationError

from recsys_core import features
from recsys_core.lookup import component, kinds

CATALOGUE = "recsys_core.features"
# What a kind needs besides kind and name, where it needs anything, and a column that it can read.
NUMBER = {"output": {"kind": "raw"}}
HASHED = {"output": {"kind": "id", "num_embeddings": 16, "encoding": "hash"}}
TOKENIZER = tokenizers.Tokenizer(tokenizers.models.WordLevel({"?": 0, "a": 1}, unk_token="?")).to_str()
NEEDS: dict[str, dict[str, Any]] = {
    "id": {"num_embeddings": 16},
    "sequence": {"table": "owner"},
    "bool_mask": {"values": "x", "mask": "x"} | HASHED,
    "combine": NUMBER,
    "combo": {"columns": ["x", "x"]} | HASHED,
    "date_parts": {"part": "weekday"} | NUMBER,
    "expr": {"expression": "log1p(x) + 1"} | NUMBER,
    "kv_dot_product": {"left": "x", "right": "x"} | NUMBER,
    "lookup": {"map": "x", "key": "x"} | HASHED,
    "match": {"map": "x"} | HASHED,
    "overlap": {"query": "x", "title": "x", "method": "index_of"} | NUMBER,
    "text_normalize": HASHED,
    "tokenize": {"tokenizer_json": TOKENIZER, "output": {"kind": "id", "num_embeddings": 2, "encoding": "identity"}},
}
TEXTS = pa.array(["a b", None, "c"])
COLUMNS = {
    "id": pa.array([[1, 2], None, [3]]),
    "sequence": pa.array([[1, 2], None, [3]]),
    "bool_mask": pa.array([[1, 0], None, [1]]),
    "match": pa.array(["a^x:1", None, "b^y:2"]),
} | dict.fromkeys(("raw", "combine", "date_parts", "expr"), pa.array([0.5, None, 2]))
COLUMNS["date_parts"] = pa.array([0, None, 86_400])
OWNER = {"kind": "id", "name": "owner", "num_embeddings": 16}

# The last one is the feature of one's own in docs/components.md.
pytestmark = [
    pytest.mark.parametrize("kind", [*kinds(CATALOGUE), "shop.length"]),
    pytest.mark.usefixtures("own_package"),
]


def section(kind: str) -> dict[str, Any]:
    return {"embedding_dim": 4, "query": [{"kind": kind, "name": "x"} | NEEDS.get(kind, {})], "item": [OWNER]}


def fitted(kind: str) -> tuple[features.Engine, pa.Table]:
    engine = features.Engine.build(features.Config.model_validate(section(kind)))
    table = pa.table({"x": COLUMNS.get(kind, TEXTS), "owner": [1, 2, 3]})
    engine.fit([table], [table])
    return engine, table


def test_config_round_trips_through_json(kind: str) -> None:
    config = features.Config.model_validate(section(kind))
    assert isinstance(config.query[0], component(CATALOGUE, kind).Config)
    assert features.Config.model_validate_json(config.model_dump_json()) == config
    assert hash(config) == hash(features.Config.model_validate(section(kind)))


def test_config_is_in_the_schema_for_editors(kind: str) -> None:
    configs = features.Config.model_json_schema()["properties"]["query"]["items"]["oneOf"]
    assert [kind in str(config["properties"]["kind"]) for config in configs].count(True) == ("." not in kind)


def test_config_refuses_unknown_keys(kind: str) -> None:
    wrong = section(kind)
    wrong["query"][0]["colunm"] = "y"
    with pytest.raises(ValidationError) as caught:
        features.Config.model_validate(wrong)
    assert [(error["type"], error["loc"]) for error in caught.value.errors()] == [
        ("extra_forbidden", ("query", 0, "colunm"))
    ]


def test_encodes_every_row_as_either_numbers_or_ids(kind: str) -> None:
    engine, table = fitted(kind)
    encoded = engine.transform(table, "query")
    assert encoded.num_rows == 3
    assert encoded.dense.shape == (3, engine.dense_dim("query"))
    assert np.isfinite(encoded.dense).all()
    assert set(encoded.sparse) == {feature.name for feature in engine.sparse_features("query")}
    assert engine.dense_dim("query") > 0 or encoded.sparse
    sizes = {table.name: table.num_embeddings for table in engine.tables}
    for feature in engine.sparse_features("query"):
        jagged = encoded.sparse[feature.name]
        assert jagged.lengths.sum() == len(jagged.values)
        assert ((jagged.values >= 0) & (jagged.values < sizes[feature.table])).all()


def test_rows_do_not_depend_on_their_neighbours(kind: str) -> None:
    engine, table = fitted(kind)
    whole = engine.transform(table, "query")
    for row, batch in enumerate(table.to_batches(max_chunksize=1)):
        alone, taken = engine.transform(batch, "query"), whole.take(np.array([row]))
        np.testing.assert_array_equal(alone.dense, taken.dense)
        for name, jagged in alone.sparse.items():
            np.testing.assert_array_equal(jagged.values, taken.sparse[name].values)


def test_engine_saves_and_loads_to_the_same_bytes(kind: str, tmp_path: Path) -> None:
    engine, _ = fitted(kind)
    engine.save(tmp_path / "a")
    features.Engine.load(tmp_path / "a").save(tmp_path / "b")
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "b").iterdir())
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in files)


def test_errors_name_feature_and_column(kind: str) -> None:
    engine, table = fitted(kind)
    with pytest.raises(ValueError, match=r"feature 'x'.* 'x'"):
        engine.transform(table.drop_columns("x"), "query")
    with pytest.raises(ValueError, match="feature 'x', column 'x(, x)*': "):
        engine.transform(pa.table({"x": pa.array([{"a": 1}] * 3)}), "query")
