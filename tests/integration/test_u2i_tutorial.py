"""docs/u2i-tutorial.md as a reader follows it: from tables of ready-made examples to released models."""

import datetime
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from recsys_core.artifacts import Checkpoint, Evaluation, TrainingData

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "u2i-tutorial.md"


def _commands() -> list[list[str]]:
    """The commands of the page's second section, in its order."""
    section = PAGE.read_text(encoding="utf-8").partition("## Command by command\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"```console\n(.*?)```", section, re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.split(line)[2:] for line in lines if line.startswith("$ dayline ")]


def test_from_tables_of_examples_to_released_models(
    prefect_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copytree(ROOT / "configs", "configs")
    printed: dict[str, str] = {}
    measured: list[str] = []
    for command in _commands():
        done = subprocess.run(
            [sys.executable, "-c", "from flows.cli import main; main()", *command],
            env=os.environ | {"PREFECT_API_URL": prefect_server},
            capture_output=True,
            text=True,
            check=False,
            timeout=1_800,
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        printed[command[0]] = done.stdout
        measured += [done.stdout] if command[0] == "hit-rate" else []
    assert "data/u2i: " in printed["data"]
    assert "u2i_examples.yaml: valid" in printed["config"]
    assert "clicked_items" in printed["features"]
    assert printed["backfill"].count("no log") == 6
    assert "v2 live" in printed["backfill"]
    assert "2024-01-05" in printed["release"]
    assert "index: HNSW" in printed["index"]
    exact, approximate = measured
    by_index = json.loads(approximate)["hit_rate"]

    first, second = (_day(day) for day in ("2024-01-04", "2024-01-05"))
    # The second day learns from its own rows alone, from what the first has left, and is compared with it.
    assert (first["data"].first_day, second["data"].first_day) == (datetime.date(2024, 1, 1), second["data"].day)
    assert first["checkpoint"].warm_started_from is None
    assert second["checkpoint"].warm_started_from is not None
    assert second["evaluation"].champion is not None
    found = second["evaluation"].exact.hit_rate
    assert {k: float(rate) for k, rate in re.findall(r"@(\d+) ([\d.]+)", exact)} == pytest.approx(found, abs=2e-3)
    assert by_index == pytest.approx(found, abs=0.02)
    for day in (first, second):
        evaluation = day["evaluation"]
        assert evaluation.item_item is None
        assert "the other baselines: none, as there is no log" in evaluation.protocol
        assert evaluation.exact.hit_rate["50"] > 1.2 * evaluation.popularity.hit_rate["50"]
        assert day["result"]["metrics"]["baselines"]["item_item"] is None


def _day(day: str) -> dict:
    (run,) = Path("runs/u2i").glob(f"{day}/*")
    return {
        "data": TrainingData.load(run / "preprocess"),
        "checkpoint": Checkpoint.load(run / "train"),
        "evaluation": Evaluation.load(run / "hitrate"),
        "result": json.loads((run / "result.json").read_text()),
    }
