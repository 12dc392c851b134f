"""Daily rows from their partitions to a training that continues another: what is read, learned from and measured."""

import datetime
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from recsys_core import contract, readers
from recsys_core.artifacts import LabelledData, Learned, NextDay, Rows, Tail
from recsys_core.checkpoint import files
from recsys_core.config import RankingConfig, continuing
from recsys_core.contract import tables
from recsys_core.datasets.base import day_number
from recsys_core.datasets.labelled import labelled_days
from recsys_core.features import Config as Features
from recsys_core.features import Engine
from recsys_core.gate import Values
from recsys_core.losses import binary_cross_entropy
from recsys_core.models import dlrm
from recsys_core.progress import silent
from recsys_core.ranking import Config, ingest, opened, train
from recsys_core.ranking.prepare import days as prepare
from recsys_core.sections.optim import DenseConfig
from recsys_core.training.config import Config as Train

COMMON = {"config_hash": "c" * 32, "code_version": "tests"}
RANKING = Config()
MODEL = dlrm.Config(bottom_hidden=(4,), top_hidden=(8,), concat_pooled=True)
DAYS = [datetime.date(2024, 1, number) for number in range(1, 7)]
FIRST, SECOND, THIRD, FOURTH, FIFTH, SIXTH = DAYS
ROWS = 120


def _table(day, num_rows=ROWS):
    """Rows of a day, each with a number of its own, and ids that move on from day to day."""
    rng = np.random.default_rng(day.day)
    user, item = rng.integers(0, 8, num_rows) + day.day, rng.integers(0, 8, num_rows) + day.day
    return pa.table(
        {
            "row": np.arange(num_rows) + 1_000 * day.day,
            "label": ((user % 2 == item % 2) ^ (rng.random(num_rows) < 0.2)).astype(np.int8),
            "user": [f"u{n}" for n in user],
            "item": item,
            "age": rng.random(num_rows),
            "at": np.sort(rng.integers(0, 86_400, num_rows)) + day_number(day) * 86_400,
        }
    )


def write_day(root, day, table=None, **parquet):
    (root / f"ds={day}").mkdir(parents=True, exist_ok=True)
    pq.write_table(_table(day) if table is None else table, root / f"ds={day}" / "part-0.parquet", **parquet)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    root = tmp_path_factory.mktemp("days")
    for day in DAYS:
        write_day(root, day, row_group_size=50)
    return root


class Line:
    """The first stages of a run, with what it continues."""

    def __init__(self, source, root, holdout=None, window_days=None, **data):
        self.data = labelled_days.Config(source=str(source), **{"time_column": "at"} | data)
        self.root, self.holdout, self.window_days = root, holdout or NextDay(), window_days
        self.features, self.events = FEATURES, []

    def ingest(self, day, base=None, reference_days=0):
        learned = base.learned if base else None
        needed = ingest.needed(
            self.data,
            day,
            held_out=self.holdout,
            base_learned=learned,
            window_days=self.window_days,
            reference_days=reference_days,
        )
        self.request = ingest.Request(
            output=self.root / f"{day}" / "ingest",
            config=RANKING,
            data=self.data,
            day=day,
            **needed._asdict(),
            import_root=self.root / "imports",
            **COMMON,
        )
        return ingest.run(self.request, self.events.append)

    def prepare(self, day, base=None, log=None, *, absorbs=False, **fields):
        engine = base and Engine.load(base.engine)
        request = prepare.Request(
            output=self.root / f"{day}" / ("absorb_prepare" if absorbs else "prepare"),
            config=prepare.Config(window_days=self.window_days),
            ranking=RANKING,
            features=self.features,
            log=log or self.ingest(day, base),
            day=day,
            holdout=self.holdout,
            time_column=self.data.time_column,
            base_learned=base.learned if base else None,
            base_engine=base.engine if base else None,
            base_engine_digest=engine.digest if base else None,
            absorbs=absorbs,
            **fields,
            **COMMON,
        )
        return prepare.run(request, self.events.append)


FEATURES = Features.model_validate(
    {
        "embedding_dim": 4,
        "query": [{"kind": "id", "name": "user", "num_embeddings": 32}, {"kind": "raw", "name": "age"}],
        "item": [{"kind": "id", "name": "item", "num_embeddings": 32}],
    }
)


