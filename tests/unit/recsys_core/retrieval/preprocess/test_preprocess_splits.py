"""Leave-one-out and the global temporal split through ingest, preprocess and what item-item learns from."""

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys_core import ingest
from recsys_core.artifacts import Dataset, Holdout, LeaveOneOut, Temporal, TrainingData
from recsys_core.datasets import daily
from recsys_core.features import Config as Features
from recsys_core.progress import Event, silent
from recsys_core.retrieval import preprocess
from recsys_core.retrieval.baselines import count_recent, read_history

FIRST, LAST = datetime.date(2024, 1, 1), datetime.date(2024, 1, 2)
MIDNIGHT = 1_704_067_200
DAY = 86_400
# Of user 1 the last two are of one second, of which the file has b last; user 2 has two interactions.
CLICKS = [(1, "c", 5), (1, "a", 9), (2, "a", 9), (3, "b", 9), (3, "a", 9), (3, "c", 9)]
NEXT = [(2, "c", DAY + 1), (1, "d", DAY + 2), (1, "b", DAY + 2), (3, "d", DAY + 7)]
FEATURES = {
    "embedding_dim": 4,
    "query": [{"kind": "sequence", "name": "history__item_id", "table": "item_id"}],
    "item": [{"kind": "id", "name": "item_id", "num_embeddings": 50}],
}


def write(root: Path, table: str, day: datetime.date, rows: pa.Table) -> None:
    path = root / table / f"ds={day}" / "part.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(rows, path)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    root = tmp_path / "log"
    for day, clicks in ((FIRST, CLICKS), (LAST, NEXT)):
        users, items, seconds = zip(*clicks, strict=True)
        times = pa.array([MIDNIGHT + second for second in seconds])
        write(root, "interactions", day, pa.table({"user_id": users, "item_id": items, "timestamp": times}))
    write(root, "users", FIRST, pa.table({"user_id": [1, 2, 3]}))
    write(root, "items", FIRST, pa.table({"item_id": ["a", "b", "c", "d", "e"]}))
    return root


def ingested(root: Path, held_out: Holdout) -> Dataset:
    config, home = daily.Config(source=str(root)), root.parent
    fingerprint = ingest.fingerprint(config, LAST, held_out)
    request = ingest.Request(
        output=home / "ingest", config_hash="", code_version="", config=config, day=LAST, holdout=held_out,
        import_root=home / "imports", fingerprint=fingerprint,
    )  # fmt: skip
    return ingest.run(request, silent)


def made(root: Path, held_out: Holdout, events: list[Event] | None = None, **config: Any) -> TrainingData:
    asked = preprocess.Request(
        output=root.parent / "data", config_hash="", code_version="", dataset=ingested(root, held_out), day=LAST,
        config=preprocess.Config.model_validate(config), features=Features.model_validate(FEATURES), holdout=held_out,
    )  # fmt: skip
    return preprocess.run(asked, silent if events is None else events.append)


def rows(folder: Path, *names: str) -> list[tuple[Any, ...]]:
    (path,) = folder.iterdir()
    return [tuple(row[name] for name in names) for row in pq.ParquetFile(path).read().to_pylist()]


def examples(data: TrainingData) -> list[tuple[Any, ...]]:
    return rows(data.examples, "user_id", "item_id", "history__item_id")


def truth(data: TrainingData) -> list[tuple[Any, ...]]:
    return rows(data.ground_truth, "user_id", "gt_items", "history__item_id", "seen_items")


def test_a_log_that_is_left_one_out(log: Path) -> None:
    events: list[Event] = []
    data = made(log, LeaveOneOut(), events, history={"mode": "preceding"})
    # Of users 1 and 3 the last but one is known when they are asked for, and not learned from; user 2 is not asked.
    assert truth(data) == [(1, ["b"], ["c", "a", "d"], ["a", "c", "d"]), (3, ["d"], ["b", "a", "c"], ["a", "b", "c"])]
    assert examples(data) == [
        (1, "c", []), (1, "a", ["c"]), (2, "a", []), (3, "b", []), (3, "a", ["b"]), (2, "c", ["a"]),
    ]  # fmt: skip
    assert (data.num_rows, data.num_queries, data.num_ground_truth, data.num_tied) == (6, 2, 2, 1)
    (message,) = [event.message for event in events if event.message]
    assert message.startswith(
        "warning: leave_one_out: 2 test items are measured on, of which 1 would be others in another order"
    )
    assert data.learned is not None
    assert data.learned.withheld == LeaveOneOut()


