"""What is printed, and where."""

import datetime
import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.progress import Progress

from flows import console, notes
from recsys_core.gate import Decision
from recsys_core.progress import Event
from tasks.perform import StageResult
from tasks.report import Baselines, DayResult, Metrics

DAY = datetime.date(2024, 1, 15)


def result(**changed: Any) -> DayResult:
    by_k = {"10": 0.1, "50": 0.25, "100": 0.5}
    metrics = {
        **dict.fromkeys(("hit_rate", "recall", "ndcg", "mrr", "coverage", "ann_recall", "approximate_hit_rate"), by_k),
        "champion_hit_rate": None,
        "baselines": Baselines(popularity=by_k, item_item=by_k, recent_popularity=by_k),
        "num_examples": 12_345,
        "examples_per_second": 6_789.4,
        "loss": 4.3219,
        "held_out_loss": 4.5,
    }
    fields = {
        "run_id": "a1",
        "mlflow_run_id": "b2",
        "day": DAY,
        "release": "3",
        "decision": "live",
        "gate": Decision(passed=True, reasons=("It is good.",)),
        "metrics": Metrics.model_validate(metrics),
        "stages": {"train": StageResult(seconds=1.5, rows=12_345, cached=False)},
        "artifacts": {"train": Path("runs/train")},
    }
    return DayResult.model_validate(fields | changed)


def test_the_table_is_on_stdout_and_whole_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    turned_down = result(release=None, decision="rejected", gate=Decision(passed=False, reasons=()))
    console.table([result(), turned_down])
    out, err = capsys.readouterr()
    assert err == ""
    words = [line.split() for line in out.splitlines() if line.strip()]
    assert words[0][:4] == ["day", "rows", "examples/s", "loss"]
    assert words[2] == ["2024-01-15", "12,345", "6,789", "4.322", *["0.2500"] * 5, "no", "log", "passed", "v3", "live"]
    assert words[3][-2:] == ["rejected", "none"]
    assert "hit rate@50" in out


def test_progress_is_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with console.progress() as sink:
        sink(Event(stage="train", message="started"))
        sink(Event(stage="train", message="plan (fresh)\ntable  sharding", metrics={"tables/city/occupancy": 0.5}))
        for done in (100, 200, 300):
            metrics = {"loss": 4.0, "examples_per_second": 1_000.0}
            sink(Event(stage="train", done=done, total=1_000, unit="examples", metrics=metrics))
        sink(Event(stage="train", done=1_000, total=1_000, message="done in 2.0 s"))
        sink(Event(stage="embed", done=1_000, total=2_000, metrics={"loss": 4.0, "examples_per_second": 1_000.0}))
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "train: started",
        "train: plan (fresh)",
        "table  sharding",
        "train: 1,000 rows, done in 2.0 s",
        "embed: 1,000/2,000 rows (1,000/s), loss 4.000",
    ]


def test_brackets_are_signs_like_others(capsys: pytest.CaptureFixture[str]) -> None:
    with console.progress() as sink:
        sink(Event(stage="ingest", message="warning: timestamp is timestamp[s], in a[/b].parquet"))
    assert capsys.readouterr().err == "ingest: warning: timestamp is timestamp[s], in a[/b].parquet\n"


def test_progress_is_bars_on_a_terminal() -> None:
    screen = io.StringIO()
    with Progress("{task.description} {task.fields[count]} {task.fields[note]}", console=Console(file=screen)) as bars:
        sink = console._Bars(bars)
        sink(Event(stage="train", done=100, total=1_000, metrics={"loss": 4.0}))
        sink(Event(stage="train", done=200, total=1_000))
        (task,) = bars.tasks
        assert (task.completed, task.total) == (200, 1_000)
        assert (task.fields["count"], task.fields["note"]) == ("200/1,000 rows", "loss 4.000")
        sink(Event(stage="train", done=1_000, total=1_000, message="done in 2.0 s"))
        assert not bars.tasks
        sink(Event(stage="embed", done=5, total=5, message="done before"))
    assert "embed: 5 rows, done before" in screen.getvalue()


@pytest.mark.parametrize(
    ("release", "decision", "expected"),
    [
        ("3", "live", "version 3 is live"),
        ("3", "registered", "version 3 is registered, not live"),
        (None, "rejected", "rejected by the gate; what was live stays live"),
    ],
)
def test_the_verdict_is_in_words(release: str | None, decision: str, expected: str) -> None:
    assert notes.verdict(result(release=release, decision=decision)) == expected


def test_the_flow_pages_table_has_a_row_per_k() -> None:
    champion = {"10": 0.2, "50": 0.3, "100": 0.6}
    day = result()
    day = day.model_copy(update={"metrics": day.metrics.model_copy(update={"champion_hit_rate": champion})})
    assert [(row["K"], row["hit rate"], row["live model"]) for row in notes.rows(day)] == [
        (10, 0.1, 0.2),
        (50, 0.25, 0.3),
        (100, 0.5, 0.6),
    ]
    assert notes.rows(result())[0]["live model"] is None