def _rows(data, split):
    return readers.read_all(opened(data, split), ["row"])["row"].to_pylist()


def _all(*days):
    return [row for day in days for row in _table(day)["row"].to_pylist()]


def train_request(data, output, base=None, **changes):
    config = {
        "batch_size": 50,
        "num_epochs": 1,
        "sparse_optimizer": {"kind": "adagrad", "learning_rate": 0.3},
        "dense_optimizer": {"learning_rate": 0.03},
        "sharding": {"device": "cpu"},
    }
    return train.Request(
        output=output,
        config=Train.model_validate(config | changes),
        ranking=RANKING,
        model=MODEL,
        loss=binary_cross_entropy.Config(),
        num_ranks=1,
        seed=1,
        day=data.day,
        data=data,
        base=base,
        **COMMON,
    )


def test_a_cold_start_learns_from_its_window_and_is_measured_on_the_next_day(source, tmp_path):
    line = Line(source, tmp_path, window_days=2)
    data = line.prepare(THIRD)
    assert _rows(data, "train") == _all(SECOND, THIRD)
    assert _rows(data, "test") == _all(FOURTH)
    assert data.learned == Learned(first_day=SECOND, last_day=THIRD)
    assert data.day == THIRD
    # Rows stay where they are.
    assert data.folders("train") == (source / f"ds={SECOND}", source / f"ds={THIRD}")
    labels = _table(FOURTH)["label"].to_pylist()
    assert data.splits[1].num_positives == sum(labels)


def test_a_warm_start_learns_from_the_days_since_its_base_and_keeps_the_rows_of_ids(source, tmp_path):
    line = Line(source, tmp_path, window_days=2)
    base = line.prepare(SECOND)
    data = line.prepare(FOURTH, base)
    assert _rows(data, "train") == _all(THIRD, FOURTH)
    assert _rows(data, "test") == _all(FIFTH)
    assert data.learned == Learned(first_day=FIRST, last_day=FOURTH)
    before, now = Engine.load(base.engine), Engine.load(data.engine)
    known = _table(SECOND).slice(0, 20)
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
    assert _rows(absorbed, "test") == _rows(measured, "test")
    assert set(_rows(absorbed, "train")) >= set(_rows(measured, "test"))
    last = THIRD if holdout == NextDay() else SECOND
    assert absorbed.learned == Learned(first_day=FIRST, last_day=last)
    later = line.prepare(FOURTH, absorbed)
    learned = [row for data in (measured, absorbed, later) for row in _rows(data, "train")]
    held_out = set(_rows(later, "test")) if holdout != NextDay() else set()
    if isinstance(holdout, Rows):
        held_out |= set(_all(THIRD)) - set(learned)  # the same users, of whom nothing was learned on that day
        assert 0 < len(held_out) < 2 * ROWS
    assert sorted([*learned, *held_out]) == _all(FIRST, SECOND, THIRD, FOURTH)
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
    assert _rows(data, "test") == _all(FOURTH)
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
    late = pc.greater_equal(_table(SECOND)["at"], cut)
    tail = _table(SECOND).filter(late)["row"].to_pylist()
    assert 0 < len(tail) < ROWS
    assert _rows(first, "test") == tail
    assert _rows(first, "train") == [row for row in _all(FIRST, SECOND) if row not in tail]
    labels = _table(SECOND).filter(late)["label"].to_pylist()
    assert [split.num_positives for split in first.splits] == [
        sum(_table(FIRST)["label"].to_pylist() + _table(SECOND)["label"].to_pylist()) - sum(labels),
        sum(labels),
    ]
    # Whole days stay where they are, of divided ones the rows are in the artifact, which may be moved.
    assert first.folders("train") == (source / f"ds={FIRST}", first.path / f"rows/train/ds={SECOND}")
    first.path.rename(tmp_path / "moved")
    moved = LabelledData.load(tmp_path / "moved")
    assert _rows(moved, "test") == tail
    second = line.prepare(THIRD, moved)
    assert _rows(second, "train")[: len(tail)] == tail
    assert sorted(_rows(second, "train") + _rows(second, "test")) == sorted(tail + _all(THIRD))


