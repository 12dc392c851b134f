"""Check the log's days up to the ground truth's, importing it first where its source is not in the daily layout."""

from recsys_core import ingest as stage
from recsys_core.artifacts import Dataset
from tasks.perform import Run, listener, perform, stage_task


@stage_task("ingest")
def ingest(run: Run) -> Dataset:
    """Return the checked log; a day's partition is read once, whatever the number of runs."""
    # A dataset refers to the imported log, which may have been deleted since.
    stage.prepare(run.config.data, run.import_root, listener(), day=run.day)
    request = run.request(
        stage.Request,
        "ingest",
        config=run.config.data,
        day=run.day,
        import_root=run.import_root,
        fingerprint=run.fingerprint,
    )
    dataset = perform(run, "ingest", Dataset, request, stage.run)
    run.tracker.log_dataset(dataset, str(dataset.root))
    return dataset
