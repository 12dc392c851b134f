"""The pipeline: one day, and several days in order. The bodies are the table of contents."""

from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path

from prefect import flow
from prefect.runtime import flow_run

from flows import liveness
from flows.absorbing import absorb
from flows.notes import leave_notes
from recsys_core import launch
from tasks.check_data import check_data
from tasks.embed import embed, embed_champion
from tasks.evaluate import evaluate
from tasks.export import export
from tasks.gate import gate
from tasks.hit_rate import hit_rate
from tasks.index import index
from tasks.ingest import ingest
from tasks.perform import Candidate
from tasks.preprocess import preprocess
from tasks.publish import publish
from tasks.replay import replay
from tasks.report import DayResult, report
from tasks.start_run import start_run
from tasks.train import train


def name_of_run() -> str:
    """Return what Prefect calls a flow run of the day, or of several: by the config and the days."""
    asked = flow_run.parameters
    days = asked.get("day") or " to ".join(str(asked[end]) for end in ("first", "last") if end in asked)
    return f"{Path(asked['config']).stem} {days or 'newest day'}"


@flow(name="daily-retrain", flow_run_name=name_of_run, on_running=[liveness.begin])
def daily_retrain(config: str, day: date | None = None, overrides: Sequence[str] = ()) -> DayResult:
    """Retrain on the days up to `day`, measure on the next one, and publish if the gate lets it pass.

    With `publish.absorb`, what is published has learned from the next day's rows too.

    Args:
        config: path of the YAML file.
        day: the last day to train on; by default the last one that has a following day with data.
        overrides: assignments such as `train.batch_size=512`, applied to the file's values.
    """
    with start_run(config, day, overrides) as run, launch.keeping():
        dataset = ingest(run)
        check = check_data(run, dataset)
        data = preprocess(run, dataset)
        checkpoint = train(run, data)
        held_out = evaluate(run, data, checkpoint)
        model = export(run, data, checkpoint)
        embeddings = embed(run, data, model)
        champion = embed_champion(run, data)
        search_index = index(run, embeddings)
        evaluation = hit_rate(run, dataset, data, embeddings, search_index, champion)
        candidate = Candidate(data=data, checkpoint=checkpoint, model=model, embeddings=embeddings, index=search_index)
        replayed = replay(run, candidate)
        decision = gate(run, evaluation, replayed)
        released, absorbed = absorb(run, dataset, candidate, held_out, decision)
        release = publish(run, released, evaluation, decision)
        result = report(run, check, candidate, held_out, evaluation, decision, absorbed, release)
    leave_notes(result)
    return result


@flow(name="backfill", flow_run_name=name_of_run, on_running=[liveness.begin])
def backfill(config: str, first: date, last: date, overrides: Sequence[str] = ()) -> list[DayResult]:
    """Retrain for each day from `first` to `last`, each continuing the release of the one before.

    A day that the gate turns down does not stop it; an error does.
    """
    with launch.keeping():
        return [daily_retrain(config, day, overrides) for day in days_between(first, last)]


def days_between(first: date, last: date) -> list[date]:
    """Return the days from `first` to `last`."""
    return [first + timedelta(days=number) for number in range((last - first).days + 1)]
