"""Script the towers, and prove that they compute what was trained."""

from functools import partial

from recsys_core import launch
from recsys_core.artifacts import Checkpoint, ExportedModel, TrainingData
from recsys_core.retrieval.requests import ExportRequest
from tasks.perform import Run, perform, stage_task


@stage_task("export")
def export(run: Run, data: TrainingData, checkpoint: Checkpoint) -> ExportedModel:
    """Return the query and item towers with the fitted features."""
    request = run.request(
        ExportRequest, "export", config=run.config.export, model=run.config.model, data=data, checkpoint=checkpoint
    )
    work = partial(launch.run, "export", ExportedModel, config=launch.alone(run.config.launch))
    return perform(run, "export", ExportedModel, request, work)
