"""The daily pipeline of a ranking model: one day, and several days in order. The bodies are the table of contents."""

from collections.abc import Sequence
from datetime import date

from prefect import flow

from flows import liveness
from flows.absorbing import absorb_ranking
from flows.daily import days_between, name_of_run
from flows.notes import leave_notes
from recsys_core import launch
from tasks.check_days import check_days
from tasks.export_ranker import export_ranker
from tasks.gate import gate
from tasks.ingest_days import ingest_days
from tasks.measure import measure
from tasks.perform import RankingCandidate
from tasks.prepare_days import prepare_days
from tasks.publish_ranker import publish_ranker
from tasks.replay import replay_ranker
from tasks.report_ranking_day import RankingDay, report_ranking_day
from tasks.score import score, score_champion
from tasks.start_run import start_daily_ranking_run
from tasks.train_ranker import train_ranker


@flow(name="daily-ranking", flow_run_name=name_of_run, on_running=[liveness.begin])
def daily_ranking(config: str, day: date | None = None, overrides: Sequence[str] = ()) -> RankingDay:
    """Retrain on the rows up to `day`, measure on those that are held out, and publish if the gate lets it pass.

    Args:
        config: path of the YAML file, which has a section `ranking` and `data.kind: labelled_days`.
        day: the last day to train on; by default the last one whose held-out rows are there.
        overrides: assignments such as `train.batch_size=512`, applied to the file's values.
    """
    with start_daily_ranking_run(config, day, overrides) as run, launch.keeping():
        log = ingest_days(run)
        check = check_days(run, log)
        data = prepare_days(run, log)
        checkpoint = train_ranker(run, data)
        model = export_ranker(run, data, checkpoint)
        scores = score(run, data, model)
        champion = score_champion(run, data)
        evaluation = measure(run, log, data, scores, champion)
        candidate = RankingCandidate(data=data, checkpoint=checkpoint, model=model, scores=scores)
        replayed = replay_ranker(run, candidate)
        decision = gate(run, evaluation, replayed)
        released, absorbed = absorb_ranking(run, log, candidate, decision)
        release = publish_ranker(run, released, evaluation, decision)
        result = report_ranking_day(run, check, candidate, evaluation, decision, absorbed, release)
    leave_notes(result)
    return result


@flow(name="backfill-ranking", flow_run_name=name_of_run, on_running=[liveness.begin])
def backfill(config: str, first: date, last: date, overrides: Sequence[str] = ()) -> list[RankingDay]:
    """Retrain for each day from `first` to `last`, each continuing the release of the one before.

    A day that the gate turns down does not stop it; an error does.
    """
    with launch.keeping():
        return [daily_ranking(config, day, overrides) for day in days_between(first, last)]
