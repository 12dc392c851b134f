"""Hold labelled days against the data contract, before anything is trained on them."""

from recsys_core import contract as stage
from recsys_core import holdout
from recsys_core.artifacts import DataCheck, LabelledLog
from recsys_core.features import Engine
from tasks.check_data import limits, performed
from tasks.perform import RankingRun, stage_task


@stage_task("check data")
def check_days(run: RankingRun, log: LabelledLog) -> DataCheck:
    """Return what was found; see `check_data`."""
    config, base = run.config.contract, run.base
    # What is absorbed is learned from too, and is checked before any work is done.
    last = holdout.last_day(run.day, run.config.holdout) if run.config.publish.absorb else run.day
    window = run.config.prepare.window_days
    request = run.request(
        stage.LabelledRequest,
        "check",
        config=limits(config),
        agreed=stage.agreed(config),
        log=log,
        labels=run.config.ranking.label_columns,
        time_column=run.config.days.time_column,
        categories=tuple(Engine.build(run.config.features).columns_of_ids()),
        first_day=stage.first_day(
            config, last, base.learned.last_day if base else None, window and window + (last - run.day).days
        ),
        day=last,
        memory=run.home / "cache" / "statistics",
    )
    return performed(run, request, stage.run_labelled)
