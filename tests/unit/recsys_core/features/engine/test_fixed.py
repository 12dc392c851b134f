"""Columns that hold one value wherever the model is asked."""

import numpy as np
import pyarrow as pa
import pytest

from recsys_core.artifacts import digest_of
from recsys_core.features import Config, Engine

ROWS = pa.table({"position": [1, 2, 3, 1], "device": ["a", "b", "a", "b"], "item_id": [7, 8, 9, 7]})
POSITION = {"kind": "id", "name": "position", "num_embeddings": 8, "at_serving": 1}
ITEM = {"kind": "id", "name": "item_id", "num_embeddings": 8}


def _engine(*query, rows=ROWS, fit=True):
    engine = Engine.build(Config.model_validate({"embedding_dim": 2, "query": query, "item": [ITEM]}))
    if fit:
        engine.fit([rows], [rows])
    return engine


def test_training_reads_the_column_and_all_else_the_value():
    engine = _engine(POSITION, {"kind": "raw", "name": "place", "column": "position"})
    trained = engine.transform(ROWS, "query", training=True)
    assert trained.dense[:, 0].tolist() == [1, 2, 3, 1]
    first = trained.sparse["position"].values[0]
    assert len(set(trained.sparse["position"].values.tolist())) == 3
    # The value is the column's, whichever feature reads it, and whether the column is there or not.
    for rows in (ROWS, ROWS.drop_columns("position")):
        served = engine.transform(rows, "query")
        assert served.sparse["position"].values.tolist() == [first] * 4
        assert served.dense[:, 0].tolist() == [1] * 4
    assert (engine.columns("query"), engine.training_columns("query")) == ([], ["position"])
    assert (engine.schema("query"), engine.at_serving) == ({}, {"position": 1})
    with pytest.raises(ValueError, match="there is no column 'position'|position"):
        engine.transform(ROWS.drop_columns("position"), "query", training=True)


def test_features_that_are_made_of_the_column_read_the_value_too(tmp_path):
    combined = {"kind": "combo", "name": "both", "columns": ["position", "device"]}
    output = {"output": {"kind": "id", "num_embeddings": 16}}
    engine = _engine(POSITION, combined | output)
    engine.save(tmp_path)
    for one in (engine, Engine.load(tmp_path), Engine.build(engine.config, engine)):
        served = one.transform(ROWS.drop_columns("position"), "query").sparse["both"].values
        trained = one.transform(ROWS, "query", training=True).sparse["both"].values
        assert served[0] == served[2] == trained[0]
        assert one.columns("query") == ["device"]


def test_the_value_has_the_type_of_the_column():
    texts = ROWS.set_column(0, "position", pa.array(["1", "2", "3", "1"]))
    with pytest.raises(ValueError, match="column 'position': at_serving 1 is no string, which the column is"):
        _engine(POSITION, rows=texts)
    _engine(POSITION | {"at_serving": "1"}, rows=texts)
    with pytest.raises(ValueError, match="feature 'position', column 'position'"):
        _engine(POSITION | {"encoding": "identity", "at_serving": 9})


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ([POSITION, POSITION | {"name": "again", "column": "position", "at_serving": 2}], "says 1; say one"),
        (
            [{"kind": "combo", "name": "both", "columns": ["position", "device"], "at_serving": 1}],
            r"query\[name=both\].at_serving: it is of one column of the data, and the feature reads position, device",
        ),
    ],
)
def test_a_value_is_of_one_column_and_there_is_one(features, message):
    with pytest.raises(ValueError, match=message):
        _engine(*features, fit=False)


def test_configs_without_one_are_as_they_were_before():
    plain = {name: value for name, value in POSITION.items() if name != "at_serving"}
    config = Config.model_validate({"embedding_dim": 2, "query": [plain], "item": [ITEM]})
    dumped = config.model_dump(mode="json")
    assert "at_serving" not in dumped["query"][0]
    assert Config.model_validate(dumped) == config
    fixed = Config.model_validate({"embedding_dim": 2, "query": [POSITION], "item": [ITEM]})
    assert fixed.model_dump(mode="json")["query"][0]["at_serving"] == 1
    assert digest_of(fixed.model_dump(mode="json")) != digest_of(dumped)
    assert np.array_equal(
        _engine(plain).transform(ROWS, "query").sparse["position"].values,
        _engine(POSITION).transform(ROWS, "query", training=True).sparse["position"].values,
    )
