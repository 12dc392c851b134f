"""Features that make a value: each kind by hand, and against plain Python over generated rows."""

import datetime
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from recsys_core.features import Config, Engine, base
from recsys_core.lookup import component

WORDS = st.sampled_from(["a", "b", "c", "dd", "é", "日本"])
LISTS = st.lists(st.one_of(st.none(), st.lists(WORDS, max_size=5)), min_size=1, max_size=6)


def made(kind: str, *columns: Any, **keys: Any) -> list[Any]:
    module = component("recsys_core.features", kind)
    feature: base.Feature = module.Feature(module.Config(name="f", **keys))
    assert len(feature.columns) == len(columns)
    return feature.value([c if isinstance(c, pa.Array) else pa.array(c) for c in columns]).to_pylist()


def texts(rows: list[Any]) -> pa.Array:
    return pa.array(rows, pa.list_(pa.string()))


def test_combo_is_every_combination() -> None:
    assert made("combo", ["x", None], [1, 2], columns=["a", "b"]) == ["x\x1e1", None]
    lists = made("combo", [["x", "y"], ["z"], None], [[1, 2], [], [3]], ["p", "q", "r"], columns=["a", "b", "c"])
    assert lists == [["x\x1e1\x1ep", "x\x1e2\x1ep", "y\x1e1\x1ep", "y\x1e2\x1ep"], None, None]


@given(LISTS, st.data())
def test_combo_agrees_with_itertools(left: list[Any], data: st.DataObject) -> None:
    right = [data.draw(st.one_of(st.none(), st.lists(WORDS, max_size=3))) for _ in left]
    expected = [
        ["\x1e".join(p) for p in itertools.product(a or [], b or [])] or None for a, b in zip(left, right, strict=True)
    ]
    assert made("combo", texts(left), texts(right), columns=["a", "b"]) == expected


@pytest.mark.parametrize(
    ("combiner", "expected"),
    [("sum", 6), ("mean", 2), ("min", -1), ("max", 4), ("count", 3), ("gap_min", -5), ("gap_max", 4)],
)
def test_combine_reduces_numbers(combiner: str, expected: float) -> None:
    # Of 4, -1, 3 the neighbours differ by -5 and 4.
    nothing = 0 if combiner == "count" else None
    assert made("combine", [[4, -1, 3], [], None], combiner=combiner) == [expected, nothing, nothing]


def test_combine_maps_texts_to_numbers() -> None:
    assert made("combine", [["a", "zz", "b"], ["zz"], ["b"]], values={"a": 1, "b": 2.5}) == [3.5, None, 2.5]
    assert made("combine", ["a;b", ""], values={"a": 1, "b": 2.5}, separator=";", combiner="max") == [2.5, None]


def test_lookup_finds_what_the_map_holds() -> None:
    maps = pa.array([[("a", 1.0), ("b", 2.0)], None, [("c", 4.0)]], pa.map_(pa.string(), pa.float64()))
    keys = [["b", "x", "a"], ["a"], ["a"]]
    assert made("lookup", maps, keys, map="m", key="k") == [[2, 1], None, None]
    assert made("lookup", maps, keys, map="m", key="k", combiner="sum") == [3, None, None]
    assert made("lookup", [["1:u", "2:v"], ["3"]], [2, 3], map="m", key="k", show_key=True) == [["2:v"], [None]]
    assert made("lookup", ["1=5|2=7"], ["2|1"], map="m", key="k", separator="|", pair_separator="=") == [["7", "5"]]
    assert made("lookup", ["1:5"], [1], map="m", key="k", combiner="max", separator="|") == [5]


@given(st.lists(st.lists(st.tuples(WORDS, st.integers(0, 9)), max_size=4), min_size=1, max_size=5), st.data())
def test_lookup_agrees_with_a_loop(maps: list[Any], data: st.DataObject) -> None:
    keys = [data.draw(st.lists(WORDS, max_size=3)) for _ in maps]
    expected = [[v for key in ks for k, v in m if k == key] or None for m, ks in zip(maps, keys, strict=True)]
    column = pa.array(maps, pa.map_(pa.string(), pa.int64()))
    assert made("lookup", column, texts(keys), map="m", key="k") == expected


