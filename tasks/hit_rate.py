"""Rank all items for every query of the next day, next to the baselines and the live model."""

from functools import partial

from recsys_core import launch
from recsys_core.artifacts import Dataset, Embeddings, Evaluation, ExampleLog, Index, TrainingData
from recsys_core.retrieval.requests import HitRateRequest
from tasks.perform import Run, perform, stage_task


@stage_task("hit rate")
def hit_rate(
    run: Run,
    dataset: Dataset | ExampleLog,
    data: TrainingData,
    embeddings: Embeddings,
    index: Index,
    champion: Embeddings | None,
) -> Evaluation:
    """Return the day's measurements, made in a process of its own: FAISS and torch share none."""
    request = run.request(
        HitRateRequest,
        "hitrate",
        config=run.config.hitrate,
        dataset=dataset if isinstance(dataset, Dataset) else None,
        holdout=run.config.holdout,
        data=data,
        embeddings=embeddings,
        index=index,
        champion=champion,
        parts=run.config.gate.parts,
        confidence=run.config.gate.confidence,
    )
    work = partial(launch.run, "hitrate", Evaluation, config=launch.alone(run.config.launch))
    return perform(run, "hitrate", Evaluation, request, work)
