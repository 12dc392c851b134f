"""An MLflow server that goes away while a run is being filled: nothing is lost or doubled; what needs it waits."""

import contextlib
import datetime
import json
import shutil
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from matplotlib.figure import Figure
from mlflow.exceptions import MlflowException

from recsys_core import config as configs
from recsys_core import tracking
from recsys_core.progress import Event
from recsys_core.tracking import spool, store
from tasks import start_run
from tasks.perform import listening

DAY = datetime.date(2024, 3, 1)
ROOT = Path(__file__).parents[2]


class Door:
    """A port that leads to the server's while it is open: starting a server again takes many seconds."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._port: int = self._listening.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self._port}"
        self._through: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def open(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", self._port))
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        """Refuse connections, and cut off those that there are."""
        if not self._threads:
            return
        # Asleep in `accept`, a thread does not notice that its socket is closed.
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        self._listening.close()
        for one in self._through:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads[1:]:
            thread.join()
        for one in self._through:
            one.close()
        self._through, self._threads = [], []

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                server = socket.create_connection(("127.0.0.1", self._to))
                self._through += [client, server]
                for pair in ((client, server), (server, client)):
                    self._threads.append(threading.Thread(target=self._copy, args=pair))
                    self._threads[-1].start()

    def _copy(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)


@pytest.fixture(scope="module")
def server(mlflow_server: Any) -> Any:
    return mlflow_server


@pytest.fixture
def door(server: Any) -> Iterator[Door]:
    made = Door(server.port)
    yield made
    made.close()


class Shop:
    """Runs of one config."""

    def __init__(self, uri: str, root: Path, name: str, **fields: float) -> None:
        known = {"uri": uri, "system_metrics": False, "check_seconds": 300, "flush_seconds": 0}
        self.config = tracking.Config.model_validate(known | fields)
        self.root, self.name, self.events = root, name, []

    def open(self, run_id: str) -> Any:
        identity = tracking.Identity(name=self.name, day=DAY, run_id=run_id, config_hash="h", code_version="v")
        return tracking.open_run(self.config, self.root, identity, {"run": run_id}, self.events.append)

    def spool(self, run_id: str) -> Path:
        return self.root / self.name / str(DAY) / run_id / spool.SPOOL

    def messages(self) -> list[str]:
        found = [event.message for event in self.events]
        self.events.clear()
        return found


def fill(run: Any, made: dict[str, Any], note: Path) -> None:
    """Everything that a run can be given."""
    with run.stage("train") as stage:
        for step in (2, 3, 4):
            stage.sink(Event(stage="train", step=step, metrics={"loss": 1 / step, "odd": 0.25}))
        stage.log_tags({"artifact": "a"})
    run.log_tags({"gate": "failed"})
    run.log_tags({"gate": "passed"})
    run.log_params({"new": 1})
    run.log_figure(Figure(), "empty")
    run.log_file(note)
    run.log_dataset(made["data"], "/log")


def shown(client: Any, run_id: str) -> dict[str, Any]:
    """What the server has of a run and its stages."""
    parent = client.get_run(run_id)
    (stage,) = client.search_runs([parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{run_id}'")
    return {
        "status": (parent.info.status, stage.info.status),
        "loss": [(m.step, m.value) for m in client.get_metric_history(stage.info.run_id, "loss")],
        "parent's": [(m.step, m.value) for m in client.get_metric_history(run_id, "train/loss")],
        "odd": [m.step for m in client.get_metric_history(stage.info.run_id, "odd")],
        "tags": (stage.data.tags["artifact"], parent.data.tags["gate"]),
        "params": parent.data.params["new"],
        "files": sorted(file.path for file in client.list_artifacts(run_id)),
        "plots": [file.path for file in client.list_artifacts(run_id, "plots")],
        "datasets": [entry.dataset.name for entry in parent.inputs.dataset_inputs],
    }


WHOLE = {
    "status": ("FINISHED", "FINISHED"),
    "loss": [(2, 1 / 2), (3, 1 / 3), (4, 1 / 4)],
    "parent's": [(2, 1 / 2), (3, 1 / 3), (4, 1 / 4)],
    "odd": [2, 3, 4],
    "tags": ("a", "passed"),
    "params": "1",
    "files": ["note.txt", "plots"],
    "plots": ["plots/empty.png"],
    "datasets": ["preprocess"],
}


def test_what_was_logged_while_it_was_away_is_sent_by_the_next_run_once(
    door: Door, tmp_path: Path, made_day: Callable[..., dict[str, Any]]
) -> None:
    shop = Shop(door.uri, tmp_path, "later")
    made, note = made_day(tmp_path / "made", DAY, 5), tmp_path / "note.txt"
    note.write_text("as it was")
    with shop.open("a1") as run:
        door.close()
        fill(run, made, note)
        note.unlink()
        kept = [json.loads(line) for line in shop.spool("a1").read_text().splitlines()]
    does = [entry["does"] for entry in kept]
    assert does[0] == "open"
    assert does[-6:] == ["tags", "tags", "params", "file", "file", "dataset"]
    first, last = shop.messages()
    assert f"MLflow at {door.uri} does not answer" in first
    assert "asked every 10 s" in first
    assert f"{len(kept) + 1} records of this run are kept in {shop.spool('a1')}" in last
    door.open()
    # What a process that dies has sent without being able to drop it is sent again.
    left = tmp_path / "left"
    shutil.copytree(shop.spool("a1").parent, left)
    with shop.open("b2"):
        pass
    (sent,) = shop.messages()
    assert sent == f"{len(kept) + 1} records of {DAY}, kept while MLflow was away, are sent"
    assert shown(run.client, run.mlflow_run_id) == WHOLE
    assert sorted(path.name for path in shop.spool("a1").parent.iterdir()) == ["lock"]
    shutil.copytree(left, shop.spool("a1").parent, dirs_exist_ok=True)
    with shop.open("a1") as again:
        assert again.mlflow_run_id == run.mlflow_run_id
    assert shown(run.client, run.mlflow_run_id) == WHOLE


def test_it_is_sent_as_soon_as_the_server_is_back(
    door: Door, tmp_path: Path, made_day: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "_PROBE_SECONDS", 0.0)
    shop = Shop(door.uri, tmp_path, "back")
    made, note = made_day(tmp_path / "made", DAY, 5), tmp_path / "note.txt"
    note.write_text("n")
    with shop.open("a1") as run:
        with run.stage("train") as stage:
            stage.sink(Event(stage="train", step=2, metrics={"loss": 1 / 2, "odd": 0.25}))
            door.close()
            stage.sink(Event(stage="train", step=3, metrics={"loss": 1 / 3, "odd": 0.25}))
            assert shop.spool("a1").exists()
            door.open()
            stage.sink(Event(stage="train", step=4, metrics={"loss": 1 / 4, "odd": 0.25}))
            assert not shop.spool("a1").exists()
            stage.log_tags({"artifact": "a"})
        run.log_tags({"gate": "passed"})
        run.log_params({"new": 1})
        run.log_figure(Figure(), "empty")
        run.log_file(note)
        run.log_dataset(made["data"], "/log")
    lost, back = shop.messages()
    assert "does not answer" in lost
    assert "answers again after" in back
    assert shown(run.client, run.mlflow_run_id) == WHOLE


def test_a_stage_s_run_is_made_once_though_the_answer_was_lost(
    door: Door, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool, "_PROBE_SECONDS", 0.0)
    shop = Shop(door.uri, tmp_path, "once")
    with shop.open("a1") as run:
        make = run.client.create_run

        def cut_off(*args: Any, **fields: Any) -> None:
            make(*args, **fields)
            raise requests.ConnectionError("cut off")

        with monkeypatch.context() as once:
            once.setattr(run.client, "create_run", cut_off)
            train = run.stage("train")
            stage = train.__enter__()
        stage.tag_at_end({"artifact": "a"})
        train.__exit__(None, None, None)
    lost, back = shop.messages()
    assert "does not answer (cut off)" in lost
    assert "answers again after" in back
    (child,) = run.client.search_runs([run.experiment_id], f"tags.`mlflow.parentRunId` = '{run.mlflow_run_id}'")
    assert (child.data.tags["artifact"], child.info.status) == ("a", "FINISHED")


def test_publishing_waits_for_it_and_then_says_so_in_one_line(door: Door, tmp_path: Path) -> None:
    shop = Shop(door.uri, tmp_path, "publish", wait_seconds=0)
    with shop.open("a1") as run:
        run.require()
        door.close()
        with pytest.raises(tracking.AwayError, match=r"has not answered for 0 s \([^()]+\).*run this again"):
            run.require()
        assert shop.messages() == []
    assert len(shop.messages()) == 2
    shop = Shop(door.uri, tmp_path, "publish", wait_seconds=300)
    door.open()
    with shop.open("a1") as run:
        door.close()
        run.log_tags({"kept": "yes"})
        run._outbox._sink = lambda event: (shop.events.append(event), "needs it" in event.message and door.open())
        run.require()
        assert run.client.get_run(run.mlflow_run_id).data.tags["kept"] == "yes"
        assert "up to 300 s: publishing needs it" in shop.messages()[-1]


def test_a_further_day_waits_for_it_to_start_and_a_first_one_does_not(door: Door, tmp_path: Path) -> None:
    def listen(event: Event) -> None:
        messages.append(event.message)
        door.open()

    def begin() -> str:
        begun.append(len(messages))
        client = tracking.connect(door.uri)
        if len(begun) == 1:
            door.close()
        with store.impatient(300):
            assert client.search_experiments()
        return "begun"

    messages: list[str] = []
    begun: list[int] = []
    changes = [f"tracking.uri={door.uri}", "tracking.wait_seconds=300", f"run_root={tmp_path}"]
    loaded = configs.load(ROOT / "configs" / "demo.yaml", changes)
    door.close()
    with pytest.raises(ValueError, match="MLflow does not answer there"):
        tracking.check(loaded.tracking, tmp_path, listen)
    assert not messages
    door.open()
    with listening(listen):
        assert start_run._begun(loaded, begin) == "begun"
    assert begun == [0, 1]
    assert f"waiting for tracking.uri {door.uri}" in messages[0]
    # What it refuses is not tried again.
    with pytest.raises(MlflowException, match="No Experiment"):
        start_run._begun(loaded, lambda: tracking.connect(door.uri).get_experiment("404"))


def test_a_server_that_hangs_is_away_too(server: Any, tmp_path: Path) -> None:
    shop = Shop(server.uri, tmp_path, "hangs")

    def fail() -> None:
        with shop.open("a1") as run:
            run._outbox._config = shop.config.model_copy(update={"check_seconds": 1})
            server.send(signal.SIGSTOP)
            raise ValueError("the disk is full")

    try:
        with pytest.raises(ValueError, match="the disk is full"):
            fail()
    finally:
        server.send(signal.SIGCONT)
    assert [json.loads(line)["does"] for line in shop.spool("a1").read_text().splitlines()] == ["end"]
    assert "timed out" in shop.messages()[0]


def test_what_the_server_refuses_is_set_aside_and_named(server: Any, tmp_path: Path) -> None:
    shop = Shop(server.uri, tmp_path, "refused")
    gone = spool.Entry(
        server=spool.server_of(server.uri),
        experiment_id="0",
        parent="f" * 32,
        stage=None,
        at=1,
        does="tags",
        tags={"a": "b"},
    )
    file = shop.spool("a1")
    file.parent.mkdir(parents=True)
    file.write_text(gone.model_dump_json() + "\n" + '{"cut off')
    with shop.open("b2"):
        pass
    assert "MLflow refuses what was kept" in shop.messages()[0]
    assert file.with_name("mlflow.refused.jsonl").is_file()
    assert not file.exists()
    # What is another server's waits for that.
    file.write_text(gone.model_copy(update={"server": "another"}).model_dump_json() + "\n")
    with shop.open("b2"):
        pass
    assert shop.messages() == []
    assert file.exists()
