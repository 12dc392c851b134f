"""Score every row of a table with the exported model."""

from functools import partial

from recsys_core import launch, uri
from recsys_core.artifacts import ExportedRanker, LabelledData, Predictions
from recsys_core.ranking import predict as stage
from tasks.perform import RankingRun, perform, stage_task


@stage_task("predict")
def predict(run: RankingRun, data: LabelledData, model: ExportedRanker) -> Predictions:
    """Return the scored rows, in the table's order: of `predict.source`, or else of the split that was evaluated."""
    config = run.config
    source = config.predict.source or str(data.root / config.evaluate.split)
    request = run.request(
        stage.Request,
        "predict",
        config=config.predict,
        source=source,
        source_digest=uri.fingerprint(uri.resolve(source)),
        model=model,
    )
    work = partial(launch.run, "rank_predict", Predictions, config=config.launch)
    return perform(run, "predict", Predictions, request, work)
