"""Id features: what a column may look like, and the three encodings, each against plain Python."""

from collections import Counter
from pathlib import Path
from typing import Any

import farmhash
import numpy as np
import pyarrow as pa
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from recsys_core.features import base
from recsys_core.features.encoders.vocabulary import Vocabulary
from recsys_core.features.id import Config, Feature


def feature(**keys: Any) -> Feature:
    return Feature(Config(name="f", **{"num_embeddings": 100} | keys))


def rows_of(encoded: base.Jagged) -> list[list[int]]:
    ends = np.cumsum(encoded.lengths)
    return [encoded.values[end - n : end].tolist() for end, n in zip(ends, encoded.lengths, strict=True)]


NESTED = [[3, None], None, [], [4, 3, 5], [None]]
WANTED = [[3], [], [], [4, 3, 5], []]


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array(NESTED, pa.list_(pa.int8())), WANTED),
        (pa.array(NESTED, pa.large_list(pa.uint64())), WANTED),
        (pa.array(NESTED, pa.list_view(pa.int64())), WANTED),
        (pa.array(NESTED, pa.large_list_view(pa.int16())), WANTED),
        (pa.array([[3, None], None, [4, 4]], pa.list_(pa.int32(), 2)), [[3], [], [4, 4]]),
        (pa.array(NESTED, pa.list_(pa.int64())).slice(1, 3), WANTED[1:4]),
        (pa.array([7, None, 9], pa.uint16()), [[7], [], [9]]),
        (pa.array([7, None, 9]).dictionary_encode(), [[7], [], [9]]),
        (pa.DictionaryArray.from_arrays(pa.array([0, 1, None]), pa.array([5, None])), [[5], [], []]),
        (pa.array([True, False, None]), [[1], [0], []]),
        (pa.nulls(2), [[], []]),
        (pa.array([[[1, 2], None, []], [], None, [[3, None], [4]]]), [[1, 2], [], [], [3, 4]]),
        (pa.array([], pa.int64()), []),
    ],
)
def test_takes_every_shape_of_column(column: pa.Array, expected: list[list[int]]) -> None:
    if pa.types.is_boolean(column.type) or pa.types.is_null(column.type):
        encoder = feature(encoding="vocabulary")
        encoder.observe(pa.array([0, 0, 1]))
        encoder.encoder.settle()  # pyright: ignore[reportOptionalMemberAccess]
        expected = [[row + 1 if row == 0 else 2 for row in rows] for rows in expected]
    else:
        encoder = feature(encoding="identity")
    encoded = encoder.transform(column)
    assert rows_of(encoded) == expected
    assert (encoded.values.dtype, encoded.lengths.dtype) == (np.int64, np.int32)


@pytest.mark.parametrize(
    "kind",
    [
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.binary(),
        pa.large_binary(),
        pa.dictionary(pa.int8(), pa.string()),
    ],
)
def test_takes_every_kind_of_text(kind: pa.DataType) -> None:
    texts = pa.array(["a", None, "new", "b"])
    vocabulary = feature()
    vocabulary.observe(pa.array(["b", "a", "b", None]).cast(kind))
    vocabulary.encoder.settle()  # pyright: ignore[reportOptionalMemberAccess]
    assert rows_of(vocabulary.transform(texts)) == [[2], [], [0], [1]]
    assert rows_of(vocabulary.transform(texts.cast(kind))) == [[2], [], [0], [1]]
    listed = pa.ListArray.from_arrays(pa.array([0, 2, None, 4], pa.int32()), texts.cast(kind))
    assert rows_of(vocabulary.transform(listed)) == [[2], [0, 1], []]


@pytest.mark.parametrize("column", [pa.array([1.5]), pa.array([{"a": 1}]), pa.array([2**63], pa.uint64())])
def test_refuses_what_cannot_be_an_id(column: pa.Array) -> None:
    with pytest.raises(ValueError, match=r"cannot hold ids|nested otherwise|row \d: id .* is (beyond|no whole)"):
        feature().observe(column)