def test_match_finds_what_the_map_of_maps_holds() -> None:
    column = ["a^x:1,y:2|b^x:3", None, "a^z:5"]
    assert made("match", column, ["a"] * 3, ["y"] * 3, map="m", first_key="p", second_key="s") == [["2"], None, None]
    assert made("match", column, ["x"] * 3, map="m", second_key="s", combiner="sum") == [4, None, None]
    shown = made("match", column, ["a"] * 3, map="m", first_key="p", show_first_key=True, show_second_key=True)
    assert shown == [["a:x:1", "a:y:2"], None, ["a:z:5"]]
    nested = pa.map_(pa.string(), pa.map_(pa.string(), pa.int64()))
    arrow = pa.array([[("a", [("x", 1), ("y", 2)]), ("b", [("x", 3)])], None, []], nested)
    assert made("match", arrow, ["x"] * 3, map="m", second_key="s") == [[1, 3], None, None]
    with pytest.raises(ValueError, match="neither a map of maps"):
        made("match", [1], map="m")


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("query_common_ratio", [0.5, 1, 0, None]),
        ("title_common_ratio", [1 / 3, 2 / 3, 0, None]),
        ("is_contain", [0, 1, 0, None]),
        ("is_equal", [0, 0, 0, None]),
        ("index_of", [-1, 1, -1, None]),
    ],
)
def test_overlap_by_hand(method: str, expected: list[float]) -> None:
    query, title = ["a z a", "b c", "x", ""], ["a b c", "a b c b", "y", "a"]
    assert made("overlap", query, title, query="q", title="t", method=method) == pytest.approx(expected)


@given(LISTS, st.data())
def test_overlap_agrees_with_a_loop(queries: list[Any], data: st.DataObject) -> None:
    titles = [data.draw(st.lists(WORDS, max_size=6)) for _ in queries]
    places, equal, ratios = [], [], []
    for q, t in zip(queries, titles, strict=True):
        known = bool(q) and bool(t)
        at = [i for i in range(len(t)) if q and t[i : i + len(q)] == q]
        places.append((at or [-1])[0] if known else None)
        equal.append(float(q == t) if known else None)
        ratios.append(len(set(q) & set(t)) / len(set(q)) if known else None)
    for method, expected in (("index_of", places), ("is_equal", equal), ("query_common_ratio", ratios)):
        assert made("overlap", texts(queries), texts(titles), query="q", title="t", method=method) == expected


def test_kv_dot_product() -> None:
    left, right = ["a:0.5|b:2", "a|b|c", None, "a:1"], ["b:3|c:1|a:2", "c|a", "a", "b"]
    assert made("kv_dot_product", left, right, left="l", right="r", separator="|") == [7, 2, 0, 0]
    maps = pa.array([[(1, 0.5), (2, 2.0)]], pa.map_(pa.int64(), pa.float32()))
    assert made("kv_dot_product", maps, [[2, 3]], left="l", right="r") == [2]
    with pytest.raises(ValueError, match="neither a map nor texts"):
        made("kv_dot_product", [1.5], [1], left="l", right="r")


def test_bool_mask_keeps_what_is_true() -> None:
    values, mask = [[1, 2, None], [4], None], [[True, None, True], [False], []]
    assert made("bool_mask", values, mask, values="v", mask="m") == [[1, None], None, None]
    assert made("bool_mask", values, mask, values="v", mask="m", negate=True) == [[2], [4], None]
    assert made("bool_mask", ["a", "b"], [0, 1], values="v", mask="m") == [None, ["b"]]
    with pytest.raises(ValueError, match="row 1 has 1 values and 2 in the mask"):
        made("bool_mask", [[], [1]], [[], [True, False]], values="v", mask="m")
    with pytest.raises(ValueError, match="the mask holds string"):
        made("bool_mask", [1], ["x"], values="v", mask="m")


