"""What is held out is neither learned from nor known."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from small_log import FIRST, MIDNIGHT, click, continuing, day_at, item_row, make_log, make_request, read, user_row

from recsys_core import holdout
from recsys_core.artifacts import Holdout, Learned, NextDay, Tail, TrainingData
from recsys_core.artifacts import Rows as ByKey
from recsys_core.progress import silent
from recsys_core.retrieval import preprocess

HOLDOUTS = [NextDay(), Tail(hours=6), ByKey(share=0.5, by="user_id")]


@pytest.mark.parametrize("kind", HOLDOUTS, ids=lambda kind: kind.kind)
@pytest.mark.parametrize("absorbs", [False, True])
def test_what_is_held_out_is_neither_learned_from_nor_known(kind: Holdout, tmp_path: Path, *, absorbs: bool) -> None:
    """Three runs, each continuing the one before; in the end each row was learned from once, or withheld."""
    rng, seconds = np.random.default_rng(0), range(600, 86_400, 1_200)
    clicks = [
        click(day, second, int(rng.integers(1, 9)), "abcd"[rng.integers(0, 4)])
        for day in range(5)
        for second in seconds
    ]
    users = [user_row(0, number, "x") for number in range(1, 9)]
    log = make_log(tmp_path / "log", clicks, users, [item_row(0, item) for item in "abcd"])
    keys = pa.table({"user_id": [*range(1, 9)]})

    def selected(row: dict[str, Any], day: int) -> bool:
        """Whether a run of `day` is measured on a row."""
        number, second = divmod(row["timestamp"] - MIDNIGHT, 86_400)
        if isinstance(kind, NextDay):
            return number == day + 1
        if isinstance(kind, Tail):
            return number == day and second >= 64_800
        return number == day and bool(holdout.selected(kind, keys, FIRST, None)[row["user_id"] - 1])

    learned: Counter[tuple[int, int, str]] = Counter()
    base: TrainingData | None = None
    for day in (0, 1, 3):
        last = day + 1 if isinstance(kind, NextDay) else day
        dataset = log.model_copy(update={"days": log.days[: last + 1]})
        fields = continuing(base) if base else {}
        data = preprocess.run(make_request(dataset, day, tmp_path / f"{day}", holdout=kind, **fields), silent)
        truth = {(row["user_id"], item) for row in read(data.ground_truth) for item in row["gt_items"]}
        held_out = [row for row in clicks if selected(row, day)]
        assert truth == {(row["user_id"], row["item_id"]) for row in held_out}
        assert data.ground_truth_day == day_at(last)
        held_out_at = {(row["timestamp"], row["user_id"]) for row in held_out}
        past = [row for row in clicks if row["day"] <= day and (row["timestamp"], row["user_id"]) not in held_out_at]
        for query in read(data.ground_truth):
            known = [row["item_id"] for row in past if row["user_id"] == query["user_id"]]
            assert query["history__item_id"] == known[-50:]
        counts = Counter(row["item_id"] for row in past)
        assert {row["item_id"]: row["num_interactions"] for row in read(data.items)} == counts
        made = [data]
        if absorbs:
            fields = continuing(data) | {"measured": data, "holdout": kind}
            made.append(preprocess.run(make_request(dataset, last, tmp_path / f"{day}-absorbed", **fields), silent))
            assert made[-1].learned == Learned(first_day=FIRST, last_day=day_at(last))
        for one in made:
            examples = read(one.examples)
            assert [row["timestamp"] for row in examples] == sorted(row["timestamp"] for row in examples)
            learned.update((row["timestamp"], row["user_id"], row["item_id"]) for row in examples)
            for row in examples:
                before = [
                    c["item_id"] for c in clicks if c["user_id"] == row["user_id"] and c["timestamp"] < row["timestamp"]
                ]
                assert set(row["history__item_id"]) <= set(before)
        base = made[-1]
    until = last if absorbs else 3
    withheld = [row for row in clicks if not absorbs and any(selected(row, day) for day in (0, 1, 2, 3))]
    if not isinstance(kind, ByKey):
        # A later run learns from what another was measured on.
        withheld = [row for row in withheld if selected(row, 3)]
    due = Counter((row["timestamp"], row["user_id"], row["item_id"]) for row in clicks if row["day"] <= until)
    due.subtract((row["timestamp"], row["user_id"], row["item_id"]) for row in withheld if row["day"] <= until)
    assert learned == +due


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            Tail(hours=0.001),
            "day 2024-01-02: no interaction is held out, on which the run is to be measured; raise holdout",
        ),
        (
            Tail(hours=23.99999),
            "all interactions are held out, so that none is left to learn from; lower holdout.hours",
        ),
        (
            ByKey(share=0.001, by="user_id"),
            "no interaction is held out, on which the run is to be measured; raise holdout",
        ),
    ],
)
def test_a_holdout_of_nothing_or_everything_is_refused(kind: Holdout, message: str, tmp_path: Path) -> None:
    clicks = [click(1, 43_200, 1, "a"), click(1, 43_300, 1, "b")]
    log = make_log(tmp_path / "log", clicks, [user_row(0, 1, "x")], [item_row(0, "a"), item_row(0, "b")])
    with pytest.raises(ValueError, match=r".") as refused:
        preprocess.run(make_request(log, 1, tmp_path / "out", holdout=kind), silent)
    assert message in str(refused.value)