def test_of_one_second_before_knows_nothing_and_preceding_knows_the_file_s_order(log: Path) -> None:
    data = made(log, LeaveOneOut(learns_validation=True))
    own = [row for row in examples(data) if row[0] == 3]
    assert own == [(3, "b", []), (3, "a", []), (3, "c", [])]
    assert (1, "d", ["c", "a"]) in examples(data)


def test_to_validate_is_to_know_nothing_of_the_test_s_rows(log: Path) -> None:
    data = made(log, LeaveOneOut(part="validation"))
    assert truth(data) == [(1, ["d"], ["c", "a"], ["a", "c"]), (3, ["c"], ["b", "a"], ["a", "b"])]
    assert data.num_tied == 2
    counts = dict(rows(data.items, "item_id", "num_interactions"))
    assert counts == {"a": 3, "b": 1, "c": 2, "d": 0, "e": 0}


def test_the_newest_interactions_of_all_users_are_measured_on(log: Path) -> None:
    data = made(log, Temporal(share=0.2, validation_share=0.2))
    assert truth(data) == [(1, ["b"], ["c", "a", "d"], ["a", "c", "d"]), (3, ["d"], ["b", "a", "c"], ["a", "b", "c"])]
    assert [row[:2] for row in examples(data)] == [(user, item) for user, item, _ in CLICKS]
    assert data.num_tied == 1


@pytest.mark.parametrize("held_out", [LeaveOneOut(), LeaveOneOut(part="validation"), Temporal(share=0.2)])
def test_item_item_learns_from_what_is_known_and_nothing_else(log: Path, held_out: Holdout) -> None:
    dataset = ingested(log, held_out)
    items = pa.array(["a", "b", "c", "d", "e"])
    users, taken, _ = read_history(dataset, LAST, items, 100, held_out)
    data = made(log, held_out)
    assert sorted(rows(data.items, "item_id", "num_interactions")) == [
        (item, int((taken == at).sum())) for at, item in enumerate(items.to_pylist())
    ]
    counts = count_recent(dataset, LAST, items, 1_000, held_out)
    assert counts.tolist() == np.bincount(taken, minlength=len(items)).tolist()
    few_users, few, _ = read_history(dataset, LAST, items, 3, held_out)
    assert (few.tolist(), len(few_users)) == (taken[-3:].tolist(), 3)
    assert len(users) == data.num_rows + (2 if held_out == LeaveOneOut() else 0)


def test_a_split_that_leaves_nothing_to_measure_or_to_learn_is_refused(log: Path, tmp_path: Path) -> None:
    dataset = ingested(log, LeaveOneOut())
    for held_out, message in (
        (Temporal(share=0.01), "no interaction is held out, on which the run is to be measured; raise holdout.share"),
        (
            Temporal(share=0.99),
            "all interactions are held out, so that none is left to learn from; lower holdout.share",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            made(log, held_out)
    first = dataset.model_copy(update={"day": FIRST, "days": dataset.days[:1]})
    asked = preprocess.Request(
        output=tmp_path / "none", config_hash="", code_version="", dataset=first, day=FIRST, holdout=LeaveOneOut(),
        config=preprocess.Config(), features=Features.model_validate(FEATURES),
    )  # fmt: skip
    one_each = pa.table({"user_id": [1, 2], "item_id": ["a", "b"], "timestamp": [MIDNIGHT, MIDNIGHT]})
    pq.write_table(one_each, log / "interactions" / f"ds={FIRST}" / "part.parquet")
    days = (first.days[0].model_copy(update={"num_interactions": 2}),)
    with pytest.raises(ValueError, match="no user has 3 interactions, of which holdout.kind: leave_one_out could hold"):
        preprocess.run(asked.model_copy(update={"dataset": first.model_copy(update={"days": days})}), silent)
    assert not (tmp_path / "none").exists()
