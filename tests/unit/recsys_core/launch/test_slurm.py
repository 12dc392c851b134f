"""Real submitit, real torchrun; Slurm itself is a stand-in whose jobs are processes of this machine."""

from pathlib import Path

import fake_slurm
import psutil
import pytest
from obeying import Note, ranks_of, request, starts_of, wait_for

from recsys_core import launch
from recsys_core.launch import meeting
from recsys_core.launch.launchers import _remote, slurm
from recsys_core.progress import Event, silent


@pytest.fixture
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "spool"
    folder.mkdir()
    monkeypatch.setenv("PATH", fake_slurm.install(tmp_path / "slurm"))
    monkeypatch.setenv("FAKE_SLURM", str(folder))
    for name in ("LOOK_SECONDS", "SETTLE_SECONDS"):
        monkeypatch.setattr(_remote, name, 0.2)
    return folder


def test_two_nodes_meet_on_loopback_and_their_progress_comes_back(
    stage: Path, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cret")
    monkeypatch.setenv("TRY_TOKEN", "s3cret")
    events: list[Event] = []
    config = slurm.Config(
        num_nodes=2, num_ranks=1, threads_per_rank=2, partition="night", memory_gb=8, time_limit_minutes=90,
        options={"reservation": "daily"}, environment={"TRY_PLAIN": "1"},
    )  # fmt: skip
    note = launch.run("note", Note, request(stage, "write", reads="s3://bucket/log"), events.append, config)
    assert note.world_size == 2
    assert (stage / "secrets").read_text() == "AWS_SECRET_ACCESS_KEY TRY_PLAIN"
    messages = [event.message for event in events]
    assert messages.count("2") == 2
    ((number, batch),) = [(file.stem, file.read_text()) for file in spool.glob("*.batch")]
    assert f"Slurm job {number}: submitted" in messages
    assert any(message and message.startswith(f"Slurm job {number}: node 1 runs on ") for message in messages)
    for flag in ("nodes=2", "ntasks-per-node=1", "partition=night", "mem=8GB", "time=90", "reservation=daily"):
        assert f"#SBATCH --{flag}\n" in batch
    assert "s3cret" not in batch
    assert "this is run" in (stage / "note.log").read_text()


def test_without_a_cluster_its_jobs_are_processes_here(stage: Path) -> None:
    note = launch.run("note", Note, request(stage, "write"), silent, slurm.Config(num_nodes=2, cluster="local"))
    assert note.world_size == 2


@pytest.mark.parametrize("does", ["refuse", "fail"])
def test_how_the_stage_ended_comes_back(stage: Path, spool: Path, does: str) -> None:
    with pytest.raises(ValueError if does == "refuse" else RuntimeError) as error:
        launch.run("note", Note, request(stage, does), silent, slurm.Config())
    first, *rest = str(error.value).splitlines()
    if does == "refuse":
        assert first == "column 'x' is missing; add it"
    else:
        assert first.startswith("note: its process ended with code 1; the end of ")
        assert rest == ["  RuntimeError: lost"]


def test_a_rank_that_dies_is_started_again(stage: Path, spool: Path) -> None:
    config = slurm.Config(num_nodes=2, max_restarts=1)
    assert launch.run("note", Note, request(stage, "die once"), silent, config).world_size == 2
    assert starts_of(stage) == [2, 2]


@pytest.mark.parametrize("cluster", ["slurm", "local"])
@pytest.mark.parametrize("by", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_task_ends_the_job(stage: Path, spool: Path, by: type[BaseException], cluster: str) -> None:
    def interrupt(event: Event) -> None:
        if event.done:
            raise by

    config = slurm.Config.model_validate({"num_ranks": 2, "cluster": cluster})
    with pytest.raises(by):
        launch.run("note", Note, request(stage, "sleep"), interrupt, config)
    assert not any(psutil.pid_exists(pid) for pid in ranks_of(stage))
    assert cluster == "local" or list(spool.glob("*.cancelled"))
    assert not (stage / "note").exists()


def test_the_time_of_a_stage_does_not_run_while_it_waits_and_then_ends_it(stage: Path, spool: Path) -> None:
    (spool / "hold").touch()
    config = slurm.Config(start_timeout_seconds=1, stage_timeout_seconds=0.1)
    with pytest.raises(
        ValueError, match=r"note: Slurm job \d+ did not begin within launch.start_timeout_seconds = 1 \(PENDING\)"
    ):
        launch.run("note", Note, request(stage, "write"), silent, config)
    assert list(spool.glob("*.cancelled"))
    (spool / "hold").unlink()
    with pytest.raises(launch.OutOfTimeError, match="launch.stage_timeout_seconds = 3"):
        launch.run("note", Note, request(stage, "sleep"), silent, slurm.Config(stage_timeout_seconds=3))
    assert not any(psutil.pid_exists(pid) for pid in ranks_of(stage))


def test_a_job_whose_node_fails_before_it_begins_is_lost(stage: Path, spool: Path) -> None:
    (spool / "lose").touch()
    with pytest.raises(RuntimeError, match=r"note: Slurm job \d+ is lost \(NODE_FAIL\); see .*note\.log"):
        launch.run("note", Note, request(stage, "write"), silent, slurm.Config())


def test_what_sbatch_refuses_is_said_in_its_words(stage: Path, spool: Path) -> None:
    (spool / "refuse").touch()
    with pytest.raises(
        ValueError, match="does not take the job: .*invalid partition specified: nowhere.*launch.partition"
    ):
        launch.run("note", Note, request(stage, "write"), silent, slurm.Config(partition="nowhere"))
    assert not list((stage / "note.nodes").glob("*"))


def test_a_machine_without_slurm_is_named(stage: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="launch.cluster: local to try it here"):
        launch.run("note", Note, request(stage, "write"), silent, slurm.Config())


def test_a_node_that_shows_no_sign_of_life_is_lost(stage: Path, spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def silence(event: Event) -> None:
        if event.done:
            monkeypatch.setattr(meeting, "SILENT_SECONDS", -1.0)

    with pytest.raises(RuntimeError, match=r"node 0 of Slurm job \d+ is lost: it shows no sign of life"):
        launch.run("note", Note, request(stage, "sleep"), silence, slurm.Config())
    wait_for(lambda: not any(psutil.pid_exists(pid) for pid in ranks_of(stage)))


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"A-B": "1"}, "'A-B' is no name of a variable"),
        ({"DB_PASSWORD": "1"}, "DB_PASSWORD holds a credential.*set it where dayline is started"),
        ({"DB": "postgres://u:p@h/d"}, "DB holds a credential"),
    ],
)
def test_credentials_do_not_stand_in_a_config(environment: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        slurm.Config(environment=environment)
