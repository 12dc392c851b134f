"""A ranking model continues yesterday's release: two ranks take over and learn what one does, however it was made."""

import datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from recsys_core.artifacts import Checkpoint, NextDay
from recsys_core.checkpoint import files, storage
from recsys_core.datasets.labelled import labelled_days
from recsys_core.features import Config as Features
from recsys_core.features import Engine
from recsys_core.losses import binary_cross_entropy
from recsys_core.models import dlrm
from recsys_core.progress import silent
from recsys_core.ranking import Config, ingest, train
from recsys_core.ranking.prepare import days as prepare
from recsys_core.training.config import Config as Train

FIRST, SECOND, THIRD = (datetime.date(2024, 1, number) for number in (1, 2, 3))
ROWS = 401
COMMON = {"config_hash": "c" * 32, "code_version": "tests"}
RANKING = Config()
FEATURES = Features.model_validate(
    {
        # Tables of fewer than 128 columns are never split by columns; by rows any are.
        "embedding_dim": 8,
        "query": [
            {"kind": "id", "name": "user", "dynamic": {"max_rows": 64, "block_rows": 8}},
            {"kind": "raw", "name": "age"},
        ],
        "item": [{"kind": "id", "name": "item", "num_embeddings": 64}],
    }
)
_STILL = {"kind": "sgd", "learning_rate": 1e-30}


def _table(day: datetime.date) -> pa.Table:
    """Rows of a day: half of its users and items are new, some of yesterday's have gone."""
    rng = np.random.default_rng(day.day)
    user, item = (rng.integers(0, 24, ROWS) + 12 * day.day for _ in range(2))
    label = ((user % 2 == item % 2) ^ (rng.random(ROWS) < 0.2)).astype(np.int8)
    return pa.table({"label": label, "user": [f"u{n}" for n in user], "item": item, "age": rng.random(ROWS)})


@pytest.fixture(scope="module")
def days(tmp_path_factory):
    """Two days' data, the second of which continues the first's features and learns from the second day alone."""
    root = tmp_path_factory.mktemp("days")
    for day in (FIRST, SECOND, THIRD):
        (root / "log" / f"ds={day}").mkdir(parents=True)
        pq.write_table(_table(day), root / "log" / f"ds={day}" / "part-0.parquet", row_group_size=150)
    source = labelled_days.Config(source=str(root / "log"))
    made, before = [], {}
    for day in (FIRST, SECOND):
        learned = before.get("base_learned")
        needed = ingest.needed(
            source, day, held_out=NextDay(), base_learned=learned, window_days=None, reference_days=0
        )
        place = {"day": day, "import_root": root / "imports"} | COMMON
        asked = ingest.Request(
            output=root / str(day) / "ingest", config=RANKING, data=source, **needed._asdict(), **place
        )
        request = prepare.Request(
            output=root / str(day) / "prepare",
            config=prepare.Config(),
            ranking=RANKING,
            features=FEATURES,
            log=ingest.run(asked, silent),
            day=day,
            holdout=NextDay(),
            time_column=None,
            **before,
            **COMMON,
        )
        data = prepare.run(request, silent)
        before = {
            "base_learned": data.learned,
            "base_engine": data.engine,
            "base_engine_digest": data.engine_digest,
        }
        made.append(data)
    return made


