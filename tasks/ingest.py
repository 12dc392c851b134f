"""Check the log's days up to the ground truth's, importing it first where its source is not in the daily layout."""

from pathlib import Path

from recsys_core import ingest as stage
from recsys_core import integrity
from recsys_core.artifacts import Dataset, ExampleLog, LabelledLog
from recsys_core.datasets import examples
from recsys_core.retrieval import ingest as of_examples
from tasks.perform import Run, listener, perform, stage_task


@stage_task("ingest")
def ingest(run: Run) -> Dataset | ExampleLog:
    """Return the checked log, or ready-made examples; a day's partition is read once, whatever the number of runs."""
    if run.config.examples is not None:
        return _examples(run, run.config.examples)
    # A dataset refers to the imported log, which may have been deleted since.
    config = run.config
    stage.prepare(config.data, run.import_root, listener(), day=run.day, held_out=config.holdout)
    request = run.request(
        stage.Request,
        "ingest",
        config=config.data,
        day=run.day,
        holdout=config.holdout,
        import_root=run.import_root,
        fingerprint=run.fingerprint,
    )
    dataset = perform(run, "ingest", Dataset, request, stage.run)
    compare(dataset, run.home, cached=run.stages["ingest"].cached)
    run.tracker.log_dataset(dataset, str(dataset.root))
    return dataset


def _examples(run: Run, data: examples.Config) -> ExampleLog:
    assert run.needed is not None, "what is needed of examples is known when the run starts"
    request = run.request(
        of_examples.Request,
        "ingest",
        data=data,
        day=run.day,
        first_day=run.needed.first_day,
        import_root=run.import_root,
        fingerprint=run.fingerprint,
    )
    # They refer to copies, which may have been deleted since.
    of_examples.look(request, listener())
    log = perform(run, "ingest", ExampleLog, request, of_examples.run)
    compare(log, run.home, cached=run.stages["ingest"].cached)
    run.tracker.log_dataset(log, log.source)
    return log


def compare(log: Dataset | LabelledLog, home: Path, *, cached: bool) -> None:
    """Compare the log's files with what they were when they were checked, once per file and change.

    A log that has moved as a whole, or a whole day of labelled rows, is not compared: a stage that needs it will say
    so.

    Raises:
        ValueError: one has other content now; names it.
    """
    memory = home / "cache" / "verified" / f"{log.digest}.log.json"
    folders = [log.root] if isinstance(log, Dataset) else [day.folder for day in log.days]
    gone = [folder for folder in folders if not folder.exists()]
    digests = {path: digest for path, digest in log.log_digests().items() if not any(map(path.is_relative_to, gone))}
    if not cached:
        integrity.remember(digests, memory=memory)
        return
    try:
        integrity.verify(digests, memory)
    except ValueError as error:
        copies = " and ".join(str(place) for place in (*([log.root] if isinstance(log, Dataset) else ()), log.path))
        raise ValueError(
            f"{error}; bring it back, or, where the log was imported, delete {copies}, and run again to import it anew"
        ) from None
