"""Whole sequences on two ranks: they learn what one does, whose items and lengths are others on each."""

import datetime

import numpy as np
import pyarrow as pa
import pytest

from recsys_core import artifacts, features
from recsys_core.artifacts import Checkpoint, TrainingData
from recsys_core.losses import full_cross_entropy, gbce
from recsys_core.models import gru4rec, hstu, sasrec
from recsys_core.progress import silent
from recsys_core.retrieval import train
from recsys_core.samplers import weighted
from recsys_core.training.config import Config as TrainingConfig
from recsys_core.writers.parquet import Writer

DAY = datetime.date(2024, 1, 15)
NUM_ROWS, NUM_ITEMS = 60, 120
COMMON = {"config_hash": "c" * 32, "code_version": "tests"}
FEATURES = {
    "embedding_dim": 8,
    "query": [
        {"kind": "id", "name": "segment", "num_embeddings": 16},
        {"kind": "sequence", "name": "history", "column": "history__item_id", "table": "item_id"}
        | {"pooling": "none", "max_length": 9},
    ],
    "item": [{"kind": "id", "name": "item_id", "num_embeddings": 200}],
}


class _Inputs(artifacts.Request):
    seed: int


def _write(directory, table):
    with Writer(directory, 0, table.schema, rows_per_group=16) as writer:
        writer.write(table)


@pytest.fixture(scope="module")
def sequences(tmp_path_factory) -> TrainingData:
    """60 rows of up to nine entries; a first target has nothing before it."""
    rng, output = np.random.default_rng(3), tmp_path_factory.mktemp("sequences") / "preprocess"
    lengths = rng.integers(0, 10, NUM_ROWS)
    examples = pa.table(
        {
            "history__item_id": [rng.integers(0, NUM_ITEMS, length).tolist() for length in lengths],
            "targets": [rng.integers(0, NUM_ITEMS, length + 1).tolist() for length in lengths],
            "known": pa.array([list(range(length + 1)) for length in lengths], pa.list_(pa.int32())),
            "segment": pa.array([f"s{row % 5}" for row in range(NUM_ROWS)]),
        }
    )
    weights = {"sampling_weight": np.ones(NUM_ITEMS), "num_interactions": np.ones(NUM_ITEMS, np.int64)}
    items = pa.table({"item_id": np.arange(NUM_ITEMS), **weights})
    engine = features.Engine.build(features.Config.model_validate(FEATURES))
    engine.fit([examples], [items])
    with artifacts.pending(output) as aside:
        _write(aside.path / "examples", examples)
        _write(aside.path / "items", items)
        engine.save(aside.path / "features")
        return aside.commit(
            TrainingData,
            _Inputs(output=output, seed=3, **COMMON),
            num_rows=NUM_ROWS,
            day=DAY,
            first_day=DAY,
            ground_truth_day=DAY + datetime.timedelta(days=1),
            num_items=NUM_ITEMS,
            num_queries=0,
            num_ground_truth=0,
            engine_digest=engine.digest,
            num_targets=int(lengths.sum()) + NUM_ROWS,
            most_targets=int(lengths.max()) + 1,
        )


def _request(data, folder, num_ranks, kind, loss, sampler=None, sharding_type="table_wise"):
    by_adam = {"kind": "adam", "learning_rate": 0.01}
    config = {
        "batch_size": NUM_ROWS // num_ranks,
        "num_epochs": 4,
        "shuffle_rows": 0,
        "dense_optimizer": by_adam,
        "sparse_optimizer": by_adam,
        "sharding": {"sharding_types": [sharding_type]},
    }
    return train.Request(
        output=folder / f"train-{num_ranks}",
        **COMMON,
        config=TrainingConfig.model_validate(config),
        model=kind.Config(output_dim=8, max_length=9, dropout=0.0),
        sampler=sampler,
        loss=loss,
        num_ranks=num_ranks,
        seed=11,
        data=data,
        base=None,
    )


@pytest.mark.parametrize(
    ("kind", "sharding_type"), [(sasrec, "row_wise"), (hstu, "table_wise"), (gru4rec, "table_wise")]
)
def test_two_ranks_learn_what_one_does(sequences, ranks, same_weights, tmp_path, kind, sharding_type):
    loss = full_cross_entropy.Config()
    alone = train.run(_request(sequences, tmp_path, 1, kind, loss, sharding_type=sharding_type), silent)
    asked = _request(sequences, tmp_path, 2, kind, loss, sharding_type=sharding_type)
    codes, log = ranks.stage("train", asked, 2)
    assert not any(codes), log
    both = Checkpoint.load(asked.output)
    assert both.loss == pytest.approx(alone.loss, rel=1e-4)
    # Adam makes a small difference of a gradient close to 0 a step of its own.
    same_weights(alone, both, 2e-3)


def test_ranks_whose_targets_are_of_other_numbers_of_items_keep_step(sequences, ranks, tmp_path):
    sampler = weighted.Config(num_negatives=16)
    asked = _request(sequences, tmp_path, 2, sasrec, gbce.Config(), sampler, "row_wise")
    codes, log = ranks.stage("train", asked, 2)
    assert not any(codes), log
    assert Checkpoint.load(asked.output).num_steps == 4
