"""Daily rows from their partitions to a training that continues another: what is read, learned from and measured."""

import datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys_core import readers
from recsys_core.artifacts import Learned, NextDay
from recsys_core.checkpoint import files
from recsys_core.datasets.base import day_number
from recsys_core.datasets.labelled import labelled_days
from recsys_core.features import Config as Features
from recsys_core.features import Engine
from recsys_core.losses import binary_cross_entropy
from recsys_core.models import dlrm
from recsys_core.progress import silent
from recsys_core.ranking import Config, ingest, opened, train
from recsys_core.ranking.prepare import days as prepare
from recsys_core.training.config import Config as Train

COMMON = {"config_hash": "c" * 32, "code_version": "tests"}
RANKING = Config()
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
        self.events = []

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
        request = ingest.Request(
            output=self.root / f"{day}" / "ingest",
            config=RANKING,
            data=self.data,
            day=day,
            **needed._asdict(),
            import_root=self.root / "imports",
            **COMMON,
        )
        return ingest.run(request, self.events.append)

    def prepare(self, day, base=None):
        engine = base and Engine.load(base.engine)
        request = prepare.Request(
            output=self.root / f"{day}" / "prepare",
            config=prepare.Config(window_days=self.window_days),
            ranking=RANKING,
            features=FEATURES,
            log=self.ingest(day, base),
            day=day,
            holdout=self.holdout,
            time_column=self.data.time_column,
            base_learned=base.learned if base else None,
            base_engine=base.engine if base else None,
            base_engine_digest=engine.digest if base else None,
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
        model=dlrm.Config(bottom_hidden=(4,), top_hidden=(8,), concat_pooled=True),
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
