"""Ranks: boundaries and shares by hand, and against sorted numbers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys_core.features.encoders import ranks as _ranks
from recsys_core.features.encoders.ranks import Ranks

NUMBERS = st.floats(-1e300, 1e300) | st.integers(-3, 3).map(float)


def ranks(*chunks: list[float]) -> Ranks:
    made = Ranks()
    for chunk in chunks:
        made.add(np.array(chunk, dtype=np.float64))
    return made


def test_by_hand() -> None:
    # Sorted: 1 2 2 5. At places 1, 2 and 3 of four: 2, 2, 5.
    made = ranks([5, 2], [float("nan"), 1, 2])
    assert made.boundaries(4) == [2, 5]
    assert made.boundaries(2) == [2]
    shares = made.share_below(np.array([0, 1, 2, 3, 5, 9, float("nan")]))
    np.testing.assert_array_equal(shares, [0, 0.125, 0.5, 0.75, 0.875, 1, float("nan")])


def test_without_numbers_there_are_no_boundaries_and_no_shares() -> None:
    assert ranks([float("nan")]).boundaries(3) == []
    assert ranks().share_below(np.array([1.0])).tolist() == [0]


def test_zero_has_no_sign() -> None:
    assert ranks([-0.0, 0.0, 0.0, 1.0]).share_below(np.array([-0.0, 0.0])).tolist() == [0.375, 0.375]


@given(st.lists(NUMBERS, min_size=1, max_size=60), st.lists(NUMBERS), st.integers(2, 9), st.randoms())
def test_equal_plain_sorting(seen: list[float], asked: list[float], num_buckets: int, random) -> None:
    shuffled = random.sample(seen, len(seen))
    cut = random.randrange(len(seen) + 1)
    made = ranks(shuffled[:cut], shuffled[cut:])
    ordered = sorted(seen)
    wanted = sorted({ordered[k * len(seen) // num_buckets] for k in range(1, num_buckets)})
    assert made.boundaries(num_buckets) == wanted
    shares = [(sum(x < a for x in seen) + sum(x <= a for x in seen)) / (2 * len(seen)) for a in asked]
    np.testing.assert_allclose(made.share_below(np.array(asked)), shares, rtol=1e-12)
    again = Ranks.from_json(made.to_json())
    assert again.boundaries(num_buckets) == wanted
    assert again.to_json() == made.to_json()


@pytest.mark.parametrize("order", ["rising", "falling", "mixed"])
def test_too_many_numbers_keep_their_ranks_about(monkeypatch: pytest.MonkeyPatch, order: str) -> None:
    monkeypatch.setattr(_ranks, "_MAX_DISTINCT", 512)
    numbers = np.random.default_rng(0).normal(size=20_000)
    fed = {"rising": np.sort(numbers), "falling": -np.sort(-numbers), "mixed": numbers}[order]
    made, again = Ranks(), Ranks()
    for chunk in np.array_split(fed, 7):
        made.add(chunk)
    again.add(numbers)
    assert made.to_json() == again.to_json(), "the order in which numbers come makes no difference"
    assert len(made.to_json()["keys"]) <= 512
    exact = np.argsort(np.argsort(numbers)) / len(numbers)
    assert np.abs(made.share_below(numbers) - exact).max() < 0.01
    assert Ranks.from_json(made.to_json()).to_json() == made.to_json()