@pytest.fixture(scope="module")
def train_on(ranks, days, tmp_path_factory):
    """Train the first day, or with a `base` the second, on some ranks."""

    def run(num_ranks: int, sharding: str, base: Checkpoint | None = None, **config) -> Checkpoint:
        section = {
            # Every step is on all rows, so that the ranks together see what one sees.
            "batch_size": ROWS // num_ranks + 1,
            "shuffle_rows": 0,
            "num_epochs": 10,
            "num_warm_epochs": 10,
            # Both have a state, and neither makes signs of gradients that are roundings.
            "sparse_optimizer": {"kind": "adagrad", "learning_rate": 0.1, "initial_accumulator": 0.1},
            "dense_optimizer": {"kind": "sgd", "learning_rate": 0.1, "momentum": 0.9},
            "sharding": {"sharding_types": [sharding], "device": "cpu"},
        }
        request = train.Request(
            output=tmp_path_factory.mktemp("trained") / "train",
            config=Train.model_validate(section | config),
            ranking=RANKING,
            model=dlrm.Config(bottom_hidden=(8,), top_hidden=(8,)),
            loss=binary_cross_entropy.Config(),
            num_ranks=num_ranks,
            seed=3,
            day=FIRST if base is None else SECOND,
            data=days[base is not None],
            base=base,
            base_engine=None if base is None else days[0].engine,
            **COMMON,
        )
        codes, log = ranks.stage("rank_train", request, num_ranks)
        assert not any(codes), log
        return Checkpoint.load(request.output)

    return run


@pytest.fixture(scope="module")
def yesterday(train_on):
    """What one rank has learned, and two have."""
    return {1: train_on(1, "table_wise"), 2: train_on(2, "row_wise")}


@pytest.fixture(scope="module")
def alone(train_on, yesterday):
    return train_on(1, "table_wise", yesterday[1])


@pytest.mark.parametrize(("base", "sharding"), [(1, "table_wise"), (1, "row_wise"), (2, "row_wise")])
def test_two_ranks_continue_as_one_does(train_on, yesterday, alone, same_weights, base, sharding):
    both = train_on(2, sharding, yesterday[base])
    assert both.warm_started_from == yesterday[base].digest
    assert both.loss == pytest.approx(alone.loss, rel=1e-5)
    same_weights(alone, both, 1e-5)


def test_what_two_ranks_have_learned_one_continues(train_on, yesterday, alone, same_weights):
    same_weights(alone, train_on(1, "table_wise", yesterday[2]), 1e-5)


def test_the_optimizers_go_on_too(train_on, yesterday, alone):
    anew = train_on(2, "row_wise", yesterday[1], restore_optimizer=False)
    assert anew.loss != pytest.approx(alone.loss, rel=1e-4)


def _read(made: Checkpoint, table: str) -> torch.Tensor:
    held = files.empty_state(made.state, "model")
    storage.load(made.state, {"model": held}, alone=True)
    (name,) = (name for name in held if name.split(".")[-2:] == [table, "weight"])
    return held[name]


def test_known_ids_keep_their_rows_and_new_ones_get_rows_as_on_one_rank(train_on, yesterday, days):
    first, second = (Engine.load(data.engine) for data in days)
    known, later = (np.unique(_table(day)["item"].to_numpy()) for day in (FIRST, SECOND))
    before, after = (
        engine.transform(pa.table({"item": known}), "item").sparse["item"].values for engine in (first, second)
    )
    assert np.array_equal(before, after)
    new = second.transform(pa.table({"item": np.setdiff1d(later, known)}), "item").sparse["item"].values
    assert len(new) > 5
    assert new.min() > before.max()
    still = {"sparse_optimizer": _STILL, "dense_optimizer": _STILL, "restore_optimizer": False, "num_warm_epochs": 1}
    one, two = (train_on(num_ranks, "row_wise", yesterday[1], **still) for num_ranks in (1, 2))
    kept = {"item": before.tolist(), "user": []}
    users = [{int(user): int(row) for row, user in engine.owners()["user"]} for engine in (first, second)]
    kept["user"] = [row for user, row in users[0].items() if users[1].get(user) == row]
    assert 0 < len(kept["user"]) < len(users[1])
    for table, rows in kept.items():
        trained, whole, both = (_read(made, table) for made in (yesterday[1], one, two))
        assert torch.allclose(both[rows], trained[rows], rtol=0, atol=1e-7)
        assert torch.allclose(both, whole, rtol=0, atol=1e-7)
