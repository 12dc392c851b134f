"""Looking ids up, in each of the ways there are, against a dict."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_core.features.encoders.row_of import RowOf

NUMBERS = st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 60) | st.integers(0, 30).map(lambda n: n << 56)


@given(ids=st.sets(NUMBERS, max_size=60), others=st.lists(NUMBERS, max_size=20), hashed=st.booleans())
def test_integers_are_found_as_in_a_dict(ids: set[int], others: list[int], hashed: bool) -> None:
    rising = sorted(ids)
    rows = np.random.default_rng(1).permutation(len(rising)) + 1
    known = dict(zip(rising, rows.tolist(), strict=True))
    look = RowOf(pa.array(rising, pa.int64()), rows, most_searched=0 if hashed else 4_096)
    asked = [*rising, *others]
    assert look.find(pa.array(asked, pa.int64())).tolist() == [known.get(one, 0) for one in asked]


def test_many_integers_are_found_by_hash() -> None:
    rng = np.random.default_rng(2)
    ids = np.unique(np.concatenate([rng.integers(-(2**63), 2**63 - 1, 20_000), np.arange(5_000)]))
    look = RowOf(pa.array(ids), np.arange(len(ids)) + 1)
    assert look._slots is not None
    assert look.find(pa.array(ids)).tolist() == list(range(1, len(ids) + 1))
    strangers = np.setdiff1d(rng.integers(-(2**63), 2**63 - 1, 1_000), ids)
    assert not look.find(pa.array(strangers)).any()


def test_texts_are_found_and_other_types_refused() -> None:
    look = RowOf(pa.array(["a", "b"]), np.array([2, 1]))
    assert look.find(pa.array(["b", "c", "a", "b"])).tolist() == [1, 0, 2, 1]
    with pytest.raises(ValueError, match="holds int64 where the vocabulary was fitted on string"):
        look.find(pa.array([1]))