@pytest.mark.parametrize("kind", [pa.float64(), pa.float32(), pa.float16(), pa.decimal128(38, 2), pa.uint64()])
def test_whole_numbers_of_any_type_are_the_ids_that_integers_are(kind: pa.DataType) -> None:
    integers = pa.array([7, None, 5, 7, 9])
    vocabulary = feature()
    vocabulary.observe(integers)
    vocabulary.encoder.settle()  # pyright: ignore[reportOptionalMemberAccess]
    assert rows_of(vocabulary.transform(integers.cast(kind))) == rows_of(vocabulary.transform(integers))
    hashed = feature(encoding="hash", num_embeddings=97)
    assert rows_of(hashed.transform(integers.cast(kind))) == rows_of(hashed.transform(integers))


def test_a_nan_is_no_id_and_does_not_count_among_those_that_are_kept() -> None:
    hashed = feature(encoding="hash", num_embeddings=97, max_length=2)
    found = rows_of(hashed.transform(pa.array([[1.0, float("nan"), 2.0, None], [float("nan")], None])))
    assert found == [*rows_of(hashed.transform(pa.array([[1, 2]]))), [], []]


@pytest.mark.parametrize(
    ("column", "said"),
    [
        (pa.array([[1.0], [2.0, 2.5]]), "row 1: id 2.5 is no whole number; write ids as integers or text"),
        (pa.array([1.0, 2.0**53]), r"row 1: id 9007199254740992.0 is beyond 2\*\*53, where double does not hold"),
        (pa.array([1.0, 2.0**24], pa.float32()), r"row 1: id 16777216.0 is beyond 2\*\*24, where float does not"),
        (pa.array([b"a", b"\xff"]), "row 1: b'\\\\xff' is no text in UTF-8"),
    ],
)
def test_an_id_that_is_not_exact_is_refused_with_its_row(column: pa.Array, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        feature().observe(column)


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.large_string()),
        pa.large_list(pa.large_string()),
        pa.list_view(pa.string_view()),
        pa.list_(pa.dictionary(pa.int32(), pa.large_string())),
        pa.list_(pa.string(), 2),
    ],
)
def test_lists_of_texts_are_lists_however_they_are_laid_out(kind: pa.DataType) -> None:
    hashed = feature(encoding="hash", num_embeddings=97)
    lists = [["a", "b"], None, ["c", None]]
    assert rows_of(hashed.transform(pa.array(lists, kind))) == rows_of(hashed.transform(pa.array(lists)))
    joined = feature(encoding="hash", num_embeddings=97, separator="|")
    texts = pa.array(["a|b", None, "c"]).dictionary_encode()
    assert rows_of(joined.transform(texts)) == rows_of(hashed.transform(pa.array(lists)))


def test_identity_refuses_ids_outside_of_the_table() -> None:
    identity = feature(encoding="identity", num_embeddings=4)
    assert rows_of(identity.transform(pa.array([0, 3]))) == [[0], [3]]
    for outside in (4, -1):
        with pytest.raises(ValueError, match=f"id {outside} is not in 0..3"):
            identity.transform(pa.array([0, outside]))
    with pytest.raises(ValueError, match="integers, found string"):
        identity.transform(pa.array(["1"]))


@given(st.lists(st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers(0, 5))), st.integers(2, 50))
def test_hash_is_xxh3_of_the_text(ids: list[int], num_embeddings: int) -> None:
    hashed = feature(encoding="hash", num_embeddings=num_embeddings)
    expected = [xxhash.xxh3_64_intdigest(str(i).encode()) % num_embeddings for i in ids]
    assert hashed.transform(pa.array(ids, pa.int64())).values.tolist() == expected
    assert hashed.transform(pa.array([str(i) for i in ids], pa.string())).values.tolist() == expected


def test_hash_of_a_known_text() -> None:
    # The reference implementation's xxh3-64 of the empty text.
    hashed = feature(encoding="hash", num_embeddings=1_000_000).transform(pa.array([""]))
    assert hashed.values.tolist() == [0x2D06800538D394C2 % 1_000_000]


