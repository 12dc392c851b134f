"""Build the day's examples, item table, ground truth and fitted features."""

from recsys_core import preprocess as stage
from recsys_core.artifacts import Dataset, TrainingData
from tasks.perform import Run, perform, stage_task


@stage_task("preprocess")
def preprocess(run: Run, dataset: Dataset) -> TrainingData:
    """Return what is trained on: the days since the base release, or the window of a cold start."""
    base = run.base
    request = run.request(
        stage.Request,
        "preprocess",
        config=run.config.preprocess,
        features=run.config.features,
        dataset=dataset,
        day=run.day,
        base_day=base.day if base else None,
        base_engine=base.model.engine if base else None,
        base_engine_digest=base.engine_digest if base else None,
    )
    data = perform(run, "preprocess", TrainingData, request, stage.run)
    run.tracker.log_dataset(data, str(data.path.resolve()))
    return data
