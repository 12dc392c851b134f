"""What a release served and what was clicked of it, joined: a daily ranker learns from it, and the next retrieval too.

Users click every third item, whatever they see. The service is asked today; its log is given the times of two days.
"""

import datetime
import http.client
import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from flows import cli
from flows.daily import daily_retrain
from flows.daily_ranking import daily_ranking
from recsys_core.artifacts import Checkpoint, TrainingData
from recsys_core.features import Engine
from recsys_core.serving.service.recorder import SCHEMA
from tasks.report import DayResult

pytestmark = pytest.mark.usefixtures("prefect_server")
DAYS = (datetime.date(2024, 1, 4), datetime.date(2024, 1, 5))
SHORT = ["train.num_epochs=1", "hitrate.sweep=[]", "gate.minimum_lift=0.1"]
NUM_REQUESTS, K = 160, 10
RANKER = {
    "name": "tiny_shown",
    "ranking": {"label": "click", "group": "request_id", "item": "item_id"},
    "features": {
        "embedding_dim": 8,
        "query": [
            {"kind": "raw", "name": "age", "normalizer": "zscore"},
            {"kind": "id", "name": "position", "num_embeddings": 16, "at_serving": 1},
        ],
        "item": [{"kind": "id", "name": "item_id", "num_embeddings": 512}],
    },
    "model": {"kind": "dlrm", "bottom_hidden": [4], "top_hidden": [16], "concat_pooled": True},
    "train": {
        "batch_size": 64,
        "num_epochs": 8,
        "sparse_optimizer": {"kind": "adagrad", "learning_rate": 0.1},
        "dense_optimizer": {"kind": "adam", "learning_rate": 0.01},
    },
    "gate": {"minimum": 0.8, "maximum_drop": 0.5},
    "publish": {"num_rows": 4},
    "tracking": {"system_metrics": False},
}


@pytest.fixture(scope="module")
def config(write_config: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_config(tmp_path_factory.mktemp("impressions"))


@pytest.fixture(scope="module")
def released(config: Path) -> DayResult:
    result = daily_retrain(str(config), DAYS[0], SHORT)
    assert result.decision == "live"
    return result


def run_of(config: Path, result: DayResult) -> Path:
    return config.parent / "runs" / "tiny" / str(result.day) / result.run_id


@pytest.fixture(scope="module")
def served(config: Path, released: DayResult) -> list[dict[str, Any]]:
    """Ask the release for lists of users of its day, and return what the service has logged."""
    run, log = run_of(config, released), config.parent / "served"
    data = TrainingData.load(run / "preprocess")
    columns = Engine.load(data.engine).columns("query")
    users = pq.read_table(data.ground_truth).select(columns).slice(0, NUM_REQUESTS).to_pylist()
    with serving("--run", str(run), "--log", str(log), "--log-share", "1") as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
        for number in range(NUM_REQUESTS):
            body = json.dumps({"user": users[number % len(users)], "k": K})
            connection.request("POST", "/recommend", body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            answer = response.read()
            assert response.status == 200, answer
    rows = pa.concat_tables(map(pq.read_table, sorted(log.rglob("*.parquet")))).to_pylist()
    assert len(rows) == NUM_REQUESTS
    return rows


class serving:  # noqa: N801 - a context
    """`dayline serve` in a process of its own; it ends cleanly with the context, its log written."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-c", "from flows.cli import main; main()", "serve", "--port", "0"]
        self._process = subprocess.Popen([*command, *arguments], stderr=subprocess.PIPE, text=True)

    def __enter__(self) -> int:
        port = 0
        for line in self._lines():
            if found := re.search(r"listening on http://127\.0\.0\.1:(\d+)", line):
                port = int(found[1])
            if line.startswith("serving"):
                break
        assert port
        return port

    def _lines(self) -> Iterator[str]:
        assert self._process.stderr is not None
        return iter(self._process.stderr)

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        rest = [*self._lines()]
        assert self._process.wait() == 0, rest


@pytest.fixture(scope="module")
def impressions(config: Path, served: list[dict[str, Any]]) -> Path:
    """Join the lists, half of them to each of the two days, to what was clicked."""
    log, clicks = config.parent / "log", []
    for day, some in zip(DAYS, (served[::2], served[1::2]), strict=True):
        noon = datetime.datetime.combine(day, datetime.time(12), datetime.UTC)
        for number, row in enumerate(some):
            row["time"] = noon + datetime.timedelta(seconds=number)
            wanted = [item for item in json.loads(row["answer"])["item_ids"] if item % 3 == 0]
            seconds = int(row["time"].timestamp()) + 60
            clicks += [{"request_id": row["request_id"], "item_id": item, "timestamp": seconds} for item in wanted]
        (log / f"date={day}" / "hour=12").mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(some, SCHEMA), log / f"date={day}" / "hour=12" / "a.parquet")
    # The clicks reach beyond the last day's window.
    clicks.append({"request_id": "of a later day", "item_id": 0, "timestamp": seconds + 86_400})
    pq.write_table(pa.Table.from_pylist(clicks), config.parent / "clicks.parquet")
    out = config.parent / "joined"
    command = ["data", "join-impressions", "--log", log, "--clicks", config.parent / "clicks.parquet", "--out", out]
    done = CliRunner().invoke(cli.app, [*map(str, command), "--leave-out", "history__item_id,history__category"])
    assert done.exit_code == 0, done.output
    assert sorted(folder.name for folder in out.glob("ds=*")) == [f"ds={day}" for day in DAYS]
    return out


def shown(impressions: Path) -> pa.Table:
    return pa.concat_tables(map(pq.read_table, sorted(impressions.glob("ds=*/*.parquet"))))


def test_a_daily_ranker_learns_what_is_clicked_of_what_was_served(config: Path, impressions: Path) -> None:
    data = {"kind": "labelled_days", "source": str(impressions), "time_column": "time"}
    file = config.parent / "tiny_shown.yaml"
    file.write_text(yaml.safe_dump(RANKER | {"run_root": str(config.parent / "runs"), "data": data}))
    rows = shown(impressions)
    assert rows["click"].to_pylist() == [int(item % 3 == 0) for item in rows["item_id"].to_pylist()]
    result = daily_ranking(str(file), DAYS[0])
    assert (result.decision, result.day) == ("live", DAYS[0])
    # Measured on the next day's lists, of which the position is not read.
    assert result.metrics.auc is not None
    assert result.metrics.auc > 0.9


def test_the_next_day_s_negatives_are_what_was_shown_and_left(config: Path, impressions: Path) -> None:
    sampler = ["kind=impressions", f"source={impressions}", "window_days=2", "ratio=0.25", "num_negatives=64"]
    chosen = [*SHORT, *(f"sampler.{one}" for one in sampler), "launch.num_ranks=2"]
    result = daily_retrain(str(config), DAYS[1], chosen)
    assert result.decision == "live"
    run = run_of(config, result)
    items = pq.read_table(TrainingData.load(run / "preprocess").items)
    rows = shown(impressions)
    unclicked = rows["item_id"].to_numpy()[rows["click"].to_numpy() == 0]
    left = np.array([(unclicked == item).sum() for item in items["item_id"].to_pylist()])
    rest = items["sampling_weight"].to_numpy() - 0.25 * left / left.sum()
    assert left.sum() == len(unclicked)
    assert rest.min() > -1e-12
    assert rest.sum() == pytest.approx(0.75)
    assert Checkpoint.load(run / "train").num_ranks == 2
