"""Clicks and the lists that they belong to, against a search of all pairs."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from recsys_core.serving.impressions import attribution


def _slowly(shown: list[tuple[int, int]], clicks: list[tuple[int, int]], window: int) -> list[tuple[int, str]]:
    clicked: set[int] = set()
    seen: set[tuple[int, int]] = set()
    kinds: dict[int, tuple[int, str]] = {}
    for place in sorted(range(len(clicks)), key=lambda one: (clicks[one][1], one)):
        pair, second = clicks[place]
        times = [(at, row) for row, (own, at) in enumerate(shown) if own == pair]
        before = max([one for one in times if one[0] <= second], default=None)
        target = before[1] if before is not None and second - before[0] <= window else -1
        if (pair, second) in seen:
            kind = "duplicate"
        elif target >= 0:
            kind = "repeated" if target in clicked else "joined"
            clicked.add(target)
        else:
            kind = "late" if before is not None else "early" if times else "unmatched"
        seen.add((pair, second))
        kinds[place] = target, kind
    return [kinds[place] for place in range(len(clicks))]


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 30)), max_size=20),
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 40)), max_size=20),
)
def test_attribution_finds_what_a_search_of_all_pairs_finds(shown, clicks):
    pair, second = (np.array([one[place] for one in shown], np.int64) for place in (0, 1))
    rows = np.arange(len(shown))
    own = attribution.Shown(pair, second, rows, np.zeros_like(rows))
    found = attribution.attribute(own, *(np.array([one[place] for one in clicks], np.int64) for place in (0, 1)), 10)
    kinds = [next(kind for kind in attribution.KINDS if getattr(found, kind)[place]) for place in range(len(clicks))]
    assert [*zip(found.target.tolist(), kinds, strict=True)] == _slowly(shown, clicks, 10)