def slow_fit(rounds: list[list[Any]], capacity: int, min_count: int) -> dict[Any, int]:
    """Rows by id, by the definition: sort what earned a row in each round, append, stop when full."""
    counts: Counter[Any] = Counter()
    rows: dict[Any, int] = {}
    for ids in rounds:
        counts.update(ids)
        earned = [i for i in counts if counts[i] >= min_count and i not in rows]
        for i in sorted(earned, key=lambda i: (-counts[i], i)):
            if len(rows) < capacity:
                rows[i] = len(rows) + 1
    return rows


IDS = st.one_of(st.integers(-3, 8), st.sampled_from([-(2**63), 2**63 - 1, 10**12]))
ROUNDS = st.one_of(
    st.lists(st.lists(IDS, max_size=15), min_size=1, max_size=3),
    st.lists(st.lists(st.sampled_from(["", "a", "B", "b", "é", "zz"]), max_size=15), min_size=1, max_size=3),
)


@given(ROUNDS, st.integers(1, 6), st.integers(1, 3), st.data())
def test_vocabulary_agrees_with_a_slow_fit_whatever_the_chunks(
    rounds: list[list[Any]], capacity: int, min_count: int, data: st.DataObject
) -> None:
    kind = pa.string() if any(isinstance(i, str) for ids in rounds for i in ids) else pa.int64()
    vocabulary = Vocabulary(capacity + 1, min_count)
    for ids in rounds:
        cut = data.draw(st.integers(0, len(ids)))
        for chunk in (ids[:cut], ids[cut:]):
            vocabulary.observe(pa.array(chunk, kind))
        vocabulary.settle()
        state = vocabulary.state()
        assert state is not None
        vocabulary = Vocabulary(capacity + 1, min_count)
        vocabulary.restore(state)
    rows = slow_fit(rounds, capacity, min_count)
    asked = list({i for ids in rounds for i in ids})
    asked += ["unseen"] if kind == pa.string() else [77, -77]
    assert vocabulary.encode(pa.array(asked, kind)).tolist() == [rows.get(i, 0) for i in asked]
    report = vocabulary.report()
    seen = len({i for ids in rounds for i in ids})
    assert report == {"known": len(rows), "out_of_vocabulary": seen - len(rows), "capacity": capacity}


def test_vocabulary_counts_stay_exact_when_there_is_much_to_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recsys_core.features.encoders.counts._PENDING_ROWS", 3)
    ids = np.random.default_rng(0).zipf(1.5, 500) % 20
    vocabulary = Vocabulary(8, 1)
    for chunk in np.array_split(ids, 50):
        vocabulary.observe(pa.array(chunk))
    vocabulary.settle()
    assert {i: row for i, row in enumerate(vocabulary.encode(pa.array(range(20)))) if row} == slow_fit(
        [ids.tolist()], 7, 1
    )


@given(
    st.lists(st.lists(st.integers(0, 30), max_size=40), min_size=1, max_size=3),
    st.integers(1, 8),
    st.integers(1, 3),
    st.integers(1, 12),
)
def test_counts_in_bounded_memory_are_off_by_no_more_than_they_say(
    days: list[list[int]], max_counted: int, min_count: int, chunk_rows: int
) -> None:
    vocabulary = Vocabulary(4, min_count, max_counted=max_counted)
    rows_before: dict[int, int] = {}
    for number, day in enumerate(days, 1):
        for start in range(0, len(day), chunk_rows):
            vocabulary.observe(pa.array(day[start : start + chunk_rows]))
        vocabulary.settle()
        state = vocabulary.state()
        assert state is not None
        truth = Counter(i for ids in days[:number] for i in ids)
        counts = dict(zip(state["id"].to_pylist(), state["count"].to_pylist(), strict=True))
        rows = {i: row for i, row in zip(state["id"].to_pylist(), state["row"].to_pylist(), strict=True) if row}
        error = vocabulary.report().get("count_error", 0)
        assert error * (max_counted + 1) <= truth.total()
        assert all(truth[i] - error <= counts.get(i, 0) <= truth[i] for i in truth)
        assert len(counts) - len(rows) <= max_counted
        assert rows_before.items() <= rows.items()
        assert all(truth[i] >= min_count for i in rows)
        assert len(rows) == 3 or all(i in rows for i in truth if truth[i] >= min_count + error)
        rows_before = rows
        vocabulary = Vocabulary(4, min_count, max_counted=max_counted)
        vocabulary.restore(state)
        assert vocabulary.report().get("count_error", 0) == error


