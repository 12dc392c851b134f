"""Clicks that depend on where an item stood: what a ranker learns of them with a position that is fixed at serving."""

import datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys_core.datasets.labelled import _impressions, splits
from recsys_core.features import Config as Features
from recsys_core.features import Engine
from recsys_core.losses import binary_cross_entropy
from recsys_core.metrics.ranking import Scored
from recsys_core.models import dlrm
from recsys_core.progress import silent
from recsys_core.ranking import Config, export, predict, prepare, train
from recsys_core.training.config import Config as Train

DAY = datetime.date(2024, 1, 1)
COMMON = {"config_hash": "c" * 32, "code_version": "tests"}
QUERY = ({"kind": "id", "name": "age", "num_embeddings": 16}, {"kind": "id", "name": "city", "num_embeddings": 64})
ITEM = ({"kind": "id", "name": "item_id", "num_embeddings": 64},)
POSITION = {"kind": "id", "name": "position", "num_embeddings": 16, "at_serving": 1}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    root = tmp_path_factory.mktemp("biased")
    shop = _impressions.Config(
        num_days=2, rows_per_day=12_000, num_items=40, position_by_item=0.9, position_effect=0.4, new_items_per_day=0
    )
    _impressions.write(shop, root, silent)
    for day, split in (("2024-01-01", "train"), ("2024-01-02", "test")):
        (root / split).symlink_to(root / f"ds={day}")
    return root


def _ranked(source, output, *query):
    """Train, export and score the second day's rows; return the scores, and the exported model."""
    ranking, day = Config(label="click"), splits.Config(source=str(source), day=DAY)
    features = Features.model_validate({"embedding_dim": 8, "query": [*QUERY, *query], "item": [*ITEM]})
    data = prepare.run(
        prepare.Request(
            output=output / "prepare",
            config=ranking,
            data=day,
            features=features,
            import_root=output,
            fingerprint="f",
            **COMMON,
        ),
        silent,
    )
    model = dlrm.Config(bottom_hidden=(4,), top_hidden=(16,), concat_pooled=True)
    config = {
        "batch_size": 250,
        "num_epochs": 2,
        "sparse_optimizer": {"kind": "adagrad", "learning_rate": 0.1},
        "dense_optimizer": {"learning_rate": 0.01},
        "sharding": {"device": "cpu"},
    }
    checkpoint = train.run(
        train.Request(
            output=output / "train",
            config=Train.model_validate(config),
            ranking=ranking,
            model=model,
            loss=binary_cross_entropy.Config(),
            num_ranks=1,
            seed=0,
            day=DAY,
            data=data,
            **COMMON,
        ),
        silent,
    )
    exported = export.run(
        export.Request(
            output=output / "export", config=export.Config(), model=model, data=data, checkpoint=checkpoint, **COMMON
        ),
        silent,
    )
    # Prediction needs no position: of a request it is not known.
    rows = pq.read_table(source / "test" / "part-00000.parquet").drop_columns("position")
    pq.write_table(rows, output / "rows.parquet")
    request = predict.Request(
        output=output / "predict",
        config=predict.Config(source=str(output / "rows.parquet"), reserved_columns=("item_id",)),
        source=str(output / "rows.parquet"),
        source_digest="d",
        model=exported,
        **COMMON,
    )
    made = predict.run(request, silent)
    return pa.concat_tables(map(pq.read_table, sorted((made.path / "rows").glob("*.parquet")))), exported


def _auc(scores: np.ndarray, propensity: np.ndarray) -> float:
    """Return the expected AUC of clicks that are drawn by the true propensities, of each row either way."""
    labels = np.repeat([True, False], len(scores))
    weights = np.concatenate([propensity, 1 - propensity])
    auc = Scored(np.tile(scores, 2), labels, weights, None).metrics().auc
    assert auc is not None
    return auc


def test_a_ranker_with_the_position_beats_one_without_by_the_planted_truth(source, tmp_path):
    truth = pq.read_table(source / "_truth" / "ds=2024-01-02" / "part-00000.parquet")["propensity"].to_numpy()
    aucs = {}
    for name, query in (("without", ()), ("with", (POSITION,))):
        (tmp_path / name).mkdir()
        scored, exported = _ranked(source, tmp_path / name, *query)
        aucs[name] = _auc(scored["score"].to_numpy().astype(np.float64), truth)
        assert "position" not in Engine.load(exported.engine).columns("query")
    best = _auc(truth, truth)
    assert aucs["without"] + 0.02 < aucs["with"] < best