def test_text_normalize() -> None:
    column = ["  \uff21\uff22C  d\u00e9j\u00e0-vu! ", "...", None]
    assert made("text_normalize", column) == ["abc d\u00e9j\u00e0-vu!", "...", None]
    plain = {"remove_punctuation": True, "strip_accents": True}
    assert made("text_normalize", column, **plain) == ["abc deja vu", None, None]
    assert made("text_normalize", column, split="words", **plain) == [["abc", "deja", "vu"], None, None]
    cut = {"max_characters": 5, "split": "characters", "case": "upper", "form": "none"}
    assert made("text_normalize", ["\u65e5\u672c x", ""], **cut) == [["\u65e5", "\u672c", "X"], None]
    assert made("text_normalize", [["A", None, "b "], []]) == [["a", "b"], []]
    with pytest.raises(ValueError, match="int64 holds no texts"):
        made("text_normalize", [1])


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ("year", 2024),
        ("quarter", 1),
        ("month", 3),
        ("week", 9),
        ("day", 3),
        ("day_of_year", 63),
        ("weekday", 6),
        ("is_weekend", 1),
        ("hour", 4),
        ("minute", 5),
        ("second", 6),
    ],
)
def test_date_parts(part: str, expected: int) -> None:
    # 2024-03-02 20:05:06 UTC, a Saturday; in Shanghai it is Sunday already.
    time = datetime.datetime(2024, 3, 2, 20, 5, 6, tzinfo=datetime.UTC)
    seconds = int(time.timestamp())
    for column in ([seconds, None], [time, None], ["2024-03-02 20:05:06", None]):
        assert made("date_parts", column, part=part, timezone="Asia/Shanghai") == [expected, None]
    assert made("date_parts", [[seconds * 1000]], part=part, timezone="Asia/Shanghai", unit="ms") == [[expected]]


def test_date_parts_of_dates_and_what_is_none() -> None:
    assert made("date_parts", [datetime.date(2024, 2, 29)], part="day") == [29]
    with pytest.raises(ValueError, match="double is no time"):
        made("date_parts", [1.5], part="day")
    with pytest.raises(ValueError, match="no timezone 'Asia/Shanhai'"):
        made("date_parts", [1], part="day", timezone="Asia/Shanhai")


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    words = {"[UNK]": 0, "red": 1, "shoe": 2, "caf\u00e9": 3}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    made.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


