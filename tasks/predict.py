"""Score every row of a table with the exported model."""

from functools import partial

from recsys_core import launch, placeholders, readers
from recsys_core.artifacts import ExportedRanker, LabelledData, Predictions, digest_of
from recsys_core.ranking.requests import PredictRequest
from tasks.perform import RankingRun, perform, stage_task


@stage_task("predict")
def predict(run: RankingRun, data: LabelledData, model: ExportedRanker) -> Predictions:
    """Return the scored rows, in the table's order: of `predict.source`, or else of the split that was evaluated."""
    config = run.config
    named, output = config.predict.source, config.predict.output
    place = placeholders.fill(named, run.day) if named else str(data.root / config.evaluate.split)
    request = run.request(
        PredictRequest,
        "predict",
        config=config.predict.model_copy(update={"output": output and placeholders.fill(output, run.day)}),
        source=place,
        source_digest=digest_of(readers.fingerprint(place)) if named else data.digest,
        data=None if named else data,
        split=config.evaluate.split,
        model=model,
    )
    work = partial(launch.run, "rank_predict", Predictions, config=config.launch)
    return perform(run, "predict", Predictions, request, work)
