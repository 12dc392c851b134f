"""A small shop and what retrains it, against a real Prefect server and a real MLflow store."""

import contextlib
import datetime
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from prefect.settings import get_current_settings
from prefect.testing import utilities

from recsys_core import ingest
from recsys_core.datasets import synthetic
from recsys_core.datasets.labelled import _impressions
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
    "sampler": {"kind": "weighted", "num_negatives": 64},
    "train": {"batch_size": 128, "num_epochs": 4, "log_every_steps": 5, "checkpoint_every_steps": 20},
    "hitrate": {"ks": [10, 20, 50], "popularity_k": 20},
    "gate": {"k": 20, "maximum_drop": 0.5, "minimum_lift": 1.0},
    "publish": {"num_queries": 4},
    "tracking": {"system_metrics": False},
}
# The fourth day's labels follow from nothing.
CTR = {"num_days": 5, "rows_per_day": 4_000, "num_users": 300, "num_items": 100, "shuffled_days": ["2024-01-04"]}
CTR_CONFIG = {
    "name": "tiny_ctr",
    "ranking": {"label": "click", "group": "user_id", "item": "item_id"},
    "features": {
        "embedding_dim": 16,
        "query": [
            {"kind": "id", "name": "user_id", "num_embeddings": 1024},
            {"kind": "id", "name": "age", "num_embeddings": 16},
            {"kind": "id", "name": "gender", "num_embeddings": 8},
        ],
        "item": [
            {"kind": "id", "name": "item_id", "num_embeddings": 512},
            {"kind": "id", "name": "category", "num_embeddings": 32},
            {"kind": "id", "name": "brand", "num_embeddings": 64},
        ],
    },
    "model": {"kind": "dlrm", "top_hidden": [32]},
    "train": {
        "batch_size": 64,
        "num_epochs": 2,
        "sparse_optimizer": {"kind": "adagrad", "learning_rate": 0.1},
        "dense_optimizer": {"kind": "adam", "learning_rate": 0.003},
    },
    "gate": {"minimum": 0.6, "maximum_drop": 0.05, "slices": {"new_users": {}}},
    "publish": {"num_rows": 4},
    "tracking": {"system_metrics": False},
}


@pytest.fixture(scope="session", autouse=True)
def _prefect_database(prefect_home: Path) -> None:
    """Commands that start a server find the database made."""


@pytest.fixture(scope="session")
def prefect_server(prefect_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One temporary Prefect server for all tests, as starting it takes long; yields the API's address."""
    database = tmp_path_factory.mktemp("prefect-server")
    shutil.copy(prefect_home / "prefect.db", database / "prefect-test.db")
    with contextlib.ExitStack() as started:
        with pytest.MonkeyPatch.context() as patched:
            # It is not what is measured, and starts sooner without.
            patched.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
            patched.setattr(utilities, "mkdtemp", lambda: str(database))
            started.enter_context(utilities.prefect_test_harness(server_startup_timeout=600))
        yield str(get_current_settings().api.url)


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six days of a log whose structure a model can find; the first five can be run."""
    log = tmp_path_factory.mktemp("log") / "shop"
    ingest.import_log(synthetic.Config.model_validate(SHOP), log, silent)
    return log


@pytest.fixture(scope="session")
def write_config(shop: Path, make_store: Callable[[Path], Path]) -> Callable[[Path], Path]:
    """Write the shop's config into a folder, with the runs beside it; return the file."""

    def write(directory: Path) -> Path:
        make_store(directory / "runs")
        sections = CONFIG | {"run_root": str(directory / "runs"), "data": {"kind": "daily", "source": str(shop)}}
        path = directory / "tiny.yaml"
        path.write_text(yaml.safe_dump(sections, sort_keys=False))
        return path

    return write


@pytest.fixture(scope="session")
def ctr(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five days of impressions; the first four can be run."""
    log = tmp_path_factory.mktemp("ctr") / "ctr"
    _impressions.write(_impressions.Config.model_validate(CTR), log, silent)
    return log


@pytest.fixture(scope="session")
def write_ctr_config(ctr: Path, make_store: Callable[[Path], Path]) -> Callable[[Path], Path]:
    """Write the config of a ranking model that is retrained daily into a folder; see `write_config`."""

    def write(directory: Path) -> Path:
        make_store(directory / "runs")
        places = {"run_root": str(directory / "runs"), "data": {"kind": "labelled_days", "source": str(ctr)}}
        path = directory / "tiny_ctr.yaml"
        path.write_text(yaml.safe_dump(CTR_CONFIG | places, sort_keys=False))
        return path

    return write


class Mlflow:
    """MLflow's server, or another of its programs, in a session of its own, so that it goes with all its processes."""

    def __init__(self, directory: Path, health: str, arguments: tuple[str, ...], environment: dict[str, str]) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.log = directory / "log"
        self._directory, self._health, self._arguments = directory, health, arguments
        # It is not what is measured, and starts sooner without.
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")} | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
            **environment,
        }
        self.start()

    def start(self) -> None:
        """Start it, on the port that it had before."""
        mlflow = [str(Path(sys.executable).parent / "mlflow"), *self._arguments]
        with self.log.open("a") as log:
            self._process = subprocess.Popen(
                [*mlflow, "--host", "127.0.0.1", "--port", str(self.port)],
                cwd=self._directory,
                env=self._environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + 500
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(self.log.read_text())
            time.sleep(0.2)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(self.uri + self._health, timeout=5) as response:
                return response.status == 200
        except OSError:
            return False

    def send(self, number: signal.Signals) -> None:
        """Send a signal to all its processes."""
        os.killpg(self._process.pid, number)

    def stop(self) -> None:
        """Kill it."""
        if self._process.poll() is None:
            self.send(signal.SIGKILL)
        self._process.wait()


@pytest.fixture(scope="session")
def start_mlflow(make_store: Callable[[Path], Path]) -> Iterator[Callable[..., Mlflow]]:
    """Start MLflow's server on a folder, or another program of MLflow's with what it is asked for health."""
    started: list[Mlflow] = []

    def start(directory: Path, health: str = "/health", *arguments: str, **environment: str) -> Mlflow:
        make_store(directory)
        store = ["--backend-store-uri", f"sqlite:///{directory}/mlflow.db"]
        server = ["server", "--workers", "1", *store, "--artifacts-destination", str(directory / "artifacts")]
        started.append(Mlflow(directory, health, arguments or tuple(server), environment))
        return started[-1]

    yield start
    for one in started:
        one.stop()


@pytest.fixture(scope="session")
def mlflow_server(start_mlflow: Callable[..., Mlflow], tmp_path_factory: pytest.TempPathFactory) -> Mlflow:
    """One server for all tests that leave it alive."""
    return start_mlflow(tmp_path_factory.mktemp("mlflow"))
