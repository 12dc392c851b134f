"""Daily rows from their partitions to a training that continues another: what is read, learned from and measured."""

import numpy as np
import pyarrow.compute as pc
import pytest
from daily_rows import (
    FEATURES,
    FIFTH,
    FIRST,
    FOURTH,
    MODEL,
    ROWS,
    SECOND,
    THIRD,
    Line,
    all_rows,
    rows_of,
    table_of,
    train_request,
)

from recsys_core import readers
from recsys_core.artifacts import LabelledData, Learned, NextDay, Rows, Tail
from recsys_core.checkpoint import files
from recsys_core.config import RankingConfig, continuing
from recsys_core.datasets.base import day_number
from recsys_core.features import Config as Features
from recsys_core.features import Engine
from recsys_core.gate import Values
from recsys_core.progress import silent
from recsys_core.ranking import opened, train
from recsys_core.sections.optim import DenseConfig


def test_a_cold_start_learns_from_its_window_and_is_measured_on_the_next_day(source, tmp_path):
    line = Line(source, tmp_path, window_days=2)
    data = line.prepare(THIRD)
    assert rows_of(data, "train") == all_rows(SECOND, THIRD)
    assert rows_of(data, "test") == all_rows(FOURTH)
    assert data.learned == Learned(first_day=SECOND, last_day=THIRD)
    assert data.day == THIRD
    # Rows stay where they are.
    assert data.folders("train") == (source / f"ds={SECOND}", source / f"ds={THIRD}")
    labels = table_of(FOURTH)["label"].to_pylist()
    assert data.splits[1].num_positives == sum(labels)


def test_a_warm_start_learns_from_the_days_since_its_base_and_keeps_the_rows_of_ids(source, tmp_path):
    line = Line(source, tmp_path, window_days=2)
    base = line.prepare(SECOND)
    data = line.prepare(FOURTH, base)
    assert rows_of(data, "train") == all_rows(THIRD, FOURTH)
    assert rows_of(data, "test") == all_rows(FIFTH)
    assert data.learned == Learned(first_day=FIRST, last_day=FOURTH)
    before, now = Engine.load(base.engine), Engine.load(data.engine)
    known = table_of(SECOND).slice(0, 20)
    assert np.array_equal(
        before.transform(known, "query").sparse["user"].values, now.transform(known, "query").sparse["user"].values
    )
    assert now.report["user"]["known"] > before.report["user"]["known"]


@pytest.mark.parametrize("holdout", [NextDay(), Tail(hours=6), Rows(share=0.4, by="user")])
def test_absorbing_learns_from_what_was_measured_and_the_next_run_from_the_rest(source, tmp_path, holdout):
    line = Line(source, tmp_path, holdout, window_days=2)
    log = line.ingest(SECOND)
    measured = line.prepare(SECOND, log=log)
    absorbed = line.prepare(SECOND, measured, log, absorbs=True)
    assert rows_of(absorbed, "test") == rows_of(measured, "test")
    assert set(rows_of(absorbed, "train")) >= set(rows_of(measured, "test"))
    last = THIRD if holdout == NextDay() else SECOND
    assert absorbed.learned == Learned(first_day=FIRST, last_day=last)
    later = line.prepare(FOURTH, absorbed)
    learned = [row for data in (measured, absorbed, later) for row in rows_of(data, "train")]
    held_out = set(rows_of(later, "test")) if holdout != NextDay() else set()
    if isinstance(holdout, Rows):
        held_out |= set(all_rows(THIRD)) - set(learned)  # the same users, of whom nothing was learned on that day
        assert 0 < len(held_out) < 2 * ROWS
    assert sorted([*learned, *held_out]) == all_rows(FIRST, SECOND, THIRD, FOURTH)
    assert Engine.load(later.engine).report["user"]["known"] > Engine.load(measured.engine).report["user"]["known"]


def test_a_training_continues_and_says_what_it_has_learned_from(source, tmp_path):
    line = Line(source, tmp_path, window_days=2)
    first = line.prepare(SECOND)
    base = train.run(train_request(first, tmp_path / "first"), silent)
    assert base.learned == first.learned
    second = line.prepare(THIRD, first)
    again = train.run(train_request(second, tmp_path / "second", base), silent)
    assert again.learned == Learned(first_day=FIRST, last_day=THIRD)
    assert again.warm_started_from == base.digest
    assert again.num_rows == ROWS
    assert again.num_steps == 3


def test_without_new_rows_the_state_is_the_bases(source, tmp_path):
    line = Line(source, tmp_path, window_days=2)
    first = line.prepare(SECOND)
    base = train.run(train_request(first, tmp_path / "first"), silent)
    # As if the day after had been absorbed.
    absorbed = first.model_copy(update={"learned": Learned(first_day=FIRST, last_day=THIRD)})
    data = line.prepare(THIRD, absorbed)
    assert data.num_rows == 0
    assert rows_of(data, "test") == all_rows(FOURTH)
    assert data.learned == absorbed.learned
    assert data.engine_digest == first.engine_digest
    made = train.run(train_request(data, tmp_path / "second", base, drop_remainder=True), silent)
    assert (made.num_rows, made.num_steps, made.loss, made.learned) == (0, 0, base.loss, absorbed.learned)
    assert list(files.diff(base.state, made.state)) == []
    request = train_request(data, tmp_path / "third", base).model_copy(
        update={"model": MODEL.model_copy(update={"top_hidden": (9,)})}
    )
    with pytest.raises(
        ValueError, match=r"weight head\.top\S+: .*: there are no new rows to train what has changed with"
    ):
        train.run(request, silent)