def test_tokenize(tokenizer: Path) -> None:
    column = ["red shoe", None, "", "caf\u00e9 x red"]
    assert made("tokenize", column, tokenizer_file=tokenizer) == [[1, 2], None, None, [3, 0, 1]]
    tokens = made("tokenize", column, tokenizer_file=tokenizer, give="tokens", max_tokens=1)
    assert tokens == [["red"], None, None, ["caf\u00e9"]]
    assert made("tokenize", [["red", "shoe"], []], tokenizer_file=tokenizer) == [[1, 2], None]
    with pytest.raises(ValueError, match="int64 holds no texts"):
        made("tokenize", [1], tokenizer_file=tokenizer)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({}, "name the tokenizer.json"),
        ({"tokenizer_file": "none.json"}, "no such file"),
        ({"tokenizer_json": "{"}, "no tokenizer"),
    ],
)
def test_tokenize_refuses_what_is_no_tokenizer(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made("tokenize", ["a"], **keys)


def engine(*query: dict[str, Any]) -> Engine:
    return Engine.build(Config.model_validate({"embedding_dim": 4, "query": query, "item": []}))


def test_outputs_and_features_that_read_features(tokenizer: Path, tmp_path: Path) -> None:
    words = {"kind": "text_normalize", "name": "words", "column": "title", "split": "words"}
    made = engine(
        {"kind": "id", "name": "user", "encoding": "hash", "num_embeddings": 9, "column": "title"},
        words | {"output": {"kind": "id", "num_embeddings": 9}},
        {
            "kind": "expr",
            "name": "rate",
            "expression": "clicks / views",
            "output": {"kind": "raw", "normalizer": "minmax"},
        },
        {"kind": "expr", "name": "rate2", "expression": "rate ^ 2", "output": {"kind": "raw", "fill": -1}},
        {"kind": "expr", "name": "bucket", "expression": "rate * 10", "output": {"kind": "raw", "boundaries": [2, 4]}},
        {
            "kind": "combo",
            "name": "cross",
            "columns": ["words", "user_id"],
            "output": {"kind": "id", "num_embeddings": 99, "encoding": "hash"},
        },
        {
            "kind": "tokenize",
            "name": "tokens",
            "column": "title",
            "tokenizer_file": str(tokenizer),
            "output": {"kind": "sequence", "table": "words", "max_length": 1},
        },
        {"kind": "expr", "name": "only_for_others", "expression": "views + 1"},
    )
    assert made.columns("query") == ["title", "clicks", "views", "user_id"]
    table = pa.table(
        {"title": ["Red shoe", "red", None], "clicks": [1, 0, 3], "views": [4, 0, 6], "user_id": [1, 2, 3]}
    )
    made.fit([table], [])
    with pytest.raises(ValueError, match="feature 'tokens'.*holds int64 where the vocabulary was fitted on string"):
        made.transform(table, "query")
    made = Engine.build(Config.model_validate(made.config.model_dump() | {"query": made.config.query[:-2]}))
    made.fit([table], [])
    encoded = made.transform(table, "query")
    # 1/4, nothing, 1/2; squares; buckets of 2.5 and 5.
    np.testing.assert_array_equal(encoded.dense, np.array([[0, 0.0625], [0, -1], [1, 0.25]], np.float32))
    assert encoded.sparse["bucket"].values.tolist() == [1, 2]
    assert encoded.sparse["words"].values.tolist() == [1, 2, 1]
    assert encoded.sparse["cross"].lengths.tolist() == [2, 1, 0]
    made.save(tmp_path / "engine")
    again = Engine.load(tmp_path / "engine").transform(table, "query")
    np.testing.assert_array_equal(again.dense, encoded.dense)
    assert made.report["words"]["known"] == 2


def test_an_output_may_be_encoded_already() -> None:
    made = engine(
        {
            "kind": "expr",
            "name": "x",
            "expression": "a + b",
            "output": {"kind": "id", "num_embeddings": 4, "encoding": "identity", "input": "encoded"},
        }
    )
    assert made.columns("query") == ["x"]
    assert made.transform(pa.table({"x": [3, 1]}), "query").sparse["x"].values.tolist() == [3, 1]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (
            [
                {"kind": "expr", "name": "a", "expression": "b + 1"},
                {"kind": "expr", "name": "b", "expression": "a + 1"},
            ],
            r"needs itself \(a -> b -> a\)",
        ),
        (
            [{"kind": "expr", "name": "a", "expression": "b + 1", "output": {"kind": "raw", "column": "z"}}],
            "drop name and column",
        ),
        ([{"kind": "expr", "name": "a", "expression": "b +"}], "position 4: a number, a name or"),
        ([{"kind": "expr", "name": "a", "expression": "1 + 2"}], "names no column"),
        ([{"kind": "combo", "name": "a", "columns": ["b"]}], "at least 2"),
    ],
)
def test_refuses_a_config_that_cannot_work(query: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        engine(*query)


def test_says_whose_value_failed() -> None:
    made = engine({"kind": "expr", "name": "rate", "expression": "a / b", "output": {"kind": "raw"}})
    with pytest.raises(ValueError, match="feature 'rate', column 'a, b': 'b': its type string is no number"):
        made.transform(pa.table({"a": [1], "b": ["x"]}), "query")
    with pytest.raises(ValueError, match="feature 'rate': there is no column 'b'"):
        made.transform(pa.table({"a": [1]}), "query")
