"""Labelled splits with labels that are partly wrong, and requests of the stages over them."""

import datetime

import numpy as np
import pyarrow as pa

from recsys_core.datasets.labelled import splits
from recsys_core.features import Config as Features
from recsys_core.losses import binary_cross_entropy
from recsys_core.models import dlrm
from recsys_core.progress import silent
from recsys_core.ranking import Config, evaluate, prepare, train
from recsys_core.training.config import Config as Train

DAY = datetime.date(2024, 1, 1)
COMMON = {"config_hash": "c" * 32, "code_version": "tests"}
MODEL = dlrm.Config(bottom_hidden=(4,), top_hidden=(8,), concat_pooled=True)


def table_of(num_rows, seed):
    rng = np.random.default_rng(seed)
    user, item = rng.integers(0, 8, num_rows), rng.integers(0, 8, num_rows)
    return pa.table(
        {
            # A fifth of the labels is wrong, so that a model soon learns what is not so.
            "label": ((user % 2 == item % 2) ^ (rng.random(num_rows) < 0.2)).astype(np.int8),
            "user": [f"u{n}" for n in user],
            "item": item,
            "age": rng.random(num_rows),
            "weight": rng.random(num_rows),
            "half": np.full(num_rows, 0.5),
            "always": np.ones(num_rows, np.int8),
            "score": np.zeros(num_rows),
        }
    )


def prepared(source, output, item=(), sink=silent, data=None, **ranking):
    features = {
        "embedding_dim": 4,
        "query": [{"kind": "id", "name": "user", "num_embeddings": 16}, {"kind": "raw", "name": "age"}],
        "item": [{"kind": "id", "name": "item", "num_embeddings": 16}, *item],
    }
    data = data or splits.Config(source=str(source), day=DAY)
    request = prepare.Request(
        output=output,
        config=Config(**ranking),
        data=data,
        features=Features.model_validate(features),
        import_root=output.parent,
        fingerprint="f",
        **COMMON,
    )
    return prepare.run(request, sink)


def train_request(data, output, **changes):
    config = {
        "batch_size": 50,
        "num_epochs": 60,
        "log_every_steps": 4,
        "evaluate_every_steps": 8,
        "early_stopping_patience": 2,
        "best_metric": "logloss",
        "sparse_optimizer": {"kind": "adagrad", "learning_rate": 0.3},
        "dense_optimizer": {"learning_rate": 0.03},
        "sharding": {"device": "cpu"},
    }
    return train.Request(
        output=output,
        config=Train.model_validate(config | changes),
        ranking=Config(sample_weight="weight", group="user"),
        model=MODEL,
        loss=binary_cross_entropy.Config(),
        num_ranks=1,
        seed=1,
        day=DAY,
        data=data,
        **COMMON,
    )


def evaluated(data, made, output, split="valid", config=None):
    request = evaluate.Request(
        output=output,
        config=config or evaluate.Config(split=split, batch_size=30),
        ranking=Config(sample_weight="weight", group="user"),
        model=MODEL,
        sharding=Train.model_validate({"sharding": {"device": "cpu"}}).sharding,
        num_ranks=1,
        seed=1,
        data=data,
        checkpoint=made,
        **COMMON,
    )
    return evaluate.run(request, silent)
