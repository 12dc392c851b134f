"""Embed every item and every query of the ground truth, with the new towers and with the live ones."""

from functools import partial

from recsys_core import launch
from recsys_core.artifacts import Embeddings, ExportedModel, TrainingData
from recsys_core.retrieval.requests import EmbedRequest
from tasks.perform import Run, measuring, perform, stage_task


@stage_task("embed")
def embed(run: Run, data: TrainingData, model: ExportedModel) -> Embeddings:
    """Return the new model's vectors."""
    return _embedded(run, "embed", data, model)


@stage_task("embed champion")
def embed_champion(run: Run, data: TrainingData) -> Embeddings | None:
    """Return the live model's vectors of the same rows; None where nothing is live or the gate does not compare."""
    champion = run.champion
    if champion is None:
        return None
    with measuring(champion):
        return _embedded(run, "embed_champion", data, champion.model)


def _embedded(run: Run, name: str, data: TrainingData, model: ExportedModel) -> Embeddings:
    request = run.request(EmbedRequest, name, config=run.config.embed, data=data, model=model, stage=name)
    work = partial(launch.run, "embed", Embeddings, config=run.config.launch)
    return perform(run, name, Embeddings, request, work)
