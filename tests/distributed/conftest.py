"""One small day with planted structure, as preprocess would leave it, and requests of the stages that follow."""

import datetime
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pytest
import torch

from recsys_core import artifacts, features
from recsys_core.artifacts import Checkpoint, ExportedModel, TrainingData
from recsys_core.checkpoint import storage
from recsys_core.losses import sampled_softmax
from recsys_core.models import two_tower
from recsys_core.progress import silent
from recsys_core.retrieval import export, train
from recsys_core.samplers import weighted
from recsys_core.training.config import Config as TrainingConfig
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


_SEQUENCE = {"kind": "sequence", "column": "history__item_id", "table": "item_id"}
FEATURES: dict[str, Any] = {
    "embedding_dim": 8,
    "query": [
        {"kind": "id", "name": "user_id", "encoding": "hash", "num_embeddings": 64},
        {"kind": "id", "name": "segment", "encoding": "vocabulary", "num_embeddings": 16},
        {"kind": "raw", "name": "activity"},
        _SEQUENCE | {"name": "history", "max_length": 4},
    ],
    "item": [
        {"kind": "id", "name": "item_id", "encoding": "vocabulary", "num_embeddings": 200},
        {"kind": "id", "name": "category", "encoding": "vocabulary", "num_embeddings": 16},
        {"kind": "raw", "name": "price"},
    ],
}
# Weights, maxima and tiles, in tables of their own and in one that both towers use, and a plain one beside them.
_LIKED = {"kind": "id", "column": "liked", "num_embeddings": 16, "weighted": True}
RICH: dict[str, Any] = {
    "embedding_dim": 8,
    "query": [
        _LIKED | {"name": "liked"},
        _LIKED | {"name": "total", "pooling": "sum", "table": "liked"},
        _LIKED | {"name": "most", "pooling": "max"},
        {"kind": "id", "name": "segment", "num_embeddings": 16},
        {"kind": "raw", "name": "activity"},
        _SEQUENCE | {"name": "history"},
        _SEQUENCE | {"name": "last", "pooling": "tile", "tile_length": 2, "max_length": 2},
    ],
    "item": [
        {"kind": "id", "name": "item_id", "num_embeddings": 200},
        {"kind": "id", "name": "tags", "num_embeddings": 16, "weighted": True},
        {"kind": "id", "name": "first_tags", "column": "tags", "num_embeddings": 16, "weighted": True}
        | {"pooling": "tile", "tile_length": 2},
        {"kind": "raw", "name": "price"},
    ],
}


@pytest.fixture(scope="session")
def day(tmp_path_factory) -> TrainingData:
    """300 users and 120 items in 6 groups: a user clicks items of the own group only; 2,011 examples."""
    return _made(tmp_path_factory.mktemp("day") / "preprocess", FEATURES)


@pytest.fixture(scope="session")
def rich_day(tmp_path_factory) -> TrainingData:
    """The same with weighted features, and such as are pooled by maximum or as a tile."""
    return _made(tmp_path_factory.mktemp("rich") / "preprocess", RICH)


def _made(output: Path, section: dict[str, Any]) -> TrainingData:
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
            "liked": [[f"c{n % 7}:{n / 100 - 0.2}" for n in range(user % 5)] for user in users],
        }
    )
    items = pa.table(
        {
            "item_id": np.arange(NUM_ITEMS),
            "category": pa.array([f"c{group}" if group else None for group in group_of_item]),
            "price": pa.array(rng.random(NUM_ITEMS).astype(np.float32)),
            "tags": [[f"t{n % 5}:{1 + n % 3}" for n in range(item, item + item % 4)] for item in range(NUM_ITEMS)],
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
            "liked": [[f"c{n % 7}:{n / 100 - 0.2}" for n in range(user % 5)] for user in askers],
            "gt_items": _lists(rng, group_of_user[askers], items_of_group, 1, 4),
            "seen_items": _lists(rng, group_of_user[askers], items_of_group, 0, 4),
        }
    )
    engine = features.Engine.build(features.Config.model_validate(section))
    engine.fit([examples], [items])
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


@pytest.fixture(scope="session")
def make_train_request(day, sections):
    """Make a training request that writes to a path; keywords override fields, `config` those of the section."""

    def make(output, *, config=None, **fields) -> train.Request:
        taste = {"batch_size": 128, "num_epochs": 4, "shuffle_rows": 700, "checkpoint_every_steps": 10} | (config or {})
        given = {
            "config": TrainingConfig.model_validate(taste),
            "num_ranks": 1,
            "seed": 11,
            "data": day,
            "base": None,
        }
        return train.Request(output=output, **COMMON, **sections, **(given | fields))

    return make


@pytest.fixture
def train_request(make_train_request, tmp_path):
    """Likewise, below the test's own folder."""
    return lambda name="train", **given: make_train_request(tmp_path / name, **given)