def test_keys_are_measured_on_every_day_and_learned_from_on_none(source, tmp_path):
    line = Line(source, tmp_path, Rows(share=0.3, by="user"), window_days=2)
    first = line.prepare(SECOND)
    second = line.prepare(THIRD, first)
    users = {}
    for name, data, split in (("before", first, "train"), ("a", first, "test"), ("b", second, "test")):
        users[name] = set(readers.read_all(opened(data, split), ["user"])["user"].to_pylist())
    users["after"] = set(readers.read_all(opened(second, "train"), ["user"])["user"].to_pylist())
    assert not (users["a"] | users["b"]) & (users["before"] | users["after"])
    assert sorted(_rows(second, "train") + _rows(second, "test")) == _all(THIRD)
    assert second.learned == Learned(
        first_day=FIRST, last_day=THIRD, withheld=line.holdout, withheld_since=first.learned.withheld_since
    )


@pytest.mark.parametrize(
    ("holdout", "table", "message"),
    [
        (
            Tail(hours=0.001),
            lambda rows: rows,
            "of the 120 rows of 2024-01-02 none lies in its newest 0.001 hours, on which the run is measured; raise",
        ),
        (
            Tail(hours=6),
            lambda rows: rows.slice(110, 10),
            "all 10 rows of 2024-01-02 are held out, so that none is left to learn from; lower holdout.hours",
        ),
        (
            Rows(share=0.000001, by="user"),
            lambda rows: rows,
            "none is of the share of 'user' on which the run is measured; raise holdout.share",
        ),
        (Rows(share=0.5, by="usr"), lambda rows: rows, "part-0.parquet: no column 'usr', which holdout.by names"),
        (
            NextDay(),
            lambda rows: rows.set_column(1, "label", pa.array([0] * ROWS)),
            "0 of the 120 rows up to 2024-01-02 are positive; a model learns from rows of both labels",
        ),
    ],
)
def test_a_holdout_that_leaves_nothing_is_refused(tmp_path, holdout, table, message):
    write_day(tmp_path / "log", SECOND, table(_table(SECOND)))
    write_day(tmp_path / "log", THIRD)
    with pytest.raises(ValueError, match=r".") as refused:
        Line(tmp_path / "log", tmp_path, holdout).prepare(SECOND)
    assert message in str(refused.value)
    assert not (tmp_path / f"{SECOND}" / "prepare").exists()


def test_labels_of_one_kind_are_warned_of_where_they_can_be_lived_with(tmp_path):
    """Measured, they define no AUC; learned from, they stand beside what the base knows."""
    for day in (FIRST, SECOND, THIRD):
        rows = _table(day)
        write_day(tmp_path / "log", day, rows if day == FIRST else rows.set_column(1, "label", pa.array([0] * ROWS)))
    line = Line(tmp_path / "log", tmp_path)
    first = line.prepare(FIRST)
    assert first.splits[1].num_positives == 0
    message = "warning: 0 of the 120 rows that are measured on are positive; no AUC is defined over them"
    assert message in [event.message for event in line.events]
    line.prepare(SECOND, first)
    assert "warning: 0 of the 120 rows up to 2024-01-02 are positive" in "".join(
        event.message for event in line.events if event.message
    )


def _without(name):
    return lambda rows: rows.drop_columns(name)


def _with(name, values):
    return lambda rows: rows.set_column(rows.column_names.index(name), name, pa.array(values))


@pytest.mark.parametrize(
    ("day", "table", "message"),
    [
        (SECOND, _without("label"), r"ds=2024-01-02/part-0\.parquet: no column 'label', which ranking\.label names"),
        (SECOND, _without("at"), r"ds=2024-01-02/part-0\.parquet: no column 'at', which data\.time_column names"),
        (
            THIRD,
            _with("label", [0] * 100 + [2] * 20),
            r"ds=2024-01-03/part-0\.parquet: column 'label' holds 2 in row 100 of rows 0 to 120; a label is 0 or 1",
        ),
        (
            SECOND,
            _with("label", [None] + [0] * 119),
            r"column 'label' holds None in row 0 of rows 0 to 120; a label is",
        ),
        (
            SECOND,
            _with("at", [0] * 120),
            r"part-0\.parquet: row 0: column 'at' is 1970-01-01 00:00:00 in UTC, which is",
        ),
        (
            SECOND,
            lambda rows: rows.slice(0, 0),
            r"2024-01-02 \(the day itself\) has no rows; write its partition again",
        ),
        (
            THIRD,
            lambda rows: rows.slice(0, 0),
            r"2024-01-03 \(on which the run of 2024-01-02 is measured\) has no rows",
        ),
    ],
)
def test_days_that_are_not_what_they_should_be_are_refused(tmp_path, day, table, message):
    for at in (FIRST, SECOND, THIRD):
        write_day(tmp_path / "log", at, table(_table(at)) if at == day else None)
    with pytest.raises(ValueError, match=message):
        Line(tmp_path / "log", tmp_path).ingest(SECOND)
    assert not (tmp_path / f"{SECOND}" / "ingest").exists()