def test_the_rarest_are_forgotten_by_hand() -> None:
    vocabulary = Vocabulary(4, 2, max_counted=2)
    for chunk in (["a"] * 5 + ["b"] * 3 + ["c"] * 2 + ["d"], ["c", "e"]):
        vocabulary.observe(pa.array(chunk))
    # Of a 5, b 3, c 2, d 1 the third largest is taken off all: a 3, b 1. Then c and e come; a alone earns a row, and of
    # b 1, c 1, e 1 the third largest is taken off.
    vocabulary.settle()
    assert vocabulary.encode(pa.array(["a", "b", "c"])).tolist() == [1, 0, 0]
    state = vocabulary.state()
    assert state is not None
    assert state.to_pydict() == {"id": ["a"], "count": [3], "row": [1]}
    assert vocabulary.report() == {"known": 1, "out_of_vocabulary": 0, "capacity": 3, "count_error": 3}


def test_vocabulary_must_be_fitted_and_keeps_its_type() -> None:
    vocabulary = Vocabulary(4, 1)
    with pytest.raises(ValueError, match="not fitted yet"):
        vocabulary.encode(pa.array([1]))
    assert vocabulary.report() == {"known": 0, "out_of_vocabulary": 0, "capacity": 3}
    vocabulary.settle()
    assert vocabulary.encode(pa.array(["a"])).tolist() == [0]
    vocabulary.observe(pa.array(["a"]))
    with pytest.raises(ValueError, match="holds int64 where the vocabulary was fitted on string"):
        vocabulary.observe(pa.array([1]))
    vocabulary.settle()
    with pytest.raises(ValueError, match="holds int64 where the vocabulary was fitted on string"):
        vocabulary.encode(pa.array([1]))
    with pytest.raises(ValueError, match="holds int64"):
        vocabulary.observe(pa.array([1]))


