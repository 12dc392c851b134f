"""Build the search index over the item vectors."""

from functools import partial

from recsys_core import launch
from recsys_core.artifacts import Embeddings, Index
from recsys_core.retrieval.requests import IndexRequest
from tasks.perform import Run, perform, stage_task


@stage_task("index")
def index(run: Run, embeddings: Embeddings) -> Index:
    """Return the index that would go live. It is built in a process of its own: FAISS and torch share none."""
    request = run.request(
        IndexRequest,
        "index",
        config=run.config.index,
        embeddings=embeddings,
        seed=run.config.seed,
        recall_ks=run.config.hitrate.ks,
    )
    work = partial(launch.run, "index", Index, config=launch.alone(run.config.launch))
    return perform(run, "index", Index, request, work)
