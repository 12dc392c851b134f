"""Sequence features keep the most recent ids; that they share a table's encoding is the engine's test."""

import pyarrow as pa
import pytest

from recsys_core.features.id import Identity
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