def test_a_given_list_has_the_rows_behind_those_of_unknown_ids(tmp_path: Path) -> None:
    listed = feature(num_embeddings=None, vocabulary=["b", "a"])
    assert rows_of(listed.transform(pa.array(["a", "b", "c", None]))) == [[2], [1], [0], []]
    file = tmp_path / "ids.txt"
    file.write_text("7\n\u00fc\n9\n", encoding="utf-8")
    filed = feature(num_embeddings=None, vocabulary_file=file, num_oov=3)
    assert filed.encoder is not None
    assert filed.encoder.num_embeddings == 6
    unknown = [xxhash.xxh3_64_intdigest(str(i).encode()) % 3 for i in (8, 10)]
    assert rows_of(filed.transform(pa.array([9, 8, 7, 10]))) == [[5], [unknown[0]], [3], [unknown[1]]]
    assert rows_of(Feature(filed.portable()).transform(pa.array(["\u00fc"]))) == [[4]]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"max_counted": 3}, r"max_counted 3: .* as the table's rows \(\d+\)"),
        ({"max_counted": 99, "encoding": "hash"}, "max_counted 99: it goes with encoding: vocabulary or dynamic"),
        ({"num_embeddings": None}, "vocabulary needs num_embeddings"),
        ({"vocabulary": ["a"]}, "given has its size from its own keys"),
        ({"encoding": "hash", "vocabulary": ["a"]}, "given goes with one of"),
        ({"num_embeddings": None, "encoding": "multi_hash"}, "goes with num_buckets"),
        ({"num_embeddings": None, "vocabulary": ["a", "b", "a"]}, "'a' is there twice"),
        ({"num_embeddings": None, "vocabulary_file": "no.txt"}, "no such file"),
        ({"num_embeddings": 2, "num_oov": 2}, "leaves no row"),
    ],
)
def test_refuses_keys_that_do_not_go_together(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        feature(**keys)


def test_a_vocabulary_with_several_rows_for_unknown_ids() -> None:
    vocabulary = Vocabulary(5, 1, num_oov=3)
    vocabulary.observe(pa.array([5, 5, 6, 7]))
    vocabulary.settle()
    unknown = [xxhash.xxh3_64_intdigest(str(i).encode()) % 3 for i in (7, 8)]
    assert vocabulary.encode(pa.array([5, 6, 7, 8])).tolist() == [3, 4, *unknown]
    assert vocabulary.report() == {"known": 2, "out_of_vocabulary": 1, "capacity": 2}


def test_multi_hash_gives_an_id_a_row_in_every_part() -> None:
    parts = feature(num_embeddings=None, encoding="multi_hash", num_buckets=(3, 5), hash="farm")
    assert rows_of(parts.transform(pa.array([[7, -1], None]))) == [[1, 3 + 2, 2, 3 + 4], []]
    h = farmhash.fingerprint64("x")
    assert rows_of(parts.transform(pa.array(["x"]))) == [[h % 3, 3 + h % 5]]


def test_mod_separator_and_default() -> None:
    modulo = feature(encoding="identity", mod=10, separator=",", default=9)
    assert rows_of(modulo.transform(pa.array([[25, -1], [], None, [[3]][0]]))) == [[5, 9], [9], [9], [3]]
    with pytest.raises(ValueError, match="mod 10 needs integers, found string"):
        modulo.transform(pa.array(["1"]))
    texts = feature(encoding="hash", separator="\x1d", default="none", num_embeddings=1000)
    expected = [[xxhash.xxh3_64_intdigest(t) % 1000 for t in row] for row in ([b"a", b"b"], [b"none"], [b"none"])]
    assert rows_of(texts.transform(pa.array(["a\x1db", "", None]))) == expected
    with pytest.raises(ValueError, match="holds int64, and default 'none' is none"):
        texts.transform(pa.array([1, None]))


def test_encoded_rows_pass_as_they_are_and_others_are_counted_or_refused() -> None:
    encoded = feature(input="encoded", num_embeddings=4, encoding="hash")
    column = pa.array([[0, 3], None, [2]])
    encoded.observe(column)
    assert rows_of(encoded.transform(column)) == [[0, 3], [], [2]]
    with pytest.raises(ValueError, match=r"row 1: id 4 is not in 0..3"):
        encoded.transform(pa.array([1, 4]))
    # Of rows of 2, 0, 0 and 3 ids the fourth is in the last.
    with pytest.raises(ValueError, match=r"row 3: id -1 is not in 0..3; raise num_embeddings, .*out_of_range: drop"):
        encoded.transform(pa.array([[1, 2], None, [], [3, -1, 9]]))
    with pytest.raises(ValueError, match="integers, found string"):
        encoded.transform(pa.array(["1"]))
    dropping = feature(input="encoded", num_embeddings=4, encoding="hash", out_of_range="drop")
    made = dropping.transform(pa.array([[4, 1], [-1], [0, 2**62, 2]]))
    assert rows_of(made) == [[1], [], [0, 2]]
    assert made.left_out is not None
    assert made.left_out.tolist() == [1, 1, 1]
    assert made.take(np.array([2, 0, 2])).left_out.tolist() == made.first(1).left_out.tolist() == [1, 1, 1]
    assert dropping.transform(pa.array([[1], [2, 3]])).left_out is None
    assert dropping.report() == {"out_of_range": 3}
    assert encoded.report() == {}
