"""Preprocess against a slow oracle that knows no vectors."""

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_log import Rows, click, item_row, make_log, make_request, read, user_row

from recsys_core.progress import silent
from recsys_core.retrieval import preprocess


@st.composite
def logs(draw: st.DrawFn) -> tuple[Rows, Rows, Rows]:
    """Few users, items and seconds, so that ties, repeats, changes and empty days are common; 4 days, the last acts."""
    days, some_users, some_items = st.integers(0, 3), st.integers(1, 3), st.sampled_from("abcd")
    clicks = draw(st.lists(st.builds(click, days, st.integers(0, 3), some_users, some_items), max_size=25))
    clicks += [click(day, 0, 1, "a") for day in (2, 3)]
    changes = st.one_of(st.none(), st.sampled_from("xyz"))
    users = [user_row(0, user, draw(changes)) for user in (3, 1, 2)]
    users += draw(st.lists(st.builds(user_row, days, some_users, changes), max_size=4))
    # Items that no past click needs are first known on the last day.
    past = {row["item_id"] for row in clicks if row["day"] < 3}
    genres = st.one_of(st.none(), st.lists(st.one_of(st.none(), st.sampled_from("gh")), max_size=2))
    prices = st.one_of(st.none(), st.integers(0, 9))
    items = [item_row(0 if item in past else 3, item, draw(genres), draw(prices)) for item in "abcd"]
    items += draw(st.lists(st.builds(item_row, st.integers(2, 3), st.sampled_from("ab"), genres, prices), max_size=4))
    return clicks, users, sorted(items, key=lambda row: row["day"])


def oracle(rows: tuple[Rows, Rows, Rows], config: preprocess.Config, first: int) -> tuple[Rows, Rows, Rows]:
    """What preprocess makes for day 2 by one question per row and no arrays."""
    clicks, users, items = rows
    clicks = sorted(clicks, key=lambda row: row["timestamp"])
    past, future = [r for r in clicks if r["day"] < 3], [r for r in clicks if r["day"] == 3]
    known = {row["item_id"]: row for row in items if row["day"] < 3}
    if config.catalogue == "all":
        known = {row["item_id"]: row for row in items if row["day"] == 3} | known
    length = config.history.max_length

    def query(user: int, day: int, history: list[str]) -> dict[str, Any]:
        fields = [row for d in range(day + 1) for row in users if row["day"] == d and row["user_id"] == user][-1]
        history = history[-length:]
        return {
            "user_id": user,
            "segment": fields["segment"],
            "history__item_id": history,
            "history__genres": [genre for item in history for genre in known[item]["genres"] or []],
            "history__price": [known[item]["price"] for item in history],
        }

    examples = []
    for row in past:
        own = [r for r in past if r["user_id"] == row["user_id"]]
        if config.history.mode == "before":
            history = [r["item_id"] for r in own if r["timestamp"] < row["timestamp"]]
        else:
            history = [r["item_id"] for r in own if r["item_id"] != row["item_id"]]
        example = query(row["user_id"], row["day"], history)
        if row["day"] >= first:
            examples.append(example | {"item_id": row["item_id"], "timestamp": row["timestamp"]})

    since = 0 if config.popularity_days is None else 3 - config.popularity_days
    counts = Counter(row["item_id"] for row in past if row["day"] >= since)
    weights = {item: counts[item] ** config.sampling.alpha + config.sampling.smoothing for item in known}
    table = [
        {key: value for key, value in row.items() if key != "day"}
        | {"num_interactions": counts[item], "sampling_weight": pytest.approx(weights[item])}
        for item, row in known.items()
    ]

    truths = []
    for user in {row["user_id"] for row in future}:
        own = [r["item_id"] for r in past if r["user_id"] == user]
        taken = {r["item_id"] for r in future if r["user_id"] == user}
        truths.append(query(user, 3, own) | {"gt_items": sorted(taken), "seen_items": sorted(set(own))})
    return examples, table, truths


@settings(max_examples=60, deadline=None)
@given(
    rows=logs(),
    mode=st.sampled_from(["before", "others"]),
    max_length=st.integers(1, 4),
    window_days=st.one_of(st.none(), st.integers(1, 3)),
    popularity_days=st.one_of(st.none(), st.integers(1, 3)),
    catalogue=st.sampled_from(["known", "all"]),
)
def test_agrees_with_a_slow_oracle(
    rows: tuple[Rows, Rows, Rows],
    mode: Any,
    max_length: int,
    window_days: int | None,
    popularity_days: int | None,
    catalogue: Any,
) -> None:
    config = preprocess.Config(
        window_days=window_days,
        popularity_days=popularity_days,
        history=preprocess.History(mode=mode, max_length=max_length),
        catalogue=catalogue,
    )
    with tempfile.TemporaryDirectory() as scratch:
        dataset = make_log(Path(scratch) / "log", *rows)
        data = preprocess.run(make_request(dataset, 2, Path(scratch) / "out", config=config), silent)
        examples, items, truths = read(data.examples), read(data.items), read(data.ground_truth)
    expected_examples, expected_items, expected_truths = oracle(
        rows, config, first=0 if window_days is None else 3 - window_days
    )
    assert examples == expected_examples

    def by(key: str, table: Rows) -> Rows:
        return sorted(table, key=lambda row: row[key])

    assert by("item_id", items) == by("item_id", expected_items)
    unordered = [row | {name: sorted(row[name]) for name in ("gt_items", "seen_items")} for row in truths]
    assert by("user_id", unordered) == by("user_id", expected_truths)
    assert data.num_ground_truth == sum(len(row["gt_items"]) for row in truths)
    assert np.all(np.diff([row["timestamp"] for row in examples]) >= 0)


@settings(max_examples=60, deadline=None)
@given(rows=logs(), max_length=st.integers(1, 4), window_days=st.one_of(st.none(), st.integers(1, 3)))
def test_each_interaction_is_a_target_once_with_the_end_of_its_history(
    rows: tuple[Rows, Rows, Rows], max_length: int, window_days: int | None
) -> None:
    fields = {"window_days": window_days, "history": preprocess.History(max_length=max_length)}
    config = preprocess.Config(examples="sequences", **fields)
    with tempfile.TemporaryDirectory() as scratch:
        dataset = make_log(Path(scratch) / "log", *rows)
        data = preprocess.run(make_request(dataset, 2, Path(scratch) / "out", config=config), silent)
        found = read(data.examples)
    longest = preprocess.Config(window_days=window_days, history=preprocess.History(max_length=1000))
    examples, _, _ = oracle(rows, longest, first=0 if window_days is None else 3 - window_days)
    left = [(one["user_id"], one["item_id"], one["history__item_id"]) for one in examples]
    for row in found:
        history = row["history__item_id"]
        assert len(history) <= max_length
        assert max(row["known"]) == len(history)
        for item, known in zip(row["targets"], row["known"], strict=True):
            match = next(
                one
                for one in left
                if one[:2] == (row["user_id"], item)
                # What is known is the end of all that was before it, and something where there was something.
                and (one[2][len(one[2]) - known :] == history[:known])
                and (known or not one[2])
            )
            left.remove(match)
    assert not left
    assert data.num_targets == len(examples)
