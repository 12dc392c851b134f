"""Score the held-out rows, with the new model and with the live one."""

from functools import partial

from recsys_core import launch
from recsys_core.artifacts import ExportedRanker, LabelledData, Predictions
from recsys_core.ranking import measure
from recsys_core.ranking.requests import PredictRequest
from tasks.perform import RankingRun, measuring, perform, stage_task

HELD_OUT = "test"


@stage_task("score")
def score(run: RankingRun, data: LabelledData, model: ExportedRanker) -> Predictions:
    """Return the new model's scores, in the order of the rows."""
    return _scored(run, "score", data, model)


@stage_task("score champion")
def score_champion(run: RankingRun, data: LabelledData) -> Predictions | None:
    """Return the live model's scores of the same rows; None where nothing is live or the gate does not compare."""
    champion = run.champion
    if champion is None:
        return None
    with measuring(champion):
        return _scored(run, "score_champion", data, champion.model)


def _scored(run: RankingRun, name: str, data: LabelledData, model: ExportedRanker) -> Predictions:
    config = run.config
    kept = measure.columns(config.ranking, config.gate.parts)
    request = run.request(
        PredictRequest,
        name,
        config=config.predict.model_copy(update={"reserved_columns": kept, "output": None}),
        source=f"{config.days.source}, what is held out",
        source_digest=data.digest,
        data=data,
        split=HELD_OUT,
        model=model,
        stage=name,
    )
    work = partial(launch.run, "rank_predict", Predictions, config=config.launch)
    return perform(run, name, Predictions, request, work)
