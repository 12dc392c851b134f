"""The tasks after the measuring: gate, publish and report, on one made-up day, without a Prefect server."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import Run as MlflowRun

from recsys_core import artifacts
from recsys_core.artifacts import DataCheck, Learned, Measurement
from recsys_core.progress import Event
from tasks.absorbed import absorbed
from tasks.gate import gate
from tasks.perform import Candidate, Run, StageResult, listening
from tasks.publish import publish
from tasks.report import DayResult, report


class _Inputs(artifacts.Request):
    pass


def checked(run: Run) -> DataCheck:
    message = "2024-03-01 interactions.price has drifted"
    fields = {"day": run.day, "table": "interactions", "column": "price", "check": "drift", "figure": 0.4, "limit": 0.2}
    breach = Measurement(**fields, held=False, stops=False, message=message)
    request = _Inputs(output=run.directory / "check", config_hash="c", code_version="v")
    with artifacts.pending(request.output) as aside:
        return aside.commit(DataCheck, request, num_rows=9, day=run.day, first_day=run.day, breaches=(breach,))


@pytest.fixture(scope="module")
def ended(made_day: Callable[..., dict[str, Any]], open_run: Callable[..., Run]) -> tuple[Run, DayResult, MlflowRun]:
    """A day that the gate turns down."""
    with open_run(None, "gate.minimum=0.9", "hitrate.ks=[20, 50]") as run:
        made = made_day(run.directory, run.day, 3)
        (made["evaluation"].path / "sweep.json").write_text(json.dumps({"parameter": "nprobe"}))
        decision = gate.fn(run, made["evaluation"])
        held_out, evaluation = made.pop("held_out"), made.pop("evaluation")
        candidate = Candidate(**made)
        release = publish.fn(run, candidate, evaluation, decision)
        arguments = (checked(run), candidate, held_out, evaluation, decision, None, release)
        result = report.fn(run, *arguments)
        run.stages["publish"] = StageResult(seconds=0, rows=0, cached=True)
        assert report.fn(run, *arguments).metrics == result.metrics
    return run, result, run.tracker.client.get_run(run.tracker.mlflow_run_id)


def test_the_gate_says_no_in_words_and_figures(ended: tuple[Run, DayResult, MlflowRun]) -> None:
    _, result, tracked = ended
    assert not result.gate.passed
    assert result.gate.reasons == ("hit_rate@50 is 0.2121, below the minimum of 0.9000.",)
    assert (result.decision, result.release) == ("rejected", None)
    assert result.data_warnings == ("2024-03-01 interactions.price has drifted",)
    assert tracked.data.tags["gate"] == "rejected"
    assert tracked.data.tags["gate.reasons"] == result.gate.reasons[0]
    assert tracked.data.tags["decision"] == "rejected"


@pytest.mark.parametrize(("after", "refused"), [(0.9, False), (1.0, False), (1.1, True)])
def test_a_state_that_does_worse_on_what_it_has_learned_is_refused(
    made_day: Callable[..., dict[str, Any]], open_run: Callable[..., Run], after: float, refused: bool
) -> None:
    messages: list[Event] = []
    with open_run() as run, listening(messages.append):
        made = made_day(run.directory, run.day, 3)
        learned = Learned(first_day=run.day, last_day=run.day)
        checkpoint = made["checkpoint"].model_copy(update={"learned": learned})
        outcome = absorbed.fn(run, made["data"], checkpoint, 1.0, after)
    assert (outcome.day, outcome.num_examples, outcome.held_out_loss) == (run.day, made["data"].num_rows, after)
    sentence = (
        "not absorbed: the loss on the measured rows of 2024-03-01 was 1.0000 and is 1.1000 after learning from them; "
        "what was measured is released. Lower the learning rates of train"
    )
    assert outcome.refused == (sentence if refused else None)
    assert [event.message for event in messages] == ([f"warning: {sentence}"] if refused else [])
    tracked = run.tracker.client.get_run(run.tracker.mlflow_run_id).data
    assert tracked.tags["absorbed"] == (sentence if refused else "2024-03-01")
    assert tracked.metrics["absorb/held_out_loss"] == after


def test_the_result_is_written_and_tracked(ended: tuple[Run, DayResult, MlflowRun]) -> None:
    run, result, tracked = ended
    written = json.loads((run.directory / "result.json").read_text())
    assert written["metrics"] == result.model_dump(mode="json")["metrics"]
    assert result.artifacts == {"publish": run.directory / "publish"}
    assert tracked.data.metrics["exact/hit_rate_at_50"] == result.metrics.hit_rate["50"]
    plots = {Path(found.path).name for found in run.tracker.client.list_artifacts(tracked.info.run_id, "plots")}
    assert plots == {"loss.png", "hit_rate_by_k.png", "hit_rate_by_popularity.png", "ann_recall.png", "difference.png"}
