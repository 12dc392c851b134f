"""The whole flow, day after day, on planted structure: what is learnt, kept, refused and remembered."""

import contextlib
import datetime
import json
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pyarrow.parquet as pq
import pytest
from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.states import Cancelling, Completed, Running, StateType
from typer.testing import CliRunner

from flows import cli, liveness
from flows.daily import backfill, daily_retrain
from recsys_core import config as configs
from recsys_core import liveness as process
from recsys_core import registry, tracking
from recsys_core.artifacts import Checkpoint, ReplayedLog, TrainingData
from recsys_core.serving.service.recorder import Options, Recorder
from tasks.report import DayResult
from tasks.start_run import start_run

pytestmark = pytest.mark.usefixtures("prefect_server", "kept_ranks")
FIRST_DAY = datetime.date(2024, 1, 1)
DAYS = [FIRST_DAY + datetime.timedelta(days=number) for number in (2, 3)]
STAGES = ["ingest", "check", "preprocess", "train", "evaluate", "export", "embed", "index", "hitrate", "publish"]


@pytest.fixture(scope="module")
def config(write_config: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_config(tmp_path_factory.mktemp("days"))


@pytest.fixture(scope="module")
def days(config: Path) -> list[DayResult]:
    """Two days, each continuing the one before."""
    return backfill(str(config), DAYS[0], DAYS[1], [])


def releases(config: Path) -> list[registry.ReleaseInfo]:
    loaded = configs.load(config)
    return registry.releases(tracking.location(loaded.tracking, loaded.run_root), loaded.name)


def test_each_day_beats_popularity_and_goes_live(days: list[DayResult], config: Path) -> None:
    for result, day in zip(days, DAYS, strict=True):
        assert result.day == day
        assert result.metrics.hit_rate["20"] > 1.5 * result.metrics.baselines.popularity["20"]
        assert (result.gate.passed, result.decision) == (True, "live")
    assert [(info.day, info.live, info.previous) for info in releases(config)] == [
        (DAYS[1], True, False),
        (DAYS[0], False, True),
    ]


def test_the_second_day_continues_the_first_and_reads_no_row_twice(days: list[DayResult]) -> None:
    first, second = (Checkpoint.load(result.artifacts["train"]) for result in days)
    assert first.warm_started_from is None
    assert second.warm_started_from == first.digest
    data = [TrainingData.load(result.artifacts["preprocess"]) for result in days]
    assert [(one.first_day, one.day) for one in data] == [(FIRST_DAY, DAYS[0]), (DAYS[1], DAYS[1])]


def test_the_first_champion_is_what_the_second_is_measured_against(days: list[DayResult]) -> None:
    assert days[0].metrics.champion_hit_rate is None
    assert "embed_champion" not in days[0].stages
    champion = days[1].metrics.champion_hit_rate
    assert champion is not None
    assert champion.keys() == days[1].metrics.hit_rate.keys()


def test_the_result_is_on_disk_as_it_is_printed(days: list[DayResult], config: Path) -> None:
    written = config.parent / "runs" / "tiny" / str(DAYS[0]) / days[0].run_id / "result.json"
    result = json.loads(written.read_text())
    assert result.keys() >= {"run_id", "mlflow_run_id", "day", "release", "gate", "metrics", "stages", "artifacts"}
    assert result["metrics"].keys() >= {"hit_rate", "recall", "ndcg", "ann_recall", "baselines"}
    assert list(result["stages"]) == STAGES
    assert all(Path(path).is_dir() for path in result["artifacts"].values())


def test_a_second_identical_call_does_nothing_again(days: list[DayResult], config: Path) -> None:
    again = backfill(str(config), DAYS[0], DAYS[1], [])
    for before, after in zip(days, again, strict=True):
        assert all(stage.cached for stage in after.stages.values())
        assert after.model_dump(exclude={"stages"}) == before.model_dump(exclude={"stages"})
        assert after.stages.keys() == before.stages.keys()
    assert len(releases(config)) == 2


def test_stages_run_again_from_where_the_inputs_differ(days: list[DayResult], config: Path) -> None:
    changes = ["index={kind: flat}"]
    result = daily_retrain(str(config), DAYS[0], changes)
    assert [name for name, stage in result.stages.items() if not stage.cached] == [
        "embed_champion",
        "index",
        "hitrate",
        "publish",
    ]
    assert result.run_id != days[0].run_id
    # The newer day's model stays live.
    assert result.decision == "registered"


def test_a_failed_gate_is_a_completed_run_that_leaves_yesterday_live(days: list[DayResult], config: Path) -> None:
    live = next(info for info in releases(config) if info.live)
    changes = ["gate.minimum=1"]
    state = daily_retrain(str(config), DAYS[1], changes, return_state=True)
    assert state.is_completed()
    result = state.result()
    assert (result.gate.passed, result.decision, result.release) == (False, "rejected", None)
    assert "below the minimum of 1.0000" in result.gate.reasons[0]
    assert next(info for info in releases(config) if info.live) == live
    client = tracking.connect(f"sqlite:///{config.parent}/runs/mlflow.db")
    assert client.get_run(result.mlflow_run_id).data.tags["decision"] == "rejected"


def test_a_model_that_answers_logged_requests_otherwise_than_the_live_one_is_turned_down(
    days: list[DayResult], config: Path, tmp_path: Path
) -> None:
    live = next(info for info in releases(config) if info.live)
    columns = ["history__item_id", "history__category", "interests", "age"]
    users = pq.read_table(TrainingData.load(days[1].artifacts["preprocess"]).ground_truth, columns=columns)
    recorder = Recorder(Options(folder=tmp_path / "log", share=1))
    for user in users.slice(0, 20).to_pylist():
        recorder.offer("/recommend", "tiny/1", {"user": user, "k": 5}, b"{}", 0.01, "a")
    recorder.close()
    changes = [f"gate.replay.log={tmp_path / 'log'}", "gate.replay.minimum_overlap=1"]
    result = daily_retrain(str(config), DAYS[0], changes)
    found = ReplayedLog.load(result.artifacts["replay"])
    assert (found.num_rows, found.unanswered, found.compared) == (20, 0, 20)
    assert found.champion == f"tiny/{live.version}"
    assert found.overlap < 1
    assert (result.decision, result.release) == ("rejected", None)
    assert "items come again, over 20 logged requests" in " ".join(result.gate.reasons)


def test_the_flow_page_shows_runs_by_day_and_the_result(days: list[DayResult]) -> None:
    with get_client(sync_client=True) as client:
        of_day = [run for run in client.read_flow_runs() if run.name == f"tiny {DAYS[0]}"]
        notes = {one.flow_run_id: one for one in client.read_artifacts() if one.key == "day"}
        shown = next(run for run in of_day if "version 1 is live" in str(notes[run.id].data))
        assert shown.state is not None
        assert shown.state.type == StateType.COMPLETED
        only = FlowRunFilter.model_validate({"id": {"any_": [shown.id]}})
        tasks = {task.name for task in client.read_task_runs(flow_run_filter=only)}
        assert {f"train tiny {DAYS[0]}", f"publish tiny {DAYS[0]}", f"gate tiny {DAYS[0]}"} <= tasks
        keys = {one.key for one in client.read_artifacts() if one.flow_run_id == shown.id}
    assert keys == {"data-contract", "day", "hit-rate"}


@pytest.mark.parametrize(
    ("day", "changes", "expected"),
    [
        (datetime.date(2023, 1, 1), [], r"no interactions for 2023-01-01 .*the nearest that can be run: 2024-01-01"),
        (FIRST_DAY + datetime.timedelta(days=5), [], "no interactions for 2024-01-07"),
        (None, ["data.source=/nowhere"], "/nowhere: has no folder 'interactions'"),
        (None, ["tracking.uri=http://127.0.0.1:9"], "tracking.uri http://127.0.0.1:9: MLflow does not answer"),
        (None, ["train.batch_sizes=1"], "train.batch_sizes: unknown key; did you mean batch_size?"),
    ],
)
def test_bad_input_is_one_clear_error(
    config: Path, day: datetime.date | None, changes: list[str], expected: str
) -> None:
    with pytest.raises(ValueError, match=expected):
        daily_retrain(str(config), day, changes)


def test_a_change_of_features_tables_and_layers_is_taken_over_refused_or_starts_cold(
    days: list[DayResult], config: Path
) -> None:
    day = DAYS[1] + datetime.timedelta(days=1)
    query = configs.load(config).model_dump(mode="json")["features"]["query"]
    years = {"kind": "raw", "name": "years", "column": "age", "boundaries": [30, 50]}
    change = {
        "features.query": [years, *(one for one in query if one["name"] != "interests")],
        "features.item[name=category].num_embeddings": 64,
        "features.embedding_dim": 24,
        "model.item_hidden": [32],
    }
    asked = str(config), day, [json.dumps(change)]
    refused = r"train.on_change: refuse, and release tiny version 2 .*: feature interests: gone"
    with pytest.raises(ValueError, match=refused):
        start_run.fn(*asked[:2], [*asked[2], "train.on_change=refuse"])
    with start_run.fn(*asked[:2], [*asked[2], "train.on_change=cold"]) as run:
        assert run.base is None
    result = daily_retrain(*asked)
    checkpoint = Checkpoint.load(result.artifacts["train"])
    assert checkpoint.warm_started_from == Checkpoint.load(days[1].artifacts["train"]).digest
    report = checkpoint.carried.read_text()
    assert "changed: feature interests: gone\n" in report
    assert "16 of 24" in report
    # What the live model reads is there though the features of now do not.
    assert result.metrics.champion_hit_rate is not None
    assert result.metrics.hit_rate["20"] > 1.5 * result.metrics.baselines.popularity["20"]
    client = tracking.connect(tracking.location(configs.load(config).tracking, configs.load(config).run_root))
    assert "carried.txt" in [file.path for file in client.list_artifacts(result.mlflow_run_id)]
    tags = client.get_run(result.mlflow_run_id).data.tags
    assert tags["warm_start"].startswith(f"release tiny version 2 of {DAYS[1]} is continued with changes: feature")


def test_flow_runs_whose_process_died_are_ended_and_those_of_others_stay(tmp_path: Path) -> None:
    @flow
    def nothing() -> None: ...

    @task
    def work() -> None: ...

    began = {"dead": Running(), "asked to end": Cancelling(), "done": Completed(), "alive": Running()}
    with get_client(sync_client=True) as client, contextlib.ExitStack() as living:
        runs = {name: client.create_flow_run(nothing, state=state).id for name, state in began.items()}
        within = client.create_task_run(work, runs["dead"], "0", state=Running()).id
        for name, run in [*runs.items(), ("of another server", uuid4())]:
            with contextlib.ExitStack() as held:
                held.enter_context(process.held(tmp_path / str(run)))
                if name == "alive":
                    living.push(held.pop_all())
        (tmp_path / ".hidden").touch()
        liveness.end_dead(client, tmp_path)
        ended = {name: client.read_flow_run(run).state for name, run in runs.items()}
        assert {name: state and state.type.value for name, state in ended.items()} == {
            "dead": "CRASHED",
            "asked to end": "CANCELLED",
            "done": "COMPLETED",
            "alive": "RUNNING",
        }
        assert "was killed" in str(ended["dead"] and ended["dead"].message)
        state = client.read_task_run(within).state
        assert state is not None
        assert state.is_crashed()
        left = {path.name for path in tmp_path.iterdir()}
        assert {str(runs["alive"]), ".hidden"} <= left
        assert not left & {str(runs[name]) for name in ("dead", "asked to end", "done")}
        assert len(left) == 3


def test_a_rollback_says_what_is_live_and_another_goes_forward_again(days: list[DayResult], config: Path) -> None:
    live, previous = (next(info for info in releases(config) if getattr(info, one)) for one in ("live", "previous"))
    back = CliRunner().invoke(cli.app, ["release", "rollback", str(config), "--json"], catch_exceptions=False)
    assert json.loads(back.stdout)["version"] == previous.version
    forward = CliRunner().invoke(cli.app, ["release", "rollback", str(config), "--version", str(live.version)])
    assert forward.stdout == f"tiny: version {live.version} of {live.day} is live\n"
    assert [info.version for info in releases(config) if info.live] == [live.version]
