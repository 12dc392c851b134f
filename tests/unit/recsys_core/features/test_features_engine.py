"""The engine: sides, shared tables, continuing, saving, and what it says about bad input."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_core.features import (
    Config,
    Encoded,
    Engine,
    Jagged,
    SparseFeature,
    TableSpec,
    combo,
    counting_from,
    hashing,
    raw,
)
from recsys_core.features.engine.graph import Graph, Values

QUERY: list[dict[str, Any]] = [
    {"kind": "sequence", "name": "history", "column": "history__item_id", "table": "item_id", "max_length": 2},
    {"kind": "raw", "name": "age", "normalizer": "zscore"},
    {"kind": "id", "name": "gender", "num_embeddings": 8, "pooling": "sum"},
    {"kind": "raw", "name": "tastes", "dim": 2},
    {"kind": "raw", "name": "age_group", "column": "age", "boundaries": [18, 40], "embedding_dim": 2},
]
ITEM: list[dict[str, Any]] = [
    {"kind": "id", "name": "item_id", "num_embeddings": 6},
    {"kind": "id", "name": "similar", "table": "item_id", "num_embeddings": 6},
]
USERS = pa.table(
    {
        "history__item_id": pa.array([[11, 12, 13], None, [99]]),
        "age": pa.chunked_array([[20, 40], [None]]),
        "gender": pa.array(["f", None, "m"]).dictionary_encode(),
        "tastes": pa.array([[1.0, 2.0], [3.0, None], None], pa.list_(pa.float32(), 2)),
        "unread": pa.array([object.__name__] * 3),
    }
)
ITEMS = pa.table({"item_id": [13, 12, 11], "similar": [[12, 13], [], [13]]})


def build(query: list[dict[str, Any]] = QUERY, item: list[dict[str, Any]] = ITEM) -> Engine:
    return Engine.build(Config.model_validate({"embedding_dim": 4, "query": query, "item": item}))


@pytest.fixture
def fitted() -> Engine:
    engine = build()
    engine.fit([USERS], ITEMS.to_batches())
    return engine


def lists(jagged: Jagged) -> list[list[int]]:
    ends = np.cumsum(jagged.lengths)
    return [jagged.values[end - n : end].tolist() for end, n in zip(ends, jagged.lengths, strict=True)]


def test_encodes_each_side_by_hand(fitted: Engine) -> None:
    # Seen: 13 three times, 12 twice, 11 once, over both features of the table.
    query, item = fitted.transform(USERS, "query"), fitted.transform(ITEMS, "item")
    assert {name: lists(jagged) for name, jagged in query.sparse.items()} == {
        "history": [[2, 1], [], [0]],
        "gender": [[1], [], [2]],
        "age_group": [[1], [2], []],
    }
    np.testing.assert_array_equal(query.dense, np.array([[-1, 1, 2], [1, 3, 0], [0, 0, 0]], np.float32))
    assert (query.dense.dtype, query.num_rows) == (np.float32, 3)
    assert {name: lists(jagged) for name, jagged in item.sparse.items()} == {
        "item_id": [[1], [2], [3]],
        "similar": [[2, 1], [], [1]],
    }
    assert (item.dense.shape, item.num_rows) == ((3, 0), 3)


def test_describes_itself(fitted: Engine) -> None:
    assert fitted.columns("query") == ["history__item_id", "age", "gender", "tastes"]
    assert (fitted.dense_dim("query"), fitted.dense_dim("item")) == (3, 0)
    assert fitted.sparse_features("query") == (
        SparseFeature("history", "item_id", "mean"),
        SparseFeature("gender", "gender", "sum"),
        SparseFeature("age_group", "age_group", "mean"),
    )
    of_items = (("history", "query"), ("item_id", "item"), ("similar", "item"))
    assert {table.name: table for table in fitted.tables} == {
        "gender": TableSpec(name="gender", num_embeddings=8, embedding_dim=4, features=(("gender", "query"),)),
        "age_group": TableSpec(name="age_group", num_embeddings=3, embedding_dim=2, features=(("age_group", "query"),)),
        "item_id": TableSpec(name="item_id", num_embeddings=6, embedding_dim=4, features=of_items),
    }
    assert fitted.schema("query") == {
        "history__item_id": {"type": "list<int64>"},
        "age": {"type": "int64"},
        "gender": {"type": "string"},
        "tastes": {"type": "list<float32>"},
    }
    assert fitted.report["item_id"] == {"known": 3, "out_of_vocabulary": 0, "capacity": 5}
    assert set(fitted.report) == {"history", "gender", "item_id", "similar"}


def test_schema_knows_only_what_a_fit_has_seen() -> None:
    engine = build(
        [{"kind": "id", "name": "vip", "num_embeddings": 3}, {"kind": "id", "name": "x", "num_embeddings": 3}]
    )
    engine.fit([pa.table({"vip": [True, None], "x": pa.nulls(2)})], [])
    assert engine.schema("query") == {"vip": {"type": "bool"}}
    assert engine.schema("item") == {}


def test_saves_and_loads_to_the_same_bytes(fitted: Engine, tmp_path: Path) -> None:
    fitted.save(tmp_path / "a")
    loaded = Engine.load(tmp_path / "a")
    loaded.save(tmp_path / "b")
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == ["engine.json", "gender.parquet", "item_id.parquet"]
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in files)
    assert loaded.digest == fitted.digest
    for side, table in (("query", USERS), ("item", ITEMS)):
        before, after = fitted.transform(table, side), loaded.transform(table, side)
        np.testing.assert_array_equal(before.dense, after.dense)
        assert {name: lists(j) for name, j in before.sparse.items()} == {n: lists(j) for n, j in after.sparse.items()}


def test_a_loaded_engine_goes_on_learning_as_if_never_stopped(fitted: Engine, tmp_path: Path) -> None:
    fitted.save(tmp_path)
    loaded = Engine.load(tmp_path)
    more = pa.table({"item_id": [1, 2, 2, 3, 11], "similar": pa.nulls(5)})
    for engine in (fitted, loaded):
        engine.fit([USERS.slice(1, 1)], [more])
    assert loaded.digest == fitted.digest
    # 2 was seen twice; 1 comes before 3; the last row is the table's sixth.
    assert lists(loaded.transform(more, "item").sparse["item_id"]) == [[5], [4], [4], [0], [3]]
    assert loaded.report["item_id"] == {"known": 5, "out_of_vocabulary": 1, "capacity": 5}


def test_the_same_of_the_same_is_made_once_and_hashes_are_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed = {"kind": "id", "encoding": "hash", "num_embeddings": 50}
    crossed = {"kind": "combo", "columns": ["a", "b"], "output": hashed}
    query = [
        hashed | {"name": "a", "table": "shared"},
        hashed | {"name": "also_a", "column": "a", "table": "shared", "pooling": "sum"},
        hashed | {"name": "b", "num_embeddings": 7},
        hashed | {"name": "farm", "column": "b", "hash": "farm"},
        {"kind": "sequence", "name": "history", "table": "b"},
        crossed | {"name": "x"},
        crossed | {"name": "y"},
        {"kind": "raw", "name": "n", "normalizer": "log1p"},
        {"kind": "raw", "name": "also_n", "column": "n", "normalizer": "log1p"},
    ]
    engine = build(query, [])
    table = pa.table(
        {"a": ["u", None, "v"], "b": [[1], [2, 3], []], "history": [["w"], [], ["u", "v"]], "n": [1, 2, 3]}
    )
    called: list[Any] = []
    for place, name in ((hashing, "_each_hashed"), (combo.Feature, "make"), (raw.Feature, "_normalize")):
        real = getattr(place, name)

        def counted(*arguments: Any, real: Any = real, name: str = name) -> Any:
            called.append((name, arguments[1]) if name == "_each_hashed" else name)
            return real(*arguments)

        monkeypatch.setattr(place, name, counted)
    found = engine.transform(table, "query")
    assert sorted(map(str, called)) == ["('_each_hashed', 'farm')", "('_each_hashed', 'xxh3')", "_normalize", "make"]
    assert found.sparse["a"] is found.sparse["also_a"]
    # Alone, each feature makes the same.
    for feature in engine.features["query"]:
        alone = feature.transform(Values(Graph(engine.features["query"]), table, pytest.fail).of(feature))
        if isinstance(alone, Jagged):
            assert lists(alone) == lists(found.sparse[feature.config.name])


def test_a_column_and_a_feature_of_one_name_are_two_operands() -> None:
    output = {"output": {"kind": "raw"}}
    query = [{"kind": "expr", "name": name, "expression": "n * 2"} | output for name in ("n", "m")]
    found = build(query, []).transform(pa.table({"n": [1.0, 3.0]}), "query")
    # n is twice the column, and m is twice the feature.
    assert found.dense.tolist() == [[2.0, 4.0], [6.0, 12.0]]


def test_digest_distinguishes_engines(fitted: Engine) -> None:
    other = build()
    assert other.digest != fitted.digest
    other.fit(USERS.to_batches(max_chunksize=1), [ITEMS])
    assert other.digest == fitted.digest


def test_build_continues_what_is_still_there(fitted: Engine) -> None:
    country = {"kind": "id", "name": "country", "num_embeddings": 3}
    normalized = {"kind": "raw", "name": "age", "normalizer": "minmax"}
    config = Config.model_validate({"embedding_dim": 4, "query": [QUERY[0], normalized, country], "item": ITEM})
    engine = Engine.build(config, base=fitted)
    np.testing.assert_array_equal(lists(engine.transform(ITEMS, "item").sparse["item_id"]), [[1], [2], [3]])
    engine.fit([USERS.append_column("country", pa.array(["c"] * 3))], [])
    np.testing.assert_array_equal(
        engine.transform(USERS.append_column("country", pa.nulls(3)), "query").dense[:, 0], [0, 1, 0]
    )
    same = Engine.build(fitted.config, base=fitted)
    same.fit([], [])
    assert same.transform(USERS, "query").dense.tolist() == fitted.transform(USERS, "query").dense.tolist()

    resized = Config.model_validate({"embedding_dim": 4, "query": [], "item": [ITEM[0] | {"num_embeddings": 7}]})
    grown = Engine.build(resized, base=fitted)
    np.testing.assert_array_equal(lists(grown.transform(ITEMS, "item").sparse["item_id"]), [[1], [2], [3]])


@given(st.lists(st.lists(st.integers(0, 9), max_size=4), min_size=1, max_size=8), st.data())
def test_take_gathers_rows(rows: list[list[int]], data: st.DataObject) -> None:
    lengths = np.array([len(row) for row in rows], np.int32)
    jagged = Jagged(np.array([x for row in rows for x in row], np.int64), lengths)
    dense = np.arange(len(rows), dtype=np.float32)[:, None]
    picks = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=12))
    taken = Encoded(len(rows), dense, {"f": jagged}).take(np.array(picks, np.int64))
    assert lists(taken.sparse["f"]) == [rows[pick] for pick in picks]
    assert (taken.num_rows, taken.dense[:, 0].tolist()) == (len(picks), picks)
    assert (taken.sparse["f"].values.dtype, taken.sparse["f"].lengths.dtype) == (np.int64, np.int32)
    count = data.draw(st.integers(0, 5))
    assert lists(jagged.last(count)) == [row[len(row) - min(count, len(row)) :] for row in rows]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ([QUERY[2], QUERY[2]], "feature 'gender' is there twice"),
        ([{"kind": "id", "name": "item_id", "num_embeddings": 6}], "feature 'item_id' is there twice"),
        ([QUERY[0] | {"table": "items"}], "no table 'items' .* did you mean 'item_id'"),
        ([QUERY[2] | {"table": "item_id"}], "table 'item_id' is .*make them agree"),
        (
            [
                QUERY[2] | {"table": "item_id", "num_embeddings": 6, "embedding_dim": 8},
                {"kind": "id", "name": "x", "table": "item_id", "num_embeddings": 6, "embedding_dim": 4},
            ],
            "table 'item_id': features that share it have one embedding_dim",
        ),
        ([{"kind": "idd", "name": "x"}], "unknown kind 'idd'.*did you mean 'id'"),
        ([{"kind": "raw", "name": "no-such-key"}], "String should match pattern"),
    ],
)
def test_refuses_a_config_that_cannot_work(query: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(query)


def test_names_the_feature_and_the_column_that_it_cannot_read(fitted: Engine) -> None:
    with pytest.raises(ValueError, match=r"feature 'age': there is no column 'age' .* did you mean 'aged'"):
        fitted.transform(USERS.rename_columns({"age": "aged"}), "query")
    with pytest.raises(ValueError, match=r"feature 'age': there is no column 'age' .there are: x.$"):
        build([QUERY[1]]).fit([pa.table({"x": [1]})], [])
    bad = USERS.set_column(0, "history__item_id", pa.array([["a"]] * 3))
    with pytest.raises(ValueError, match="feature 'history', column 'history__item_id': holds string where"):
        fitted.transform(bad, "query")


def test_refuses_what_is_no_saved_engine(fitted: Engine, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no engine.json"):
        Engine.load(tmp_path)
    fitted.save(tmp_path)
    (tmp_path / "item_id.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match="damaged feature engine"):
        Engine.load(tmp_path)
    (tmp_path / "engine.json").write_text(json.dumps({"config": {}}))
    with pytest.raises(ValueError, match="embedding_dim"):
        Engine.load(tmp_path)
    (tmp_path / "engine.json").write_text("{")
    with pytest.raises(ValueError, match="damaged feature engine"):
        Engine.load(tmp_path)


def test_a_vocabulary_file_travels_with_the_engine(tmp_path: Path) -> None:
    file = tmp_path / "ids.txt"
    file.write_text("f\nm\n")
    engine = build([{"kind": "id", "name": "gender", "vocabulary_file": str(file)}], [])
    engine.save(tmp_path / "engine")
    file.unlink()
    loaded = Engine.load(tmp_path / "engine")
    assert lists(loaded.transform(USERS, "query").sparse["gender"]) == [[1], [], [2]]
    assert loaded.digest == engine.digest


def test_threads_and_equal_operations_change_nothing() -> None:
    rng = np.random.default_rng(0)
    table = pa.table({f"c{i}": [f"{x:x}" for x in rng.integers(0, 10**6, 5_000)] for i in range(3)})
    same = [
        {"kind": "id", "name": f"f{i}", "column": f"c{i % 3}", "num_embeddings": 99, "encoding": "hash"}
        for i in range(4)
    ]
    same[3]["table"] = "f0"
    engine = build(same, [])
    engine.num_threads = 2
    threaded = engine.transform(table, "query")
    engine.num_threads = 1
    alone = engine.transform(table, "query")
    for name, jagged in alone.sparse.items():
        np.testing.assert_array_equal(jagged.values, threaded.sparse[name].values)
    assert alone.sparse["f3"].values is alone.sparse["f0"].values


def test_a_row_that_is_refused_is_named_by_its_number() -> None:
    cell = {"kind": "id", "name": "cell", "column": "c", "encoding": "identity", "num_embeddings": 4}
    engine = Engine.build(Config.model_validate({"embedding_dim": 4, "query": [cell], "item": []}))
    chunks = [pa.table({"c": [[0, 1], [2]]}), pa.table({"c": [[3], [], [1, 7]]})]
    message = r"feature 'cell', column 'c': id 7 is not in 0\.\.3; raise num_embeddings, .*out_of_range: drop"
    with pytest.raises(ValueError, match=f"^row 4 of those read: {message}"):
        engine.fit(chunks, [])
    with pytest.raises(ValueError, match=f"^row 2: {message}"):
        engine.transform(chunks[1], "query")
    with counting_from(lambda row: 100 - row), pytest.raises(ValueError, match=f"^row 2: {message}"):
        engine.transform(chunks[1], "query")
    with pytest.raises(ValueError, match=f"^row 98 of those read: {message}"), counting_from(lambda row: 100 - row):
        engine.transform(chunks[1], "query")


def test_an_identity_that_a_sequence_shares_names_the_row_too() -> None:
    item = {"kind": "id", "name": "item", "encoding": "identity", "num_embeddings": 4}
    clicks = {"kind": "sequence", "name": "clicks", "table": "item"}
    engine = Engine.build(Config.model_validate({"embedding_dim": 4, "query": [clicks], "item": [item]}))
    with pytest.raises(ValueError, match=r"^row 1: feature 'clicks', column 'clicks': id 4 is not in 0\.\.3"):
        engine.transform(pa.table({"clicks": [[], [3, 4]]}), "query")


def test_reports_what_was_out_of_range() -> None:
    keys = {"kind": "id", "name": "x", "num_embeddings": 3, "encoding": "identity", "out_of_range": "drop"}
    engine = build([keys], [])
    engine.fit([pa.table({"x": [1, 3, -1]})], [])
    assert engine.report == {"x": {"out_of_range": 2}}
