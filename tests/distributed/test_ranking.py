"""Two ranks train, measure and save what one does, however the tables are sharded."""

import datetime
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys_core.datasets.labelled import splits
from recsys_core.features import Config as Features
from recsys_core.losses import binary_cross_entropy
from recsys_core.models import multi_tower_din
from recsys_core.progress import silent
from recsys_core.ranking import Config, prepare, train
from recsys_core.train import Config as Train

DAY = datetime.date(2024, 1, 1)
COMMON = {"config_hash": "c" * 32, "code_version": "tests"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """601 weighted rows with a sequence each, some empty."""
    root = tmp_path_factory.mktemp("labelled")
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 5, 601)
    sequences = np.split(rng.integers(0, 20, lengths.sum()), np.cumsum(lengths)[:-1])
    item = rng.integers(0, 20, 601)
    columns = {
        "label": [int(i in s or r < 0.3) for i, s, r in zip(item, sequences, rng.random(601), strict=True)],
        "weight": rng.integers(0, 4, 601).astype(float),
        "user": [f"u{n}" for n in rng.integers(0, 30, 601)],
        "item": item,
        "price": rng.random(601),
        "clicked": [s.tolist() for s in sequences],
        "tags": [rng.integers(0, 9, n).tolist() for n in rng.integers(0, 3, 601)],
        "liked": [
            [f"{n % 9}:{n / 8}" for n in row] for row in (rng.integers(1, 60, n) for n in rng.integers(0, 4, 601))
        ],
    }
    (root / "log" / "train").mkdir(parents=True)
    pq.write_table(pa.table(columns), root / "log" / "train" / "part-0.parquet", row_group_size=200)
    features = {
        "embedding_dim": 8,
        "query": [
            {"kind": "id", "name": "user", "num_embeddings": 64},
            {"kind": "id", "name": "tags", "num_embeddings": 16},
            {"kind": "sequence", "name": "clicked", "table": "item", "pooling": "none"},
            {"kind": "id", "name": "liked", "num_embeddings": 16, "weighted": True},
            {"kind": "id", "name": "most", "column": "liked", "num_embeddings": 16, "weighted": True, "pooling": "max"},
            {"kind": "sequence", "name": "last", "column": "clicked", "table": "item", "pooling": "tile"}
            | {"tile_length": 2, "max_length": 2},
            {"kind": "raw", "name": "cost", "column": "price", "boundaries": [0.5], "table": "tags", "pooling": "sum"},
            {"kind": "raw", "name": "cost_bucket", "column": "price", "num_buckets": 4},
        ],
        "item": [{"kind": "id", "name": "item", "num_embeddings": 32}, {"kind": "raw", "name": "price"}],
        "tables": [
            {"name": "liked", "initializer": {"kind": "xavier_uniform"}},
            {"name": "cost_bucket", "initializer": {"kind": "constant", "value": 0.25}, "trainable": False},
        ],
    }
    source = splits.Config(source=str(root / "log"), day=DAY)
    request = prepare.Request(
        output=root / "prepare",
        config=Config(sample_weight="weight", group="user"),
        data=source,
        features=Features.model_validate(features),
        import_root=root / "imports",
        fingerprint="f",
        **COMMON,
    )
    return prepare.run(request, silent)


def _run(data, output, num_ranks, sharding):
    request = train.Request(
        output=output / "train",
        config=Train.model_validate(
            {
                # Every step is on all rows, so that the ranks together see what one sees.
                "batch_size": 601 // num_ranks + 1,
                "shuffle_rows": 0,
                # Adagrad and the signs that Adam makes of a gradient would blow roundings up.
                "sparse_optimizer": {"kind": "sgd", "learning_rate": 5.0},
                "dense_optimizer": {"kind": "sgd", "learning_rate": 0.1},
                "sharding": {"sharding_types": [sharding], "device": "cpu"},
            }
        ),
        ranking=Config(sample_weight="weight", group="user"),
        model=multi_tower_din.Config.model_validate(
            {
                "towers": [{"hidden": [8]}],
                "attention": [{"sequences": ["clicked"], "targets": ["item"], "hidden": [8]}],
                "hidden": [8],
            }
        ),
        loss=binary_cross_entropy.Config(),
        num_ranks=num_ranks,
        seed=3,
        day=DAY,
        data=data,
        **COMMON,
    )
    output.mkdir(parents=True)
    (output / "request.json").write_text(request.model_dump_json())
    program = Path(__file__).with_name("ranking_equals_whole.py")
    start = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num_ranks}"] if num_ranks > 1 else []
    done = subprocess.run(
        [sys.executable, *start, str(program), str(output / "request.json")],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(program.parents[2]), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory):
    return _run(data, tmp_path_factory.mktemp("alone") / "one", 1, "table_wise")


@pytest.mark.parametrize("sharding", ["table_wise", "row_wise"])
def test_two_ranks_do_what_one_does(data, alone, tmp_path, sharding):
    both = _run(data, tmp_path / "two", 2, sharding)
    assert both["metrics"]["num_rows"] == 601
    assert both["metrics"] == pytest.approx(alone["metrics"], rel=1e-4)
    assert both["sums"] == pytest.approx(alone["sums"], rel=1e-5)
    (frozen,) = (total for name, total in both["sums"].items() if ".cost_bucket." in name)
    assert frozen == 4 * 8 * 0.25
