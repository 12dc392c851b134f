"""Bring labelled tables in, check them, and fit the features."""

from recsys_core.artifacts import LabelledData
from recsys_core.ranking import prepare as stage
from tasks.perform import RankingRun, perform, stage_task


@stage_task("prepare")
def prepare(run: RankingRun) -> LabelledData:
    """Return the checked tables with the feature engine fitted on the training rows."""
    request = run.request(
        stage.Request,
        "prepare",
        config=run.config.ranking,
        data=run.config.split_data,
        features=run.config.features,
        import_root=run.import_root,
        fingerprint=run.fingerprint,
    )
    data = perform(run, "prepare", LabelledData, request, stage.run)
    stage.require_splits(data, run.config.evaluate.split, validates=run.config.train.evaluates)
    return data
