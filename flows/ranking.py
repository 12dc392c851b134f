"""The pipeline of a ranking model. The body is the table of contents."""

from collections.abc import Sequence
from datetime import date
from pathlib import Path

from prefect import flow
from prefect.runtime import flow_run

from flows import liveness
from flows.notes import leave_ranking_notes
from recsys_core import launch
from tasks.evaluate_ranker import evaluate_ranker
from tasks.export_ranker import export_ranker
from tasks.predict import predict
from tasks.prepare import prepare
from tasks.report_ranking import RankingResult, report_ranking
from tasks.start_run import start_ranking_run
from tasks.train_ranker import train_ranker


def _name() -> str:
    asked = flow_run.parameters
    return f"{Path(asked['config']).stem} {asked.get('day') or ''}".strip()


@flow(name="ranking", flow_run_name=_name, on_running=[liveness.begin])
def ranking(config: str, day: date | None = None, overrides: Sequence[str] = ()) -> RankingResult:
    """Train on labelled rows, measure on rows that were held out, export, and score a table.

    Args:
        config: path of the YAML file, which has a section `ranking`.
        day: what the run is named by; by default `data.day`.
        overrides: assignments such as `train.batch_size=512`, applied to the file's values.
    """
    with start_ranking_run(config, day, overrides) as run, launch.keeping():
        data = prepare(run)
        checkpoint = train_ranker(run, data)
        evaluation = evaluate_ranker(run, data, checkpoint)
        model = export_ranker(run, data, checkpoint)
        predictions = predict(run, data, model)
        result = report_ranking(run, data, checkpoint, evaluation, predictions)
    leave_ranking_notes(result)
    return result
