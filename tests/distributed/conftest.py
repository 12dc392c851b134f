"""One small day with planted structure, as preprocess would leave it, and requests of the stages that follow."""

import datetime
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from recsys_core import artifacts, features, train
from recsys_core.artifacts import Checkpoint, TrainingData
from recsys_core.losses import sampled_softmax
from recsys_core.models import two_tower
from recsys_core.progress import silent
from recsys_core.samplers import weighted
from recsys_core.writers.parquet import Writer

DAY = datetime.date(2024, 1, 15)
NUM_USERS, NUM_ITEMS, NUM_GROUPS = 300, 120, 6
COMMON = {"config_hash": "c" * 32, "code_version": "tests"}


class _Inputs(artifacts.Request):
    seed: int


def _lists(rng, group_of_user, items_of_group, low, high):
    return [rng.choice(items_of_group[g], size=rng.integers(low, high)).tolist() for g in group_of_user]


def _write(directory, table):
    with Writer(directory, 0, table.schema, rows_per_group=256) as writer:
        writer.write(table)


@pytest.fixture(scope="session")
def day(tmp_path_factory) -> TrainingData:
    """300 users and 120 items in 6 groups: a user clicks items of the own group only; 2,011 examples."""
    rng = np.random.default_rng(5)
    group_of_item = np.arange(NUM_ITEMS) % NUM_GROUPS
    items_of_group = [np.flatnonzero(group_of_item == group) for group in range(NUM_GROUPS)]
    users = rng.integers(0, NUM_USERS, 2_011)
    group_of_user = np.arange(NUM_USERS) % NUM_GROUPS
    clicked = np.array([rng.choice(items_of_group[group_of_user[user]]) for user in users])
    examples = pa.table(
        {
            "user_id": users,
            "item_id": clicked,
            "timestamp": np.arange(len(users)),
            "segment": pa.array([f"s{group_of_user[user]}" for user in users]),
            "activity": pa.array(rng.random(len(users)).astype(np.float32)),
            "history__item_id": _lists(rng, group_of_user[users], items_of_group, 0, 6),
        }
    )
    items = pa.table(
        {
            "item_id": np.arange(NUM_ITEMS),
            "category": pa.array([f"c{group}" if group else None for group in group_of_item]),
            "price": pa.array(rng.random(NUM_ITEMS).astype(np.float32)),
            "num_interactions": np.bincount(clicked, minlength=NUM_ITEMS),
            "sampling_weight": np.bincount(clicked, minlength=NUM_ITEMS) ** 0.75 + 1.0,
        }
    )
    askers = np.arange(0, NUM_USERS, 2)
    ground_truth = pa.table(
        {
            "user_id": askers,
            "segment": pa.array([f"s{group_of_user[user]}" for user in askers]),
            "activity": pa.array(rng.random(len(askers)).astype(np.float32)),
            "history__item_id": _lists(rng, group_of_user[askers], items_of_group, 0, 6),
            "gt_items": _lists(rng, group_of_user[askers], items_of_group, 1, 4),
            "seen_items": _lists(rng, group_of_user[askers], items_of_group, 0, 4),
        }
    )
    engine = features.Engine.build(
        features.Config.model_validate(
            {
                "embedding_dim": 8,
                "query": [
                    {"kind": "id", "name": "user_id", "encoding": "hash", "num_embeddings": 64},
                    {"kind": "id", "name": "segment", "encoding": "vocabulary", "num_embeddings": 16},
                    {"kind": "raw", "name": "activity"},
                    {
                        "kind": "sequence",
                        "name": "history",
                        "column": "history__item_id",
                        "table": "item_id",
                        "max_length": 4,
                    },
                ],
                "item": [
                    {"kind": "id", "name": "item_id", "encoding": "vocabulary", "num_embeddings": 200},
                    {"kind": "id", "name": "category", "encoding": "vocabulary", "num_embeddings": 16},
                    {"kind": "raw", "name": "price"},
                ],
            }
        )
    )
    engine.fit([examples], [items])
    output = tmp_path_factory.mktemp("day") / "preprocess"
    with artifacts.pending(output) as aside:
        _write(aside.path / "examples", examples)
        _write(aside.path / "items", items)
        _write(aside.path / "ground_truth", ground_truth)
        engine.save(aside.path / "features")
        return aside.commit(
            TrainingData,
            _Inputs(output=output, seed=5, **COMMON),
            num_rows=examples.num_rows,
            day=DAY,
            first_day=DAY,
            ground_truth_day=DAY + datetime.timedelta(days=1),
            num_items=NUM_ITEMS,
            num_queries=len(askers),
            num_ground_truth=sum(map(len, ground_truth.column("gt_items").to_pylist())),
            engine_digest=engine.digest,
        )


@pytest.fixture(scope="session")
def sections():
    """The config sections that the stages of the core share."""
    return {
        "model": two_tower.Config(output_dim=16, query_hidden=(32,), item_hidden=(32,)),
        "sampler": weighted.Config(num_negatives=64),
        "loss": sampled_softmax.Config(),
    }


@pytest.fixture
def train_request(day, sections, tmp_path):
    """Make a training request; keywords override fields, `config` those of the section."""

    def make(name="train", *, config=None, **fields) -> train.Request:
        taste = {"batch_size": 128, "num_epochs": 4, "shuffle_rows": 700, "checkpoint_every_steps": 10} | (config or {})
        given = {
            "config": train.Config.model_validate(taste),
            "num_ranks": 1,
            "seed": 11,
            "data": day,
            "base": None,
        }
        return train.Request(output=tmp_path / name, **COMMON, **sections, **(given | fields))

    return make


@pytest.fixture(scope="session")
def trained(day, sections, tmp_path_factory) -> Checkpoint:
    """A checkpoint of eight epochs on one rank, made in this process."""
    output = tmp_path_factory.mktemp("trained") / "train"
    config = train.Config(batch_size=128, num_epochs=8, log_every_steps=5)
    request = train.Request(
        output=output, **COMMON, **sections, config=config, num_ranks=1, seed=11, data=day, base=None
    )
    return train.run(request, silent)


@pytest.fixture
def torchrun(tmp_path):
    """Run a stage on several ranks and return what its process returned."""

    def run(stage: str, request: artifacts.Request, num_ranks: int) -> subprocess.CompletedProcess:
        file = tmp_path / f"{stage}-{num_ranks}.json"
        file.write_text(request.model_dump_json())
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(num_ranks)]
        command += ["-m", "recsys_core", stage, "--request", str(file), "--events", str(tmp_path / "events.jsonl")]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
        return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)

    return run


@pytest.fixture
def events(tmp_path):
    """Return the events that the ranks wrote."""
    return lambda: [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
