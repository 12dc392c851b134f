"""Hold labelled days against the data contract, before anything is trained on them."""

from recsys_core import contract as stage
from recsys_core.artifacts import DataCheck, LabelledLog
from recsys_core.features import Engine
from tasks.check_data import limits, performed
from tasks.perform import RankingRun, stage_task


@stage_task("check data")
def check_days(run: RankingRun, log: LabelledLog) -> DataCheck:
    """Return what was found; see `check_data`."""
    config, base = run.config.contract, run.base
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
            config, run.day, base.learned.last_day if base else None, run.config.prepare.window_days
        ),
        day=run.day,
        memory=run.home / "cache" / "statistics",
    )
    return performed(run, request, stage.run_labelled)
