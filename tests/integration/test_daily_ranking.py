"""Ranking models retrained daily: three days, the middle one measured on shuffled labels, and one of them again.

A model of two labels is retrained for two days.
"""

import json
import shutil
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from mlflow import MlflowClient
from typer.testing import CliRunner

from flows import cli
from flows.daily_ranking import backfill, daily_ranking
from recsys_core import tracking
from recsys_core.artifacts import Checkpoint, ReplayedLog
from recsys_core.serving.service.recorder import Options, Recorder
from tasks.report_ranking_day import RankingDay

pytestmark = pytest.mark.usefixtures("prefect_server", "kept_ranks")
ROWS = 4_000
FIRST, LAST = date(2024, 1, 2), date(2024, 1, 4)


@pytest.fixture(scope="module")
def config(write_ctr_config: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ctr_config(tmp_path_factory.mktemp("daily-ranking"))


@pytest.fixture(scope="module")
def days(config: Path) -> list[RankingDay]:
    return backfill(str(config), FIRST, LAST)


def test_a_day_of_broken_labels_is_rejected_and_the_live_model_stays(days: list[RankingDay], config: Path) -> None:
    first, broken, _ = days
    assert (first.decision, first.release) == ("live", "1")
    assert first.metrics.champion is None
    assert (broken.decision, broken.release) == ("rejected", None)
    assert not broken.gate.passed
    assert "auc is 0." in broken.gate.reasons[0]
    assert "below the minimum of 0.6000" in broken.gate.reasons[0]
    client = MlflowClient(tracking.location(tracking.Config(), config.parent / "runs"))
    shown = client.get_run(broken.mlflow_run_id).data
    assert (shown.tags["decision"], shown.tags["gate"], shown.tags["release"]) == ("rejected", "rejected", "none")
    assert shown.metrics["champion/auc"] == broken.metrics.champion.auc
    assert shown.metrics["auc"] == broken.metrics.auc
    versions = _json("release", "list", str(config), "--json")
    assert {version["day"] for version in versions} == {str(d.day) for d in days if d.release}
    assert [version["day"] for version in versions if version["live"]] == [
        str(max(day.day for day in days if day.decision == "live"))
    ]


def test_a_model_learns_what_the_columns_say_and_beats_what_it_must(days: list[RankingDay]) -> None:
    metrics = days[0].metrics
    assert metrics.auc > 0.65
    assert metrics.baselines["rate"].auc == 0.5
    assert metrics.baselines["item_rate"].auc < metrics.auc
    assert metrics.slices["new_users"].metrics.num_rows < metrics.num_rows == ROWS


def test_a_day_goes_on_where_the_last_release_was_so_that_no_row_is_left_out(days: list[RankingDay]) -> None:
    assert [day.metrics.num_examples for day in days] == [2 * ROWS, ROWS, 2 * ROWS]
    spans = [(day.learned.first_day, day.learned.last_day) for day in days]
    start = date(2024, 1, 1)
    assert spans == [(start, date(2024, 1, 2)), (start, date(2024, 1, 3)), (start, date(2024, 1, 4))]
    released = Checkpoint.load(days[0].artifacts["train"]).digest
    for later in days[1:]:
        assert Checkpoint.load(later.artifacts["train"]).warm_started_from == released
        assert later.metrics.champion.num_rows == later.metrics.num_rows
        ours, live = (pq.read_table(later.artifacts[stage] / "rows") for stage in ("score", "score_champion"))
        shared = [name for name in ours.column_names if name not in ("score", "probability")]
        assert ours.select(shared) == live.select(shared)
        assert ours["score"] != live["score"]


def test_what_was_done_is_not_done_again(days: list[RankingDay], config: Path) -> None:
    again = daily_ranking(str(config), LAST)
    assert all(stage.cached for stage in again.stages.values())
    assert (again.metrics, again.release, again.run_id) == (days[-1].metrics, days[-1].release, days[-1].run_id)


def test_a_model_that_answers_logged_requests_otherwise_than_the_live_one_is_turned_down(
    days: list[RankingDay], config: Path, ctr: Path, tmp_path: Path
) -> None:
    rows = pq.read_table(ctr / "ds=2024-01-02").slice(0, 60).to_pylist()
    columns = {"user": ("user_id", "age", "gender"), "items": ("item_id", "category", "brand")}
    answer = json.dumps({"version": "tiny_ctr/1", "probability": [0.5] * len(rows)}).encode()
    recorder = Recorder(Options(folder=tmp_path / "log", share=1))
    for row in rows[:20]:
        user = {name: row[name] for name in columns["user"]}
        items = [{name: other[name] for name in columns["items"]} for other in rows]
        recorder.offer("/rank", "tiny_ctr/1", {"user": user, "items": items}, answer, 0.01, "a")
    recorder.close()
    changes = [f"gate.replay.log={tmp_path / 'log'}", "gate.replay.maximum_changed=0"]
    result = daily_ranking(str(config), FIRST, changes)
    assert [name for name, stage in result.stages.items() if not stage.cached] == [
        "score_champion",
        "evaluate",
        "replay",
        "publish",
    ]
    found = ReplayedLog.load(result.artifacts["replay"])
    assert (found.num_rows, found.unanswered, found.compared) == (20, 0, 20)
    assert found.champion == f"tiny_ctr/{days[-1].release}"
    assert found.changed > 0
    assert (result.decision, result.release) == ("rejected", None)
    assert "of the answers have another best item, over 20 logged requests" in " ".join(result.gate.reasons)
    where = ["--run-root", str(config.parent / "runs"), "--json"]
    live = _json("replay", str(tmp_path / "log"), "--release", "tiny_ctr@champion", *where)
    assert (live["release"], live["total"]["num_requests"], live["total"]["identical"]) == (found.champion, 20, 0)


def test_a_release_answers_as_the_state_that_it_was_exported_from(days: list[RankingDay], config: Path) -> None:
    where = ["--run-root", str(config.parent / "runs"), "--json"]
    found = _json("check-serving", "--release", "tiny_ctr@champion", *where)
    assert found["left_out"] == {"service": "no --url"}
    assert found["release"] == f"tiny_ctr/{days[-1].release}"
    for way in ("measured", "together"):
        assert found["ways"]["probability"][way]["identical"] == found["num_rows"] == 4
    eager = found["ways"]["probability"]["eager"]
    assert eager["max_difference"] <= eager["tolerance"]


def test_a_release_is_measured_by_hand_on_a_later_day(days: list[RankingDay], config: Path, ctr: Path) -> None:
    where = ["--release", "tiny_ctr@champion", "--run-root", str(config.parent / "runs"), "--config", str(config)]
    later = ["--input", str(ctr / "ds=2024-01-05")]
    found = _json("evaluate", *where, *later, "--json")
    assert found["num_rows"] == ROWS
    assert found["metrics"]["auc"] == pytest.approx(days[-1].metrics.auc, abs=1e-6)
    invoke: Callable[..., Any] = CliRunner().invoke
    refused = invoke(cli.app, ["evaluate", *where, *later, "--split", "test"])
    assert (refused.exit_code, "--split is of --data" in refused.stderr) == (2, True)
    shown = invoke(cli.app, ["features", "show", str(config)], catch_exceptions=False)
    assert shown.exit_code == 0, shown.output
    assert "item_id" in shown.stdout


def test_the_newest_day_that_can_be_run_needs_the_day_after(ctr: Path, config: Path) -> None:
    shutil.copytree(ctr / "ds=2024-01-05", config.parent / "later" / "ds=2024-01-05")
    with pytest.raises(ValueError, match="there are no two days in a row"):
        daily_ranking(str(config), None, [f"data.source={config.parent / 'later'}"])


def _json(*command: str) -> Any:
    invoke: Callable[..., Any] = CliRunner().invoke
    done = invoke(cli.app, list(command), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_a_state_that_passed_absorbs_the_rows_that_it_was_measured_on(days: list[RankingDay], config: Path) -> None:
    """The first day again, and the second: measured as it is on the broken day, it is turned down."""
    first, second = backfill(str(config), FIRST, date(2024, 1, 3), ["publish.absorb=true"])
    done = [name for name, stage in first.stages.items() if not stage.cached]
    assert done[-5:] == ["absorb_prepare", "absorb_train", "absorb_export", "absorb_score", "publish"]
    assert first.metrics.auc == days[0].metrics.auc
    assert first.absorbed is not None
    assert (first.absorbed.day, first.absorbed.num_examples, first.absorbed.refused) == (date(2024, 1, 3), ROWS, None)
    assert first.absorbed.held_out_loss < first.metrics.logloss
    made = Checkpoint.load(first.artifacts["absorb_train"])
    assert made.warm_started_from == Checkpoint.load(first.artifacts["train"]).digest
    versions = {str(version["version"]): version for version in _json("release", "list", str(config), "--json")}
    released = versions[first.release]
    assert released["learned"]["last_day"] == "2024-01-03"
    assert (config.parent / "runs" / released["checkpoint"]) == first.artifacts["absorb_train"]
    assert (second.metrics.num_examples, second.learned) == (0, made.learned)
    assert (second.decision, second.absorbed) == ("rejected", None)


def test_clicks_and_conversions_of_clicks_are_learned_daily_by_one_model(
    ctr: Path, write_ctr_config: Callable[[Path], Path], tmp_path: Path
) -> None:
    config = write_ctr_config(tmp_path)
    sections = yaml.safe_load(config.read_text())
    tasks = {"click": {"label": "click"}, "conversion": {"label": "conversion", "given": "click"}}
    sections["ranking"] = {"tasks": tasks, "group": "user_id"}
    sections["features"]["item"].append({"kind": "raw", "name": "price", "normalizer": "log1p"})
    sections["model"] = {"kind": "shared_bottom", "hidden": [32], "tasks": {"click": {}, "conversion": {}}}
    sections["train"]["num_epochs"] = 4
    sections["gate"] = {"minimum": 0.55, "maximum_drop": 0.1}
    config.write_text(yaml.safe_dump(sections))
    first, second = backfill(str(config), date(2024, 1, 1), date(2024, 1, 2))
    assert [(day.decision, day.release) for day in (first, second)] == [("live", "1"), ("live", "2")]
    assert [day.metrics.num_examples for day in (first, second)] == [ROWS, ROWS]
    trained = [Checkpoint.load(day.artifacts["train"]) for day in (first, second)]
    assert trained[1].warm_started_from == trained[0].digest
    assert second.learned.last_day == date(2024, 1, 2)
    for day, measured_on in ((first, "2024-01-02"), (second, "2024-01-03")):
        rows = pq.read_table(ctr / f"ds={measured_on}")
        clicks, conversions = (int(rows[name].to_numpy().sum()) for name in ("click", "conversion"))
        click, conversion = day.metrics.tasks["click"], day.metrics.tasks["conversion"]
        assert (click.num_rows, click.num_positives, click.auc) == (ROWS, clicks, day.metrics.auc)
        assert (conversion.num_rows, conversion.num_positives) == (clicks, conversions)
    names = ("click", "conversion")
    scores = pq.read_table(second.artifacts["score"] / "rows").column_names
    assert scores[-4:] == [f"{what}_{name}" for name in names for what in ("score", "probability")]
    client = MlflowClient(tracking.location(tracking.Config(), tmp_path / "runs"))
    shown = client.get_run(second.mlflow_run_id).data
    assert shown.metrics["tasks/conversion/auc"] == second.metrics.tasks["conversion"].auc
    assert json.loads(shown.tags["learned"]) == json.loads(second.learned.model_dump_json())
    # Judged by the conversions, on the same scores; what is live now is this very state.
    stricter = daily_ranking(str(config), date(2024, 1, 2), ["gate.task=conversion", "gate.minimum=0.99"])
    assert stricter.decision == "rejected"
    assert stricter.metrics.auc == stricter.metrics.tasks["conversion"].auc == second.metrics.tasks["conversion"].auc
    assert (
        stricter.metrics.champion.num_rows == stricter.metrics.num_rows == second.metrics.tasks["conversion"].num_rows
    )
    assert f"conversion auc is {stricter.metrics.auc:.4f}, below the minimum of 0.9900." in stricter.gate.reasons
    done = [name for name, stage in stricter.stages.items() if not stage.cached]
    assert done == ["score_champion", "evaluate", "publish"]
