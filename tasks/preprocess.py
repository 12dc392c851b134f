"""Build the day's examples, item table, ground truth and fitted features."""

from typing import Any

from recsys_core.artifacts import Dataset, ExampleLog, TrainingData
from recsys_core.features import Engine
from recsys_core.integrity import digest_of_file
from recsys_core.retrieval import preprocess as stage
from recsys_core.retrieval.preprocess import examples
from recsys_core.samplers import impressions, weighted
from tasks.perform import Run, perform, stage_task


@stage_task("preprocess")
def preprocess(run: Run, dataset: Dataset | ExampleLog, measured: TrainingData | None = None) -> TrainingData:
    """Return what is trained on: the days since the base release, or the window of a cold start.

    With `measured`, the rows that its ground truth is of.
    """
    base, sampler = run.base, run.config.sampler
    common: dict[str, Any] = {
        "config": run.config.preprocess,
        "features": run.config.features,
        "day": run.day,
        "base_learned": base.learned if base else None,
        "base_engine": base.engine if base else None,
        "base_engine_digest": base.engine_digest if base else None,
        "live_columns": _live_columns(run),
        "sliced_by": run.config.gate.sliced_by,
    }
    if isinstance(dataset, ExampleLog):
        assert measured is None, "nothing is learned from evaluation rows"
        request = run.request(examples.Request, "preprocess", log=dataset, **common)
        data = perform(run, "preprocess", TrainingData, request, examples.run)
    else:
        weights = sampler.weights if isinstance(sampler, weighted.Config) else None
        shown = sampler if isinstance(sampler, impressions.Config) else None
        request = run.request(
            stage.Request,
            "preprocess",
            dataset=dataset,
            holdout=run.config.holdout,
            weights=weights,
            weights_digest=digest_of_file(weights) if weights else None,
            shown=shown,
            shown_digest=impressions.fingerprint(shown, run.day) if shown else None,
            measured=measured,
            **common,
        )
        data = perform(run, "preprocess", TrainingData, request, stage.run)
    run.tracker.log_dataset(data, str(data.path.resolve()))
    return data


def _live_columns(run: Run) -> tuple[str, ...]:
    """Return the columns that the live release's query features read, and the features of now do not."""
    if run.champion is None:
        return ()
    mine = Engine.build(run.config.features).columns("query")
    live = Engine.load(run.champion.model.engine).columns("query")
    return tuple(column for column in live if column not in mine)
