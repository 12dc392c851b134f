"""Sequence features keep the most recent ids; that they share a table's encoding is the engine's test."""

import pyarrow as pa
import pytest

from recsys_core.features.encoders.hashed import Hash
from recsys_core.features.encoders.identity import Identity
from recsys_core.features.sequence import Config, Feature


def feature(max_length: int | None) -> Feature:
    made = Feature(Config(name="f", table="t", max_length=max_length))
    made.encoder = Identity(10)
    return made


@pytest.mark.parametrize(
    ("max_length", "values", "lengths"),
    [(2, [2, 3, 4], [2, 0, 1]), (1, [3, 4], [1, 0, 1]), (9, [1, 2, 3, 4], [3, 0, 1]), (None, [1, 2, 3, 4], [3, 0, 1])],
)
def test_keeps_the_last_ids(max_length: int | None, values: list[int], lengths: list[int]) -> None:
    encoded = feature(max_length).transform(pa.array([[1, None, 2, 3], None, [4]]))
    assert (encoded.values.tolist(), encoded.lengths.tolist()) == (values, lengths)


def test_takes_lists_only() -> None:
    with pytest.raises(ValueError, match="int64 is no list; use kind: id"):
        feature(2).transform(pa.array([1]))
    assert feature(2).transform(pa.nulls(2)).lengths.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("keep", "expected"), [("last", ([3, 4, 5, 6], [2, 0, 0, 2])), ("first", ([1, 2, 3, 5], [3, 0, 0, 1]))]
)
def test_cuts_entries_of_either_end_whatever_they_hold(keep: str, expected: tuple[list[int], list[int]]) -> None:
    made = Feature(Config(name="f", table="t", max_length=2, keep=keep))
    made.encoder = Identity(10)
    encoded = made.transform(pa.array([[[1, 2], [3], None, [4]], None, [], [[5], [], [6]]]))
    if keep == "last":
        # Of the third row's entries the empty one counts: it is an entry without ids.
        expected = ([3, 4, 6], [2, 0, 0, 1])
    assert (encoded.values.tolist(), encoded.lengths.tolist()) == expected


def test_splits_texts() -> None:
    made = Feature(Config(name="f", table="t", max_length=2, separator=";"))
    made.encoder = Hash(1 << 40)
    encoded = made.transform(pa.array(["a;b;c", "", None, "d"]))
    assert encoded.lengths.tolist() == [2, 0, 0, 1]
    assert encoded.values.tolist() == Hash(1 << 40).encode(pa.array(["b", "c", "d"])).tolist()


def test_encoded_entries_are_rows_of_the_table_or_are_refused_or_counted() -> None:
    column = pa.array([[9, 10, 0], None, [-1, 3]])
    made = Feature(Config(name="f", table="t", input="encoded"))
    # A hash of the rows would be others.
    made.encoder = Hash(10)
    with pytest.raises(ValueError, match=r"id 10 is not in 0\.\.9; .*out_of_range: drop"):
        made.transform(column)
    made = Feature(Config(name="f", table="t", input="encoded", out_of_range="drop", max_length=2))
    made.encoder = Hash(10)
    encoded = made.transform(column)
    assert (encoded.values.tolist(), encoded.lengths.tolist()) == ([0, 3], [1, 0, 1])
    assert made.report() == {"out_of_range": 2}
    with pytest.raises(ValueError, match="rows of a table are integers, found string"):
        made.transform(pa.array([["a"]]))
