"""Two ranks train, measure and save what one does, however the tables are sharded."""

import datetime
import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys_core.artifacts import Checkpoint, RankingEvaluation
from recsys_core.checkpoint import storage
from recsys_core.datasets.labelled import splits
from recsys_core.features import Config as Features
from recsys_core.losses import binary_cross_entropy
from recsys_core.models import multi_tower_din
from recsys_core.progress import STOPPED_EXIT_CODE, silent
from recsys_core.ranking import Config, evaluate, export, predict, prepare, train
from recsys_core.training.config import Config as Train

DAY = datetime.date(2024, 1, 1)
NUM_ROWS = 211
COMMON = {"config_hash": "c" * 32, "code_version": "tests"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Weighted rows with a sequence each, some empty."""
    root = tmp_path_factory.mktemp("labelled")
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 5, NUM_ROWS)
    sequences = np.split(rng.integers(0, 20, lengths.sum()), np.cumsum(lengths)[:-1])
    item = rng.integers(0, 20, NUM_ROWS)
    columns = {
        "label": [int(i in s or r < 0.3) for i, s, r in zip(item, sequences, rng.random(NUM_ROWS), strict=True)],
        "weight": rng.integers(0, 4, NUM_ROWS).astype(float),
        "user": [f"u{n}" for n in rng.integers(0, 30, NUM_ROWS)],
        "item": item,
        "price": rng.random(NUM_ROWS),
        "pair": rng.random((NUM_ROWS, 2)).tolist(),
        "clicked": [s.tolist() for s in sequences],
        "waits": [[None if n % 7 == 3 else n / 20 for n in s] for s in sequences],
        "costs": [[[n / 9, 1.0] for n in s] for s in sequences],
        "tags": [rng.integers(0, 9, n).tolist() for n in rng.integers(0, 3, NUM_ROWS)],
        "liked": [
            [f"{n % 9}:{n / 8}" for n in row] for row in (rng.integers(1, 60, n) for n in rng.integers(0, 4, NUM_ROWS))
        ],
    }
    (root / "log" / "train").mkdir(parents=True)
    pq.write_table(pa.table(columns), root / "log" / "train" / "part-0.parquet", row_group_size=70)
    features = {
        # Fewer than two times 128 columns are never split.
        "embedding_dim": 256,
        "query": [
            {"kind": "id", "name": "user", "num_embeddings": 64},
            {"kind": "id", "name": "tags", "num_embeddings": 16},
            {"kind": "sequence", "name": "clicked", "table": "item", "pooling": "none", "group": "clicks"},
            {"kind": "raw", "name": "waits", "pooling": "none", "normalizer": "zscore", "group": "clicks"},
            {"kind": "raw", "name": "costs", "pooling": "none", "dim": 2, "group": "clicks"},
            {"kind": "id", "name": "liked", "num_embeddings": 16, "weighted": True},
            {"kind": "id", "name": "most", "column": "liked", "num_embeddings": 16, "weighted": True, "pooling": "max"},
            {"kind": "sequence", "name": "last", "column": "clicked", "table": "item", "pooling": "tile"}
            | {"tile_length": 2, "max_length": 2},
            {"kind": "raw", "name": "cost", "column": "price", "boundaries": [0.5], "table": "tags", "pooling": "sum"},
            {"kind": "raw", "name": "cost_bucket", "column": "price", "num_buckets": 4},
        ],
        "item": [
            {"kind": "id", "name": "item", "num_embeddings": 32},
            {"kind": "raw", "name": "price"},
            {"kind": "raw", "name": "pair", "dim": 2},
        ],
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


def _request(data, output, num_ranks, sharding, /, **config):
    return train.Request(
        output=output / "train",
        config=Train.model_validate(
            {
                # Every step is on all rows, so that the ranks together see what one sees.
                "batch_size": NUM_ROWS // num_ranks + 1,
                "shuffle_rows": 0,
                # Adagrad and the signs that Adam makes of a gradient would blow roundings up.
                "sparse_optimizer": {"kind": "sgd", "learning_rate": 5.0},
                "dense_optimizer": {"kind": "sgd", "learning_rate": 0.1},
                "sharding": {"sharding_types": [sharding], "device": "cpu"},
            }
            | config
        ),
        ranking=Config(sample_weight="weight", group="user"),
        model=multi_tower_din.Config.model_validate(
            {
                "towers": [{"hidden": [8]}],
                "attention": [
                    {
                        "sequences": ["clicked", "waits", "costs"],
                        "targets": ["item", None, "pair"],
                        "hidden": [8],
                    }
                ],
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


def _run(ranks, data, output, num_ranks, sharding):
    request = _request(data, output, num_ranks, sharding)
    output.mkdir(parents=True)
    (output / "request.json").write_text(request.model_dump_json())
    program = Path(__file__).with_name("ranking_equals_whole.py")
    codes, log = ranks([str(program), str(output / "request.json")], num_ranks)
    assert not any(codes), log
    return json.loads(next(line for line in log.splitlines() if line.startswith("{")))


@pytest.fixture(scope="module")
def alone(ranks, data, tmp_path_factory):
    return _run(ranks, data, tmp_path_factory.mktemp("alone") / "one", 1, "table_wise")


@pytest.mark.parametrize("sharding", ["table_wise", "row_wise"])
def test_two_ranks_do_what_one_does(ranks, data, alone, tmp_path, sharding):
    both = _run(ranks, data, tmp_path / "two", 2, sharding)
    assert both["metrics"]["num_rows"] == NUM_ROWS
    assert both["metrics"] == pytest.approx(alone["metrics"], rel=1e-4)
    assert both["sums"] == pytest.approx(alone["sums"], rel=1e-5)
    (frozen,) = (total for name, total in both["sums"].items() if ".cost_bucket." in name)
    assert frozen == 4 * 256 * 0.25


_STEPS = {"num_epochs": 50, "log_every_steps": 5, "checkpoint_every_steps": 1_000}
_EVERYTHING = {
    "sparse_optimizer": {
        "kind": "rowwise_adagrad",
        "learning_rate": 0.1,
        "initial_accumulator": 0.1,
        "schedule": {"kind": "cosine_restarts", "first": 9, "growth": 2, "warmup_steps": 5},
    },
    "dense_optimizer": {
        "kind": "sgd",
        "learning_rate": 0.1,
        "momentum": 0.9,
        "accumulate_batches": 4,
        "average_decay": 0.9,
        "max_gradient_norm": 0.5,
        "groups": [{"pattern": "*bias", "learning_rate": 0.05}],
    },
}


@pytest.fixture(scope="module")
def train_on(ranks, data, tmp_path_factory):
    """Train on some ranks; what was trained alike before is kept."""
    made = {}

    def train(num_ranks, sharding, **config):
        if (key := json.dumps([num_ranks, sharding, config])) not in made:
            request = _request(data, tmp_path_factory.mktemp("trained"), num_ranks, sharding, **_STEPS | config)
            codes, log = ranks.stage("rank_train", request, num_ranks)
            assert not any(codes), log
            made[key] = Checkpoint.load(request.output)
        assert made[key].num_steps == 50
        return made[key]

    return train


def _pieces(made):
    """Return in how many pieces by columns the table of items was saved."""
    tensors = storage.layout(made.state).tensors
    (key,) = (key for key in tensors if key.startswith("model.") and key.endswith("item.weight"))
    return len({chunk.offsets[1] for chunk in tensors[key].chunks})


@pytest.mark.parametrize("num_ranks", [2, 3])
@pytest.mark.parametrize("sharding", ["table_wise", "row_wise", "column_wise"])
def test_fifty_steps_on_any_number_of_ranks_end_alike(train_on, same_weights, num_ranks, sharding):
    one, several = train_on(1, "table_wise"), train_on(num_ranks, sharding)
    assert several.loss == pytest.approx(one.loss, rel=1e-5)
    same_weights(one, several, 1e-5)
    assert _pieces(several) == (2 if sharding == "column_wise" else 1)


def test_what_is_exported_scores_as_what_was_trained_on_two_ranks(ranks, train_on, data, tmp_path):
    made = train_on(2, "row_wise")
    request = _request(data, tmp_path, 2, "row_wise")
    shared = {"ranking": request.ranking, "model": request.model, "data": data, "checkpoint": made} | COMMON
    config = evaluate.Config(split="train", batch_size=100)
    measure = evaluate.Request(
        output=tmp_path / "evaluate",
        config=config,
        sharding=request.config.sharding,
        num_ranks=2,
        seed=3,
        **shared,
    )
    codes, log = ranks.stage("rank_evaluate", measure, 2)
    assert not any(codes), log
    measured = RankingEvaluation.load(measure.output).metrics
    del shared["ranking"]
    exported = export.run(export.Request(output=tmp_path / "export", config=export.Config(), **shared), silent)
    scores = predict.Request(
        output=tmp_path / "predict",
        config=predict.Config(batch_size=90, reserved_columns=("label", "weight")),
        source=str(*data.folders("train")),
        source_digest="d",
        model=exported,
        **COMMON,
    )
    codes, log = ranks.stage("rank_predict", scores, 2)
    assert not any(codes), log
    rows = pq.read_table(scores.output / "rows")
    probability, label, weight = (rows[name].to_numpy() for name in ("probability", "label", "weight"))
    losses = -np.log(np.where(label, probability, 1 - probability))
    assert np.average(losses, weights=weight) == pytest.approx(measured.logloss, rel=1e-4)


def test_accumulation_clipping_groups_and_the_moving_average_are_alike_on_two_ranks(train_on, same_weights):
    one, two = train_on(1, "table_wise", **_EVERYTHING), train_on(2, "row_wise", **_EVERYTHING)
    assert two.loss == pytest.approx(one.loss, rel=1e-5)
    same_weights(one, two, 1e-5)


def test_adamw_of_touched_rows_is_alike_on_two_ranks(train_on, same_weights):
    # So large an eps keeps Adam from making signs of gradients that are roundings.
    section = {"kind": "adamw", "learning_rate": 0.05, "eps": 1e-2, "weight_decay": 0.1}
    one, two = train_on(1, "table_wise", sparse_optimizer=section), train_on(2, "row_wise", sparse_optimizer=section)
    assert one.touched == two.touched != {}
    assert two.loss == pytest.approx(one.loss, rel=1e-5)
    same_weights(one, two, 1e-5)


@pytest.mark.parametrize(("narrow", "tolerance"), [("bfloat16", 0.1), ("float16", 0.02)])
def test_narrow_products_are_as_good_on_two_ranks(train_on, same_weights, narrow, tolerance):
    exact, one, two = (
        train_on(num_ranks, "table_wise", precision=precision)
        for num_ranks, precision in ((1, "float32"), (1, narrow), (2, narrow))
    )
    assert one.loss != exact.loss
    assert one.loss == pytest.approx(exact.loss, rel=0.02)
    assert two.loss == pytest.approx(one.loss, rel=2e-3)
    same_weights(one, two, tolerance)


@pytest.mark.parametrize("sharding", ["row_wise", "column_wise"])
def test_what_two_ranks_began_one_or_three_finish(train_on, same_weights, signalled, ranks, data, tmp_path, sharding):
    everything = _STEPS | _EVERYTHING
    if sharding == "column_wise":
        kind = {"kind": "adamw", "eps": 1e-2, "weight_decay": 0.1, "initial_accumulator": 0}
        everything["sparse_optimizer"] = everything["sparse_optimizer"] | kind
    whole = train_on(2, sharding, **everything)
    assert _pieces(whole) == (1 if sharding == "row_wise" else 2)
    begun = _request(data, tmp_path / "two", 2, sharding, **everything)
    codes = signalled("rank_train", begun, 2, step=15, victim=1, number=signal.SIGTERM)
    assert codes == [STOPPED_EXIT_CODE] * 2
    for num_ranks in (1, 3):
        request = _request(data, tmp_path / str(num_ranks), num_ranks, sharding, **everything)
        shutil.copytree(begun.output.with_name(".train.partial"), request.output.with_name(".train.partial"))
        codes, log = ranks.stage("rank_train", request, num_ranks)
        assert not any(codes), log
        finished = Checkpoint.load(request.output)
        assert finished.num_steps == 50
        assert finished.loss == pytest.approx(whole.loss, rel=1e-5)
        same_weights(whole, finished, 1e-5)