def test_the_newest_hours_are_measured_on_and_learned_from_by_the_next_run(source, tmp_path):
    line = Line(source, tmp_path, Tail(hours=6), window_days=2)
    first = line.prepare(SECOND)
    cut = (day_number(SECOND) + 1) * 86_400 - 6 * 3_600
    late = pc.greater_equal(table_of(SECOND)["at"], cut)
    tail = table_of(SECOND).filter(late)["row"].to_pylist()
    assert 0 < len(tail) < ROWS
    assert rows_of(first, "test") == tail
    assert rows_of(first, "train") == [row for row in all_rows(FIRST, SECOND) if row not in tail]
    labels = table_of(SECOND).filter(late)["label"].to_pylist()
    assert [split.num_positives for split in first.splits] == [
        sum(table_of(FIRST)["label"].to_pylist() + table_of(SECOND)["label"].to_pylist()) - sum(labels),
        sum(labels),
    ]
    # Whole days stay where they are, of divided ones the rows are in the artifact, which may be moved.
    assert first.folders("train") == (source / f"ds={FIRST}", first.path / f"rows/train/ds={SECOND}")
    first.path.rename(tmp_path / "moved")
    moved = LabelledData.load(tmp_path / "moved")
    assert rows_of(moved, "test") == tail
    second = line.prepare(THIRD, moved)
    assert rows_of(second, "train")[: len(tail)] == tail
    assert sorted(rows_of(second, "train") + rows_of(second, "test")) == sorted(tail + all_rows(THIRD))


def test_keys_are_measured_on_every_day_and_learned_from_on_none(source, tmp_path):
    line = Line(source, tmp_path, Rows(share=0.3, by="user"), window_days=2)
    first = line.prepare(SECOND)
    second = line.prepare(THIRD, first)
    users = {}
    for name, data, split in (("before", first, "train"), ("a", first, "test"), ("b", second, "test")):
        users[name] = set(readers.read_all(opened(data, split), ["user"])["user"].to_pylist())
    users["after"] = set(readers.read_all(opened(second, "train"), ["user"])["user"].to_pylist())
    assert not (users["a"] | users["b"]) & (users["before"] | users["after"])
    assert sorted(rows_of(second, "train") + rows_of(second, "test")) == all_rows(THIRD)
    assert second.learned == Learned(
        first_day=FIRST, last_day=THIRD, withheld=line.holdout, withheld_since=first.learned.withheld_since
    )


def test_a_slice_by_a_column_that_is_not_there_is_refused_before_anything_is_trained(source, tmp_path):
    line = Line(source, tmp_path)
    assert line.prepare(FIRST, sliced_by={"old": Values("age", "number")}).num_rows == ROWS
    with pytest.raises(
        ValueError, match=r"no column 'city', which gate\.slices\.oslo\.column names \(there are: row, la"
    ):
        line.prepare(SECOND, sliced_by={"oslo": Values("city", "text")})
    with pytest.raises(
        ValueError, match=r"gate\.slices\.old\.value: a text, and the column 'age' is .*; give a value of"
    ):
        line.prepare(SECOND, sliced_by={"old": Values("age", "text")})


def test_a_base_whose_features_are_others_needs_rows_to_fit_them_on(source, tmp_path):
    line = Line(source, tmp_path)
    first = line.prepare(SECOND)
    absorbed = first.model_copy(update={"learned": Learned(first_day=FIRST, last_day=THIRD)})
    other = FEATURES.model_dump(mode="json")
    other["query"].append({"kind": "raw", "name": "row"})
    line.features = Features.model_validate(other)
    with pytest.raises(ValueError, match="the release that is continued has other features, and has learned from all"):
        line.prepare(THIRD, absorbed)
    assert line.prepare(FOURTH, absorbed).num_rows == ROWS


def test_what_a_config_changes_of_its_base_is_taken_over_or_refused(source, tmp_path):
    line = Line(source, tmp_path, window_days=2)
    first = line.prepare(SECOND)
    base = train.run(train_request(first, tmp_path / "first"), silent)
    other = FEATURES.model_dump(mode="json")
    other["query"].append({"kind": "raw", "name": "hour", "column": "at"})
    line.features = Features.model_validate(other)
    config = RankingConfig.model_validate(
        {
            "name": "daily",
            "data": line.data,
            "ranking": {},
            "features": other,
            "model": MODEL,
            "train": {"sparse_optimizer": {"kind": "adagrad"}, "sharding": {"device": "cpu"}},
        }
    )
    found = continuing.changes(config, base, Engine.load(first.engine))
    assert "feature hour: new" in found
    same = config.model_copy(update={"features": FEATURES})
    assert continuing.changes(same, base, Engine.load(first.engine)) == []
    # Seen in the record, without building a model; a record of before says nothing.
    wider = same.model_copy(update={"model": MODEL.model_copy(update={"top_hidden": (9,)})})
    sgd = same.model_copy(update={"train": same.train.model_copy(update={"dense_optimizer": DenseConfig(kind="sgd")})})
    alike = [continuing.is_alike(one, base, Engine.load(first.engine)) for one in (same, config, wider, sgd)]
    assert alike == [True, False, False, False]
    assert not continuing.is_alike(same, base.model_copy(update={"architecture": None}), Engine.load(first.engine))
    second = line.prepare(THIRD, first)
    made = train.run(train_request(second, tmp_path / "second", base), silent)
    assert made.warm_started_from == base.digest
    assert "feature hour: new" in made.carried.read_text()
    with pytest.raises(ValueError, match=r"train\.on_change: refuse, and feature hour: new; .*; start the run"):
        train.run(train_request(second, tmp_path / "third", base, on_change="refuse"), silent)