@pytest.fixture(scope="session")
def trained(day, sections, tmp_path_factory) -> Checkpoint:
    """A checkpoint of eight epochs on one rank, made in this process."""
    output = tmp_path_factory.mktemp("trained") / "train"
    config = TrainingConfig(batch_size=128, num_epochs=8, log_every_steps=5)
    request = train.Request(
        output=output, **COMMON, **sections, config=config, num_ranks=1, seed=11, data=day, base=None
    )
    return train.run(request, silent)


@pytest.fixture(scope="session")
def exported(trained, day, sections, tmp_path_factory) -> ExportedModel:
    """Both towers of that checkpoint."""
    request = export.Request(
        output=tmp_path_factory.mktemp("export") / "export",
        **COMMON,
        config=export.Config(parity_rows=100),
        model=sections["model"],
        data=day,
        checkpoint=trained,
    )
    return export.run(request, silent)


def _weights(made: Checkpoint) -> dict[str, torch.Tensor]:
    """Read every tensor of a checkpoint, whole, without ranks."""
    state = {key: torch.empty(held.shape) for key, held in storage.layout(made.state).tensors.items()}
    storage.load(made.state, state, alone=True)
    return state


@pytest.fixture(scope="session")
def weights_of():
    """Read every tensor of a checkpoint, whole."""
    return _weights


@pytest.fixture(scope="session")
def same_weights():
    """Compare all tensors of two checkpoints."""

    def compare(left: Checkpoint, right: Checkpoint, tolerance: float) -> None:
        a, b = _weights(left), _weights(right)
        assert a.keys() == b.keys()
        for key in a:
            # Two ranks make half as many steps as one.
            if key != "optimizer.num_batches" or left.num_steps == right.num_steps:
                assert torch.allclose(a[key], b[key], rtol=0, atol=tolerance), key

    return compare


class Ranks:
    """Starts ranks that `rank_server.py` forks."""

    def __init__(self, directory: Path) -> None:
        self._directory, self._number = directory, 0
        self._server = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("rank_server.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])},
        )

    def __call__(
        self, arguments: list[str], num_ranks: int, *, meanwhile: Callable[[list[int]], None] | None = None
    ) -> tuple[list[int], str]:
        """Run `python ARGUMENTS` as ranks; return their exit codes and what they said.

        `meanwhile` is called with their process ids.
        """
        self._number += 1
        log = self._directory / f"{self._number}.log"
        asked = {"arguments": arguments, "num_ranks": num_ranks, "log": str(log)}
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(asked) + "\n")
        self._server.stdin.flush()
        pids = json.loads(self._server.stdout.readline())
        if meanwhile is not None:
            meanwhile(pids)
        return json.loads(self._server.stdout.readline()), log.read_text()

    def stage(
        self, stage: str, request: artifacts.Request, num_ranks: int, *, module: str = "recsys_core", **more: Any
    ) -> tuple[list[int], str]:
        """Run a stage, whose events go to `events.jsonl` beside its output; `module` stands for `recsys_core`."""
        request.output.parent.mkdir(parents=True, exist_ok=True)
        file = request.output.with_name(f"{stage}-{num_ranks}.json")
        file.write_text(request.model_dump_json())
        events = str(request.output.with_name("events.jsonl"))
        return self(["-m", module, stage, "--request", str(file), "--events", events], num_ranks, **more)

    def close(self) -> None:
        """End the server."""
        self._server.communicate()


@pytest.fixture(scope="session")
def ranks(tmp_path_factory) -> Iterator[Ranks]:
    """Real ranks, which start at once."""
    started = Ranks(tmp_path_factory.mktemp("ranks"))
    yield started
    started.close()


@pytest.fixture
def signalled(ranks):
    """Run a stage and send a signal to one of its ranks, which wait for it at a `step`, or when so much is `done`.

    Returns the exit codes.
    """

    def run(stage, request, num_ranks, *, victim: int, number: int, **at: int) -> list[int]:
        events, hold = (request.output.with_name(name) for name in ("events.jsonl", "hold"))
        hold.parent.mkdir(parents=True, exist_ok=True)
        hold.write_text(json.dumps(at))
        ((name, least),) = at.items()
        seen = events.stat().st_size if events.exists() else 0

        def send(pids: list[int]) -> None:
            while all(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in pids):
                lines = events.read_bytes()[seen:].rpartition(b"\n")[0].splitlines() if events.exists() else []
                if any((json.loads(line)[name] or 0) >= least for line in lines):
                    os.kill(pids[victim], number)
                    break
                time.sleep(0.002)
            hold.unlink()

        codes, log = ranks.stage(stage, request, num_ranks, module="holding", meanwhile=send)
        assert any(codes), log
        return codes

    return run


@pytest.fixture
def events(tmp_path):
    """Return the events that the ranks wrote."""
    return lambda: [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