def test_days_are_looked_for_by_name(source, tmp_path):
    line = Line(source, tmp_path)
    assert ingest.last_day(line.data, NextDay()) == FIFTH
    assert ingest.last_day(line.data, Tail(hours=1)) == SIXTH
    with pytest.raises(
        ValueError, match=r"has no partition of 2024-01-07 \(on which the run of 2024-01-06 is measured"
    ):
        line.ingest(SIXTH)
    with pytest.raises(
        ValueError, match=r"no partition of 2023-12-31 \(the day itself\), but the 6 days from 2024-01-0"
    ):
        line.ingest(datetime.date(2023, 12, 31))
    (tmp_path / "log" / "ds=2024-1-5").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"'2024-1-5' stands in the place of a day; write days as YYYY-MM-DD or"):
        Line(tmp_path / "log", tmp_path).ingest(FIRST)
    (tmp_path / "log" / "ds=2024-1-5").rename(tmp_path / "log" / "notes")
    with pytest.raises(ValueError, match=r"notes: not a day's partition; name it ds=YYYY-MM-DD or move it out"):
        Line(tmp_path / "log", tmp_path).ingest(FIRST)
    with pytest.raises(ValueError, match="gone: no folder; it holds a folder ds=YYYY-MM-DD for each day"):
        Line(tmp_path / "gone", tmp_path).ingest(FIRST)


def test_a_day_is_looked_at_once_and_again_when_it_has_changed(tmp_path):
    for day in (FIRST, SECOND, THIRD):
        write_day(tmp_path / "log", day)
    line = Line(tmp_path / "log", tmp_path)
    before = line.ingest(SECOND)
    (mark,) = tmp_path.glob(f"imports/*/.checked/*/{FIRST}.json")
    looked_at = mark.stat().st_mtime_ns
    assert line.ingest(SECOND).digest == before.digest
    assert mark.stat().st_mtime_ns == looked_at
    write_day(tmp_path / "log", FIRST, _table(FIRST, 50))
    after = line.ingest(SECOND)
    assert [day.num_rows for day in after.days] == [50, ROWS, ROWS]
    assert after.digest != before.digest
    write_day(tmp_path / "log", FIRST, _table(FIRST, 40))
    with pytest.raises(ValueError, match="log: a day that is needed has changed since this run began; run it again"):
        ingest.look(line.request, silent)
    write_day(tmp_path / "log", FIRST, _table(FIRST, 50))
    after = line.ingest(SECOND)
    mark.write_text("{")
    assert line.ingest(SECOND).digest == after.digest
    assert any("the day is looked at again" in (event.message or "") for event in line.events)


