"""`dayline train`, `evaluate`, `export` and `embed` one after the other, with nothing between them but folders."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from flows import alone
from flows.cli import app
from recsys_core import launch
from recsys_core.artifacts import Checkpoint, ExportedModel, HeldOut
from recsys_core.exported import tables
from recsys_core.features import Engine
from recsys_core.progress import Event
from recsys_core.retrieval import evaluate, export, train

_STAGES = {"train": train, "evaluate": evaluate, "export": export, "embed_table": tables}


@pytest.fixture
def command(monkeypatch):
    """Run a command whose stage stays in this process; return its result."""

    def in_process(stage, record, request, sink, config):
        module = _STAGES[stage]
        request.output.parent.mkdir(parents=True, exist_ok=True)
        # As it goes to a process of its own.
        return module.run(module.Request.model_validate_json(request.model_dump_json()), sink)

    monkeypatch.setattr(launch, "run", in_process)
    return lambda *arguments: CliRunner().invoke(app, [*map(str, arguments)])


@pytest.fixture
def config(day, tmp_path):
    sections = {
        "name": "tiny",
        "run_root": str(tmp_path / "runs"),
        "data": {"kind": "daily", "source": str(tmp_path)},
        "features": Engine.load(day.engine).config.model_dump(mode="json"),
        "model": {"kind": "two_tower", "output_dim": 16, "query_hidden": [32], "item_hidden": [32]},
        "sampler": {"kind": "weighted", "num_negatives": 64},
        "train": {"batch_size": 128, "num_epochs": 4, "log_every_steps": 5},
        "evaluate": {"batch_size": 32, "ks": [1, 10]},
    }
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(sections))
    return path


def _json(result):
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_from_prepared_data_to_vectors_command_by_command(command, config, day, tmp_path):
    out = tmp_path / "trained"
    said = _json(command("train", config, "--data", day.path, "--out", out, "--json"))
    made = Checkpoint.load(out)
    assert (said["num_steps"], said["digest"]) == (made.num_steps, made.digest)

    warm = ("--continue-from", out, "--set", "train.num_warm_epochs=1", "--set", "train.on_change=refuse")
    result = command("train", config, "--data", day.path, "--out", tmp_path / "warm", *warm)
    assert result.exit_code == 0, result.output
    assert Checkpoint.load(tmp_path / "warm").warm_started_from == made.digest

    # Everything that follows is of a copy, far from data and run.
    shutil.copytree(out, tmp_path / "elsewhere" / "state_of_friday")
    copied = tmp_path / "elsewhere" / "state_of_friday"
    figures = ("--data", day.path, "--config", config, "--json")
    of_state = _json(command("evaluate", "--checkpoint", copied, *figures, "--out", tmp_path / "held_out"))
    assert HeldOut.load(tmp_path / "held_out").loss == of_state["metrics"]["loss"]
    result = command("evaluate", "--checkpoint", copied, *figures[:-1])
    assert f"loss {of_state['metrics']['loss']:.4f}, sampled_recall@1 " in result.stdout, result.output
    assert f" on {of_state['num_rows']:,} rows in " in result.stdout

    exported = tmp_path / "exported"
    said = _json(command("export", "--checkpoint", copied, "--out", exported, "--parity-rows", 50, "--json"))
    assert said["digest"] == ExportedModel.load(exported).digest
    assert said["parity_max_abs_difference"] <= 1e-5
    of_export = _json(command("evaluate", "--model", exported, *figures))
    assert of_export["metrics"] == pytest.approx(of_state["metrics"], abs=1e-3)

    vectors = tmp_path / "vectors"
    asked = ("embed", "--model", exported, "--side", "item", "--input", day.items, "--output", vectors)
    result = command(*asked, "--reserved-columns", "item_id", "--output-columns", "embedding=item_tower_emb")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"{vectors}: 120 rows in ")
    assert result.stdout.rstrip().endswith(f"/s), item_id, item_tower_emb, by {exported}")
    found = pq.read_table(vectors)
    np.testing.assert_allclose(np.linalg.norm(np.stack(found["item_tower_emb"].to_numpy()), axis=1), 1, atol=1e-5)
    # Nothing but what was asked for stays.
    kept = {"elsewhere", "exported", "held_out", "tiny.yaml", "trained", "vectors", "warm"}
    assert {path.name for path in tmp_path.iterdir()} == kept


def test_what_is_wrong_is_one_line_and_exit_code_2_and_leaves_nothing(
    command, config, day, exported, tmp_path, monkeypatch
):
    # Releases are looked for below the working folder, and who runs the tests may have some there.
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "mine").touch()
    items, out = ("--side", "item", "--input", day.items), ("--output", tmp_path / "out")
    for arguments, message in (
        (("embed", *items, *out), "name the model by one of --model, --release and --run"),
        (("embed", "--model", taken, *items, *out), "neither a run, a checkpoint, an exported model"),
        (("embed", "--model", exported.path, *items, "--output", taken), "exists, and no command of Dayline wrote it"),
        (("embed", "--model", exported.path, *items, *out, "--reserved-columns", "a,a"), "name each column once"),
        (("embed", "--model", exported.path, *items, *out, "--reserved-columns", "a"), "no column a, which the model"),
        (("embed", "--model", exported.path, *items, *out, "--csv", '{"delimeter": ";"}'), "--csv: damaged"),
        (("embed", "--model", exported.path, *items, *out, "--csv", "{"), "--csv '{': not JSON"),
        (("embed", "--model", exported.path, *items, *out, "--csv", "[]"), "--csv '[]': not a JSON object of options"),
        (
            ("embed", "--model", exported.path, "--side", "item", "--input", tmp_path / "no", *out),
            "no such file or directory",
        ),
        (("predict", "--model", exported.path, "--input", day.items, *out), "two towers, which score no rows"),
        (("export", "--out", taken), "exists, and is no ExportedModel or ExportedRanker"),
        (("export", "--out", tmp_path / "out"), "name the state by one of --checkpoint, --release and --run"),
        (("export", "--checkpoint", "7", "--out", tmp_path / "out"), "is not there"),
        (("evaluate", "--model", exported.path, "--data", day.path), "no config is beside it; name the one"),
        (("evaluate", "--model", exported.path), "name what is measured on by one of --data and --input"),
        (
            ("evaluate", "--model", exported.path, "--step", 3, "--data", day.path),
            "--model is what is measured; leave",
        ),
        (("evaluate", "--checkpoint", "7", "--step", 7, "--run", taken, "--data", day.path), "names the step already"),
        (("evaluate", "--checkpoint", taken, "--run", taken, "--data", day.path), "name the state by one of"),
        (("evaluate", "--checkpoint", "7", "--release", "shop", "--data", day.path), "shop: no mlflow.db in runs"),
        (
            ("evaluate", "--model", exported.path, "--config", config, "--input", day.items),
            "--input and --split are of ranking",
        ),
        (
            ("train", config, "--data", exported.path, "--out", tmp_path / "out"),
            "nothing of the stage preprocess is there, but export",
        ),
        (
            ("train", config, "--data", day.path, "--out", tmp_path / "out", "--set", "features.embedding_dim=4"),
            "prepared with other features than the config has",
        ),
    ):
        result = command(*arguments)
        assert result.exit_code == 2, (arguments, result.output)
        lines = result.stderr.splitlines()
        assert lines[-1].startswith("error: "), lines
        assert message in lines[-1], lines
        assert not result.stdout
        assert {path.name for path in tmp_path.iterdir()} == {"taken", "tiny.yaml"}, arguments


def test_progress_says_how_fast_and_how_long(monkeypatch):
    now = iter([10.0, 12.0, 14.0, 20.0])
    monkeypatch.setattr(alone.time, "monotonic", lambda: next(now))
    seen = []
    sink = alone.paced(seen.append)
    for done in (100, 300, 500):
        sink(Event(stage="embed", done=done, total=1_000))
    sink(Event(stage="embed", done=900, total=1_000, metrics={"rows_per_second": 7.0}))
    # The first event counts from where an earlier try had come to.
    assert [event.metrics.get("rows_per_second") for event in seen] == [None, 100.0, 100.0, 7.0]
    assert [event.seconds_left for event in seen[:3]] == [None, 7.0, 5.0]
