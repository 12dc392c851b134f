"""Check the labelled days that a run needs, copying those first that are not read in place."""

from recsys_core.artifacts import LabelledLog
from recsys_core.ranking import ingest as stage
from tasks.ingest import compare
from tasks.perform import RankingRun, listener, perform, stage_task


@stage_task("ingest")
def ingest_days(run: RankingRun) -> LabelledLog:
    """Return the checked days; each is read once, whatever the number of runs."""
    needed = run.needed
    assert needed is not None, "of a daily run"
    request = run.request(
        stage.Request,
        "ingest",
        config=run.config.ranking,
        data=run.config.days,
        day=run.day,
        first_day=needed.first_day,
        last_day=needed.last_day,
        import_root=run.import_root,
        fingerprint=needed.fingerprint,
    )
    # A log refers to copies, which may have been deleted since.
    stage.look(request, listener())
    log = perform(run, "ingest", LabelledLog, request, stage.run)
    compare(log, run.home, cached=run.stages["ingest"].cached)
    run.tracker.log_dataset(log, log.source)
    return log
