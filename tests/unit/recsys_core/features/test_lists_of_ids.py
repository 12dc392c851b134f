"""What id and sequence features do with lists: cut, weigh and tile them; by hand and against plain Python."""

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from recsys_core.features import base, sequence
from recsys_core.features import id as ids
from recsys_core.features.encoders import identity


def feature(**keys: Any) -> ids.Feature:
    return ids.Feature(ids.Config(name="f", **{"num_embeddings": 100, "encoding": "identity"} | keys))


def rows_of(encoded: base.Jagged) -> list[list[Any]]:
    """Return ids, or (id, weight) pairs, by row."""
    ends = np.cumsum(encoded.lengths)
    values: list[Any] = encoded.values.tolist()
    if encoded.weights is not None:
        assert encoded.weights.dtype == np.float32
        values = list(zip(values, encoded.weights.tolist(), strict=True))
    return [values[end - n : end] for end, n in zip(ends, encoded.lengths, strict=True)]


WEIGHTED = [[(7, 0.5), (8, 1), (7, -2)], [], [], [(9, 1)]]


@pytest.mark.parametrize(
    ("column", "keys"),
    [
        (pa.array([["7:0.5", "8", "7:-2"], None, [], ["9:1", None]]), {}),
        (pa.array(["7:0.5;8;7:-2", None, "", "9"]), {"separator": ";"}),
        (pa.array([[(7, 0.5), (8, None), (7, -2.0)], None, [], [(9, 1.0)]], pa.map_(pa.int64(), pa.float32())), {}),
        (
            pa.array([[("7", 0.5), ("8", None), ("7", -2)], None, [], [("9", 1)]], pa.map_(pa.string(), pa.float64())),
            {},
        ),
        (pa.array([[["7:0.5"], ["8", "7:-2"]], None, [], [["9"], None]]), {}),
    ],
)
def test_weights_stand_behind_ids(column: pa.Array, keys: dict[str, Any]) -> None:
    assert rows_of(feature(weighted=True, **keys).transform(column)) == WEIGHTED


def test_an_id_may_hold_the_sign_before_its_weight_and_any_character() -> None:
    made = feature(weighted=True, encoding="given", vocabulary=["a:b", "日本", ""], num_embeddings=None)
    assert rows_of(made.transform(pa.array(["a:b:0.25", "日本:3", ":2", "new:1"]))) == [
        [(1, 0.25)],
        [(2, 3.0)],
        [(3, 2.0)],
        [(0, 1.0)],
    ]


def test_ids_without_weights_count_one() -> None:
    assert rows_of(feature(weighted=True).transform(pa.array([[3, 4], None]))) == [[(3, 1), (4, 1)], []]


def test_weights_follow_their_ids_through_every_step() -> None:
    kept = feature(weighted=True, out_of_range="drop", num_embeddings=10)
    assert rows_of(kept.transform(pa.array([["3:2", "30:5", "4:7"], ["-1:1"]]))) == [[(3, 2), (4, 7)], []]
    assert kept.report() == {"out_of_range": 2}
    filled = feature(weighted=True, default=6).transform(pa.array([["3:2"], None, ["4:0.5"]]))
    assert rows_of(filled) == [[(3, 2)], [(6, 1)], [(4, 0.5)]]
    several = feature(weighted=True, encoding="multi_hash", num_buckets=[7, 11], num_embeddings=None, separator=";")
    found = several.transform(pa.array(["a:2;b:3"]))
    assert found.lengths.tolist() == [4]
    assert found.weights is not None
    assert found.weights.tolist() == [2, 2, 3, 3]
    assert rows_of(feature(weighted=True, mod=5).transform(pa.array([["12:2"]]))) == [[(2, 2)]]


@pytest.mark.parametrize(("text", "message"), [("3:x", "a weight is no number"), ("3:inf", "a weight is inf")])
def test_a_weight_that_is_none_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        feature(weighted=True).transform(pa.array([text]))


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"max_length": 2}, [[2, 3], [], [4]]),
        ({"max_length": 2, "keep": "first"}, [[1, 2], [], [4]]),
        ({"pooling": "tile", "tile_length": 2}, [[1, 2], [], [4]]),
        ({"pooling": "tile", "tile_length": 1, "max_length": 2}, [[2], [], [4]]),
    ],
)
def test_an_id_feature_may_be_a_sequence_with_a_table_of_its_own(keys: dict[str, Any], expected: list[Any]) -> None:
    made = feature(**keys)
    assert rows_of(made.transform(pa.array([[1, None, 2, 3], None, [4]]))) == expected
    assert made.tile_length == keys.get("tile_length", 0)


