"""From a service's log to a model: lists that were served, joined to clicks, are a day that a daily ranker learns from.

Whether an item is clicked depends on its number alone. The service is asked today; its log is given times of two days.
"""

import datetime
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from recsys_core import config as configs
from recsys_core.artifacts import LabelledData
from recsys_core.progress import silent
from recsys_core.ranking import evaluate, ingest, train
from recsys_core.ranking.prepare import days
from recsys_core.samplers import impressions as shown
from recsys_core.serving import impressions
from recsys_core.serving.service.recorder import SCHEMA, Options

DAYS = (datetime.date(2024, 1, 2), datetime.date(2024, 1, 3))
NUM_REQUESTS, K = 60, 8
COMMON = {"config_hash": "c" * 32, "code_version": "tests"}
CONFIG = {
    "name": "shown",
    "ranking": {"label": "click", "group": "request_id", "item": "item_id"},
    "features": {
        "embedding_dim": 8,
        "query": [
            {"kind": "raw", "name": "age", "normalizer": "zscore"},
            {"kind": "id", "name": "position", "num_embeddings": 16, "at_serving": 1},
        ],
        "item": [{"kind": "id", "name": "item_id", "num_embeddings": 256}],
    },
    "model": {"kind": "dlrm", "bottom_hidden": [4], "top_hidden": [16], "concat_pooled": True},
    "train": {
        "batch_size": 32,
        "num_epochs": 10,
        "sparse_optimizer": {"kind": "adagrad", "learning_rate": 0.1},
        "dense_optimizer": {"kind": "adam", "learning_rate": 0.01},
        "sharding": {"device": "cpu"},
    },
    "gate": {"minimum": 0.6},
}


def is_clicked(item: int) -> int:
    return item // 10 % 2


@pytest.fixture(scope="module")
def served(folders, run_service, tmp_path_factory) -> list[dict[str, Any]]:
    """What the service of a release has logged of requests by users who differ."""
    log = tmp_path_factory.mktemp("served")
    running = run_service({"release": folders["a"]}, logged=Options(folder=log, share=1))
    for number in range(NUM_REQUESTS):
        user = {"segment": f"s{number % 6}", "age": 20 + number, "history__item_id": [number % 60, 7]}
        status, _, _ = running.ask("/recommend", {"user": user, "k": K})
        assert status == 200
    running.close()
    rows = pa.concat_tables(map(pq.read_table, sorted(log.rglob("*.parquet")))).to_pylist()
    assert len(rows) == NUM_REQUESTS
    return rows


@pytest.fixture(scope="module")
def joined(served, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("joined")
    clicks: list[dict[str, Any]] = []
    for day, some in zip(DAYS, (served[::2], served[1::2]), strict=True):
        noon = datetime.datetime.combine(day, datetime.time(12), datetime.UTC)
        for number, row in enumerate(some):
            row["time"] = noon + datetime.timedelta(seconds=number)
            wanted = [item for item in json.loads(row["answer"])["item_ids"] if is_clicked(item)]
            at = row["time"] + datetime.timedelta(minutes=1)
            clicks += [{"request_id": row["request_id"], "item_id": item, "timestamp": at} for item in wanted]
        (root / "log" / f"date={day}" / "hour=12").mkdir(parents=True)
        table = pa.Table.from_pylist(some, SCHEMA)
        pq.write_table(table, root / "log" / f"date={day}" / "hour=12" / "a.parquet")
    # The clicks reach beyond the last day's window.
    later = noon + datetime.timedelta(days=1)
    clicks.append({"request_id": "of another day", "item_id": 1, "timestamp": later})
    pq.write_table(pa.Table.from_pylist(clicks), root / "clicks.parquet")
    report = impressions.run(
        impressions.Request(
            log=str(root / "log"),
            clicks=str(root / "clicks.parquet"),
            out=root / "out",
            now=later + datetime.timedelta(days=5),
            options=impressions.Options(leave_out=("history__item_id",)),
        ),
        silent,
    )
    assert [day.day for day in report.days if day.state == "joined"] == [*DAYS]
    return root / "out"


def test_a_daily_ranker_learns_what_is_clicked_of_what_was_served(joined: Path, tmp_path: Path) -> None:
    sections = {"run_root": str(tmp_path / "runs"), "data": {"kind": "labelled_days", "source": str(joined)}}
    (tmp_path / "shown.yaml").write_text(yaml.safe_dump(CONFIG | sections))
    config, day = configs.load(tmp_path / "shown.yaml"), DAYS[0]
    needed = ingest.needed(config.days, day, held_out=config.holdout, base_learned=None, window_days=None)
    log = ingest.run(
        ingest.Request(
            output=tmp_path / "ingest",
            config=config.ranking,
            data=config.days,
            day=day,
            import_root=tmp_path,
            **needed._asdict(),
            **COMMON,
        ),
        silent,
    )
    data: LabelledData = days.run(
        days.Request(
            output=tmp_path / "prepare",
            config=config.prepare,
            ranking=config.ranking,
            features=config.features,
            log=log,
            day=day,
            holdout=config.holdout,
            time_column=None,
            **COMMON,
        ),
        silent,
    )
    fields = {"ranking": config.ranking, "model": config.model, "num_ranks": 1, "seed": 0, "data": data, **COMMON}
    checkpoint = train.run(
        train.Request(output=tmp_path / "train", config=config.train, loss=config.loss, day=day, **fields), silent
    )
    asked = evaluate.Request(
        output=tmp_path / "evaluate",
        config=config.evaluate,
        sharding=config.train.sharding,
        checkpoint=checkpoint,
        **fields,
    )
    measured = evaluate.run(asked, silent)
    assert measured.num_rows == NUM_REQUESTS // 2 * K
    assert measured.metrics.auc is not None
    assert measured.metrics.auc > 0.9


def test_what_was_shown_and_left_is_drawn_as_negatives(joined: Path) -> None:
    rows = pa.concat_tables(map(pq.read_table, sorted(joined.glob("ds=*/*.parquet"))))
    assert rows["click"].to_pylist() == [is_clicked(item) for item in rows["item_id"].to_pylist()]
    left = rows["item_id"].to_numpy()[rows["click"].to_numpy() == 0]
    items = np.arange(120)
    counts = np.bincount(left, minlength=len(items))[: len(items)]
    found = shown.mixed(shown.Config(source=str(joined), ratio=0.25), DAYS[1], pa.array(items), np.ones(len(items)))
    np.testing.assert_allclose(found, 0.25 * counts / counts.sum() + 0.75 / len(items))
    assert not counts[[bool(is_clicked(item)) for item in items]].any()