@pytest.mark.parametrize("kind", ["csv", "template", "compact"])
def test_days_that_are_not_read_in_place_are_copied_once(tmp_path, kind):
    root = tmp_path / "log"
    for day in (FIRST, SECOND, THIRD):
        folder = root / {"csv": f"ds={day}", "template": f"{day}", "compact": f"dt={day:%Y%m%d}"}[kind]
        folder.mkdir(parents=True)
        if kind == "csv":
            pacsv.write_csv(_table(day), folder / "part-0.csv")
        else:
            pq.write_table(_table(day), folder / "part-0.parquet")
    (root / ".tmp").mkdir()
    source = {"csv": root, "template": f"{root}/{{day}}", "compact": f"{root}/dt={{day}}/*.parquet"}[kind]
    line = Line(source, tmp_path)
    data = line.prepare(SECOND)
    assert _rows(data, "train") == _all(FIRST, SECOND)
    assert all((tmp_path / "imports") in folder.parents for folder in data.folders("train"))
    (copy,) = tmp_path.glob(f"imports/*/ds={FIRST}")
    # A copy that is gone is made again, for what refers to it too.
    shutil.rmtree(copy)
    ingest.look(line.request, silent)
    assert _rows(data, "train") == _all(FIRST, SECOND)
    if kind == "template":
        (root / "notes").mkdir()
        with pytest.raises(
            ValueError, match="'notes' stands in the place of a day; write days as YYYY-MM-DD or YYYYMM"
        ):
            line.ingest(SECOND)
    elif kind == "csv":
        line = Line(source, tmp_path, csv={"types": {"itm": "string"}})
        with pytest.raises(ValueError, match=r"data\.csv\.types: there is no column 'itm'; did you mean 'item'"):
            line.ingest(SECOND)


def test_keys_of_csv_are_refused_where_nothing_is_csv(source, tmp_path):
    with pytest.raises(ValueError, match=r"data\.csv: none of .* is CSV, so nothing reads this; leave it out"):
        Line(source, tmp_path, csv={"delimiter": ";"}).ingest(SECOND)


def test_days_of_which_a_column_is_another_are_refused(tmp_path):
    write_day(tmp_path / "log", FIRST)
    table = _table(SECOND)
    write_day(tmp_path / "log", SECOND, table.set_column(3, "item", table["item"].cast(pa.string())))
    write_day(tmp_path / "log", THIRD)
    with pytest.raises(
        ValueError, match=r"ds=2024-01-02/part-0\.parquet: its schema differs .*: item is string there and"
    ):
        Line(tmp_path / "log", tmp_path).prepare(SECOND)
    with pytest.raises(
        ValueError, match=r"what is held out: column 'item' is string, and int64 in .*; write both alike"
    ):
        Line(tmp_path / "log", tmp_path).prepare(FIRST)


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


def test_labelled_days_are_held_against_those_before(tmp_path):
    """The share of positives, and how the values of each column are distributed; ids of numbers count as names."""
    rng = np.random.default_rng(0)
    for day in DAYS:
        odd = day == FIFTH
        table = pa.table(
            {
                "label": rng.random(2_000) < (0.6 if odd else 0.2),
                "at": pa.array(np.full(2_000, day_number(day) * 86_400)),
                "item": rng.integers(0, 4, 2_000) * 1_000 if odd else rng.permutation(2_000) % 40,
                "age": rng.random(2_000) + (0.5 if odd else 0),
                "city": pa.array(["a", None if odd else "b"] * 1_000),
            }
        )
        write_day(tmp_path / "log", day, table)
    line = Line(tmp_path / "log", tmp_path)

    def check(day, first_day, **changes):
        request = {
            "output": tmp_path / "check",
            "config": contract.checks.Limits(),
            "agreed": None,
            "log": line.ingest(FIFTH),
            "labels": ("label",),
            "time_column": "at",
            "categories": ("item",),
            "first_day": first_day,
            "day": day,
            "memory": tmp_path / "memory",
        }
        return contract.run_labelled(contract.LabelledRequest(**request | changes, **COMMON), silent)

    assert check(FOURTH, FIRST).breaches == ()
    found = check(FIFTH, FIFTH)
    assert {(breach.check, breach.column) for breach in found.breaches} == {
        ("label_rate", "label"),
        ("drift", "label"),
        ("drift", "item"),
        ("drift", "age"),
        ("null_rate", "city"),
        ("drift", "city"),
    }
    (label,) = [breach for breach in found.breaches if breach.check == "label_rate"]
    assert label.message.startswith("2024-01-05 rows.label is 0.6")
    assert len(list((tmp_path / "memory").iterdir())) == 5
    shutil.rmtree(tmp_path / "log" / f"ds={FOURTH}")
    assert [(b.check, b.day) for b in check(FIFTH, FOURTH).breaches if b.day == FOURTH] == [("empty", FOURTH)]
    unknown = tables.Tables.model_validate({"tables": {"interactions": {}}})
    with pytest.raises(ValueError, match="contract: the log has no table 'interactions', only rows; rename it"):
        check(FIFTH, FIFTH, agreed=unknown)


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