@pytest.mark.parametrize(
    ("encoding", "keys"),
    [
        ("hash", {}),
        ("multi_hash", {"num_embeddings": None, "num_buckets": [7, 11]}),
        ("identity", {}),
        ("vocabulary", {}),
        ("given", {"num_embeddings": None, "vocabulary": [3, 12, 40]}),
    ],
)
def test_texts_that_are_integers_have_the_rows_of_these_integers(encoding: str, keys: dict[str, Any]) -> None:
    owner = feature(encoding=encoding, **keys)
    # As a table may hold them: a whole number in a double.
    single = pa.array([12.0, 3.0, None, 40.0])
    owner.observe(single)
    assert owner.encoder is not None
    owner.encoder.settle()
    rows = owner.transform(single)
    texts = pa.array(["12;3.0", None, "040"])
    made = sequence.Feature(sequence.Config(name="f", table="t", separator=";", integers=True))
    made.encoder = owner.encoder
    found = made.transform(texts)
    per_id = len(found.values) // 3
    assert (found.values.tolist(), found.lengths.tolist()) == (rows.values.tolist(), [2 * per_id, 0, per_id])
    # So have lists and columns of numbers, which are what is said of texts already.
    for same in (pa.array([[12, 3], None, [40]]), pa.array([[12.0, 3.0], [], [40.0]])):
        assert made.transform(same).values.tolist() == rows.values.tolist()


def test_texts_that_are_integers_may_have_weights_and_others_are_refused_with_their_row() -> None:
    made = feature(weighted=True, integers=True, separator=";", encoding="hash")
    plain = feature(encoding="hash").transform(pa.array([[7, 8], [9]])).values.tolist()
    found = rows_of(made.transform(pa.array(["7.0:2;08", "", "9:0.5"])))
    assert found == [[(plain[0], 2), (plain[1], 1)], [], [(plain[2], 0.5)]]
    entries = pa.array([[("7.0", 2.0), ("08", None)], [("9", 0.5)]], pa.map_(pa.string(), pa.float64()))
    assert rows_of(made.transform(entries)) == [found[0], found[2]]
    for column in (pa.array(["7:1", None, "8;x:2"]), pa.array([["7"], [], ["8", "x"]])):
        with pytest.raises(base.RowError, match="row 2: id 'x' is no whole number"):
            made.transform(column)


def test_tile_and_its_length_go_together() -> None:
    for keys in ({"pooling": "tile"}, {"tile_length": 3}, {"pooling": "max", "tile_length": 3}):
        with pytest.raises(ValidationError, match="pooling: tile goes with tile_length"):
            feature(**keys)


ENTRIES = st.lists(st.none() | st.tuples(st.integers(0, 99), st.none() | st.floats(-100, 100, width=32)), max_size=6)


@given(
    st.lists(st.none() | ENTRIES, max_size=6),
    st.none() | st.integers(1, 4),
    st.sampled_from(["first", "last"]),
    st.none() | st.integers(1, 3),
)
def test_equal_plain_python(rows: list[Any], max_length: int | None, keep: Any, tile: int | None) -> None:
    def text(entry: Any) -> str | None:
        return None if entry is None else str(entry[0]) if entry[1] is None else f"{entry[0]}:{entry[1]}"

    made = sequence.Feature(
        sequence.Config(
            name="f",
            table="t",
            weighted=True,
            max_length=max_length,
            keep=keep,
            pooling="mean" if tile is None else "tile",
            tile_length=tile,
        )
    )
    made.encoder = identity.Identity(100)
    column = pa.array([None if row is None else [text(e) for e in row] for row in rows], pa.list_(pa.string()))
    expected = []
    for row in rows:
        entries = [(e[0], 1.0 if e[1] is None else e[1]) for e in row or () if e is not None]
        if max_length is not None:
            entries = entries[:max_length] if keep == "first" else entries[-max_length:]
        expected.append(entries[:tile])
    found = rows_of(made.transform(column))
    assert [[e[0] for e in row] for row in found] == [[e[0] for e in row] for row in expected]
    weights = zip([e[1] for row in found for e in row], [e[1] for row in expected for e in row], strict=True)
    assert all(math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-30) for a, b in weights)
