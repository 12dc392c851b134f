"""Divide labelled days into what is learned from and what is measured on, and fit the features."""

from recsys_core.artifacts import LabelledData, LabelledLog
from recsys_core.ranking.prepare import days as stage
from tasks.perform import RankingRun, perform, stage_task


@stage_task("prepare")
def prepare_days(run: RankingRun, log: LabelledLog, *, absorbs: bool = False) -> LabelledData:
    """Return the rows that the base release has not learned from, or a cold start's window, and what is held out.

    With `absorbs`, the base is this run's state, and what was held out is learned from.
    """
    base = run.base
    request = run.request(
        stage.Request,
        "prepare",
        config=run.config.prepare,
        ranking=run.config.ranking,
        features=run.config.features,
        log=log,
        day=run.day,
        holdout=run.config.holdout,
        time_column=run.config.days.time_column,
        sliced_by=run.config.gate.sliced_by,
        base_learned=base.learned if base else None,
        base_engine=base.engine if base else None,
        base_engine_digest=base.engine_digest if base else None,
        absorbs=absorbs,
    )
    data = perform(run, "prepare", LabelledData, request, stage.run)
    run.tracker.log_dataset(data, str(data.path.resolve()))
    return data
