"""A ranking day as its stages leave it, for the rooms that publish and serve it."""

import datetime
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from moto.server import ThreadedMotoServer

COMMON = {"config_hash": "c" * 32, "code_version": "tests"}
FEATURES = {
    "embedding_dim": 4,
    "query": [
        {"kind": "id", "name": "user", "num_embeddings": 16},
        {"kind": "raw", "name": "age"},
        {"kind": "id", "name": "tags", "num_embeddings": 16},
        # What a model is asked with, and shows of itself, does not have it.
        {"kind": "id", "name": "position", "num_embeddings": 8, "at_serving": 1},
    ],
    "item": [
        {"kind": "id", "name": "item", "num_embeddings": 16},
        {
            "kind": "id",
            "name": "cell",
            "column": "item",
            "encoding": "hash",
            "num_embeddings": 6,
            "input": "encoded",
            "out_of_range": "drop",
        },
        {"kind": "id", "name": "shelf", "encoding": "identity", "num_embeddings": 10},
    ],
}


@pytest.fixture(scope="session")
def made_ranking_day() -> Callable[..., dict[str, Any]]:
    """Run a ranking day's stages on a small table, up to what `publish` needs.

    Call it with the run's directory, a day, a seed, and whether there are two tasks: `click`, and `conversion` of the
    clicks. The artifacts' names are those of publish.Request's fields.
    """
    return _made


def _rows(num_rows: int, seed: int) -> pa.Table:
    rng = np.random.default_rng(seed)
    user, item = rng.integers(0, 8, num_rows), rng.integers(0, 8, num_rows)
    return pa.table(
        {
            "label": ((user % 2 == item % 2) ^ (rng.random(num_rows) < 0.2)).astype(np.int8),
            "bought": item > 3,
            "user": [f"u{n}" if n else None for n in user],
            "item": item,
            "shelf": item % 10,
            "age": rng.random(num_rows),
            "tags": pa.array([["a", None][: n % 3] for n in range(num_rows)], pa.list_(pa.string())),
            "position": rng.integers(1, 4, num_rows),
        }
    )


def _made(run_directory: Path, day: datetime.date, seed: int, *, several: bool = False) -> dict[str, Any]:
    from recsys_core.datasets.labelled import splits
    from recsys_core.features import Config as Features
    from recsys_core.losses import binary_cross_entropy
    from recsys_core.models import dlrm, shared_bottom
    from recsys_core.progress import silent
    from recsys_core.ranking import Config, evaluate, export, predict, prepare, train
    from recsys_core.sections.export import Config as Export
    from recsys_core.training.config import Config as Train

    source = run_directory / "source"
    for split, num_rows in (("train", 200), ("test", 50)):
        (source / split).mkdir(parents=True)
        pq.write_table(_rows(num_rows, seed + num_rows), source / split / "part-0.parquet", row_group_size=30)
    config = Train.model_validate({"batch_size": 50, "num_epochs": 4, "sharding": {"device": "cpu"}})
    ranking, model = Config(), dlrm.Config(bottom_hidden=(4,), top_hidden=(8,), concat_pooled=True)
    if several:
        labels = {"click": {"label": "label"}, "conversion": {"label": "bought", "given": "click"}}
        ranking = Config.model_validate({"tasks": labels})
        model = shared_bottom.Config.model_validate({"hidden": [8], "tasks": {name: {} for name in labels}})

    def at(stage: str) -> dict[str, Any]:
        return {"output": run_directory / stage, **COMMON}

    data = prepare.run(
        prepare.Request(
            config=ranking,
            data=splits.Config(source=str(source), day=day),
            features=Features.model_validate(FEATURES),
            import_root=run_directory,
            fingerprint="f",
            **at("prepare"),
        ),
        silent,
    )
    checkpoint = train.run(
        train.Request(
            config=config,
            ranking=ranking,
            model=model,
            loss=binary_cross_entropy.Config(),
            num_ranks=1,
            seed=seed,
            day=day,
            data=data,
            **at("train"),
        ),
        silent,
    )
    exported = export.run(
        export.Request(config=Export(), model=model, data=data, checkpoint=checkpoint, **at("export")), silent
    )
    predictions = predict.run(
        predict.Request(
            config=predict.Config(reserved_columns=("label",), batch_size=20),
            source="test",
            source_digest="d",
            data=data,
            stage="score",
            model=exported,
            **at("score"),
        ),
        silent,
    )
    evaluation = evaluate.run(
        evaluate.Request(
            config=evaluate.Config(),
            ranking=ranking,
            model=model,
            sharding=config.sharding,
            num_ranks=1,
            seed=seed,
            data=data,
            checkpoint=checkpoint,
            **at("evaluate"),
        ),
        silent,
    )
    return {
        "data": data,
        "split": "test",
        "checkpoint": checkpoint,
        "model": exported,
        "predictions": predictions,
        "evaluation": evaluation,
    }


@pytest.fixture(scope="session")
def s3_address() -> Iterator[str]:
    """The address of an S3 server on the loopback interface: one for all tests, as clients are kept by the process."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(s3_address: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client of the S3 server, which the environment names."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL_S3": s3_address,
    }.items():
        monkeypatch.setenv(name, value)
    return boto3.client("s3")
