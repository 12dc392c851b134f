"""A small shop and what retrains it, against a real Prefect server and a real MLflow store."""

import datetime
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from prefect.testing.utilities import prefect_test_harness

from recsys_core import ingest
from recsys_core.datasets import synthetic
from recsys_core.progress import silent

FIRST_DAY = datetime.date(2024, 1, 1)
SHOP = {
    "first_day": FIRST_DAY,
    "num_days": 6,
    "num_users": 600,
    "new_users_per_day": 20,
    "num_items": 300,
    "new_items_per_day": 5,
    "interactions_per_day": 2_500,
    "num_categories": 8,
    "styles_per_category": 4,
    "missing_share": 0.05,
}
CONFIG = {
    "name": "tiny",
    "preprocess": {"history": {"max_length": 20}},
    "features": {
        "embedding_dim": 16,
        "query": [
            {"kind": "sequence", "name": "clicked", "column": "history__item_id", "table": "item_id"},
            {"kind": "sequence", "name": "clicked_category", "column": "history__category", "table": "category"},
            {"kind": "id", "name": "interests", "num_embeddings": 32},
            {"kind": "raw", "name": "age", "normalizer": "zscore"},
        ],
        "item": [
            {"kind": "id", "name": "item_id", "num_embeddings": 512},
            {"kind": "id", "name": "category", "num_embeddings": 32},
            {"kind": "raw", "name": "price", "normalizer": "log1p"},
        ],
    },
    "model": {"kind": "two_tower", "output_dim": 16, "query_hidden": [], "item_hidden": []},
    "sampler": {"num_negatives": 64},
    "train": {"batch_size": 128, "num_epochs": 4, "log_every_steps": 5, "checkpoint_every_steps": 20},
    "hitrate": {"ks": [10, 20, 50], "popularity_k": 20},
    "gate": {"k": 20, "maximum_drop": 0.5, "minimum_lift": 1.0},
    "publish": {"num_queries": 4},
    "tracking": {"system_metrics": False},
}


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """One temporary Prefect server for all tests: starting it takes long."""
    with prefect_test_harness(server_startup_timeout=180):
        yield


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six days of a log whose structure a model can find; the first five can be run."""
    log = tmp_path_factory.mktemp("log") / "shop"
    ingest.import_log(synthetic.Config.model_validate(SHOP), log, silent)
    return log


@pytest.fixture(scope="session")
def write_config(shop: Path) -> Callable[[Path], Path]:
    """Write the shop's config into a folder, with the runs beside it; return the file."""

    def write(directory: Path) -> Path:
        directory.mkdir(parents=True, exist_ok=True)
        sections = CONFIG | {"run_root": str(directory / "runs"), "data": {"kind": "daily", "source": str(shop)}}
        path = directory / "tiny.yaml"
        path.write_text(yaml.safe_dump(sections, sort_keys=False))
        return path

    return write
