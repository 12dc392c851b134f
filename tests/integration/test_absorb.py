"""`publish.absorb`: what is released has learned from the measured day too, and every row is learned from once."""

import datetime
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.daily import backfill
from recsys_core import config as configs
from recsys_core import registry, tracking
from recsys_core.artifacts import Checkpoint, Embeddings, Learned, TrainingData
from tasks.report import DayResult
from tasks.start_run import start_run

pytestmark = pytest.mark.usefixtures("prefect_server", "kept_ranks")
FIRST = datetime.date(2024, 1, 1)
DAYS = [FIRST + datetime.timedelta(days=number) for number in range(1, 4)]
ABSORBS = ["publish.absorb=true"]
MEASURED = [
    "ingest",
    "check",
    "preprocess",
    "train",
    "evaluate",
    "export",
    "embed",
    "index",
    "hitrate",
]
ABSORBED = [f"absorb_{stage}" for stage in ("preprocess", "train", "evaluate", "export", "embed", "index")]


@pytest.fixture(scope="module")
def config(write_config: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_config(tmp_path_factory.mktemp("absorb"))


@pytest.fixture(scope="module")
def days(config: Path) -> list[DayResult]:
    return backfill(str(config), DAYS[0], DAYS[1], ABSORBS)


def releases(config: Path) -> list[registry.ReleaseInfo]:
    loaded = configs.load(config)
    return registry.releases(tracking.location(loaded.tracking, loaded.run_root), loaded.name)


def learned_to(day: datetime.date) -> Learned:
    return Learned(first_day=FIRST, last_day=day)


def rows(table: pa.Table) -> list[dict[str, int]]:
    return table.select(["timestamp", "user_id", "item_id"]).to_pylist()


def test_each_row_up_to_the_newest_day_was_learned_from_once(days: list[DayResult], shop: Path) -> None:
    data = [TrainingData.load(day.artifacts[stage]) for day in days for stage in ("preprocess", "absorb_preprocess")]
    assert [(one.first_day, one.day, one.num_rows > 0) for one in data] == [
        (FIRST, DAYS[0], True),
        (DAYS[1], DAYS[1], True),
        (DAYS[1], DAYS[1], False),
        (DAYS[2], DAYS[2], True),
    ]
    read = [row for one in data for row in rows(pq.read_table(one.examples))]
    partitions = [shop / "interactions" / f"ds={day}" for day in (FIRST, *DAYS)]
    log = [row for path in partitions for row in rows(pq.read_table(path, partitioning=None))]
    assert sorted(map(str, read)) == sorted(map(str, log))
    made = [Checkpoint.load(days[0].artifacts[stage]) for stage in ("train", "absorb_train")]
    assert [one.num_rows for one in made] == [one.num_rows for one in data[:2]]


def test_the_second_day_measures_what_the_first_has_released_as_it_is(days: list[DayResult]) -> None:
    first, second = days
    chain = [Checkpoint.load(day.artifacts[stage]) for day in days for stage in ("train", "absorb_train")]
    assert [one.learned for one in chain] == [learned_to(day) for day in (DAYS[0], DAYS[1], DAYS[1], DAYS[2])]
    assert second.artifacts["train"] == first.artifacts["absorb_train"]
    assert chain[1].warm_started_from == chain[0].digest
    assert chain[3].warm_started_from == chain[1].digest
    assert second.metrics.num_examples == 0
    assert second.metrics.champion_hit_rate is None  # what is live is this very state, and replaced none


def test_the_release_is_the_absorbed_state_with_the_items_known_by_then(days: list[DayResult], config: Path) -> None:
    for day in days:
        assert list(day.stages) == [*MEASURED, *ABSORBED, "publish"]
    found = sorted(releases(config), key=lambda info: info.version)
    assert [(info.day, info.learned, info.live) for info in found] == [
        (DAYS[0], learned_to(DAYS[1]), False),
        (DAYS[1], learned_to(DAYS[2]), True),
    ]
    root = configs.load(config).run_root
    for day, info in zip(days, found, strict=True):
        assert (day.release, day.decision) == (str(info.version), "live")
        assert root / info.checkpoint == day.artifacts["absorb_train"]
        assert root / info.model == day.artifacts["absorb_export"]
        measured, absorbed = (Embeddings.load(day.artifacts[stage]) for stage in ("embed", "absorb_embed"))
        assert absorbed.num_items > measured.num_items
        index = pq.read_table(day.artifacts["publish"] / "index" / "id_map.parquet")
        assert index.num_rows == absorbed.num_items


def test_the_result_and_mlflow_say_what_was_absorbed(days: list[DayResult], config: Path) -> None:
    client = tracking.connect(f"sqlite:///{config.parent}/runs/mlflow.db")
    for day, last in zip(days, DAYS[1:], strict=True):
        absorbed = day.absorbed
        assert absorbed is not None
        assert (absorbed.day, absorbed.refused) == (last, None)
        assert absorbed.held_out_loss < day.metrics.held_out_loss
        data = client.get_run(day.mlflow_run_id).data
        assert data.tags["absorbed"] == str(last)
        assert json.loads(data.tags["learned"])["last_day"] == str(last)
        assert data.params["publish.absorb"] == "true"
        assert data.metrics["absorb/num_examples"] == absorbed.num_examples
        assert data.metrics["absorb/held_out_loss"] == absorbed.held_out_loss
        assert data.metrics["exact/hit_rate_at_20"] == day.metrics.hit_rate["20"]
        written = json.loads((config.parent / "runs" / "tiny" / str(day.day) / day.run_id / "result.json").read_text())
        assert written["absorbed"] == absorbed.model_dump(mode="json")


def test_a_rerun_finds_all_of_it_done(days: list[DayResult], config: Path) -> None:
    again = backfill(str(config), DAYS[0], DAYS[1], ABSORBS)
    for before, after in zip(days, again, strict=True):
        assert all(stage.cached for stage in after.stages.values())
        assert after.model_dump(exclude={"stages"}) == before.model_dump(exclude={"stages"})
    assert len(releases(config)) == 2


def test_other_features_continue_a_release_that_leaves_rows_to_learn_them_from(
    days: list[DayResult], config: Path
) -> None:
    """Version 2 has absorbed the 4th, on which nothing would be left to train the new feature; version 1 has not."""
    feature = {"kind": "id", "name": "city", "num_embeddings": 8}
    query = configs.load(config).model_dump(mode="json")["features"]["query"]
    changes = [f"features.query={json.dumps([*query, feature])}"]
    with start_run.fn(str(config), DAYS[2], ABSORBS) as run:
        assert run.base is not None
        assert (run.base.version, run.base.learned) == (2, learned_to(DAYS[2]))
        assert run.champion is not None
        assert run.champion.version == 1
    with start_run.fn(str(config), DAYS[2], [*ABSORBS, *changes]) as run:
        assert run.base is not None
        assert (run.base.version, run.base.learned) == (1, learned_to(DAYS[1]))
        assert run.champion is not None
        assert run.champion.version == 2
    absorbed = (
        r"release tiny version 1 of 2024-01-02 has absorbed all rows up to 2024-01-03, and none is left to learn from "
        r"what differs from it: .*city.*\. Run a later day, or start cold with train\.on_change: cold$"
    )
    with pytest.raises(ValueError, match=absorbed):
        start_run.fn(str(config), DAYS[1], [*ABSORBS, *changes])
