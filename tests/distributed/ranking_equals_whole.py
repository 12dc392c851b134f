"""Run by ranks: after some steps, the sharded ranking model gives what the same weights give unsharded.

Its metrics over all ranks are those of all rows at once. The first rank prints them, and a sum of every table.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch

from recsys_core import checkpoint, distributed, models
from recsys_core.models.base import RankingModel
from recsys_core.ranking import train
from recsys_core.ranking.objective import gathered


def main(request_file: str) -> None:
    """Train four steps, each on all rows, then compare."""
    request = train.Request.model_validate_json(Path(request_file).read_text())
    with distributed.world("cpu") as world:
        trainer = train.trainer(request, world)
        objective = trainer.objective
        for epoch in range(4):
            trainer.position = trainer.position.model_copy(update={"epoch": epoch})
            ((batch, _),) = objective.feed.batches(trainer.epoch(), epoch=epoch, step=epoch)
            trainer.step(batch, epoch)
        directory = request.output / "compared"
        checkpoint.save(directory, {"model": trainer.model.state_dict()}, trainer.position, world)
        whole = models.build(request.model, objective.engine, RankingModel)
        state = {"model": whole.state_dict()}
        checkpoint.load(directory, state, alone=True)
        whole.load_state_dict(state["model"])
        with torch.no_grad():
            expected, found = (model(batch.sparse, batch.dense_BF, batch.numbers) for model in (whole, trainer.model))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        (rows,) = gathered(
            trainer.model, objective.engine, request.ranking, objective.reader, world, batch_size=50
        ).values()
        sums = {name: float(np.abs(weight.numpy()).sum()) for name, weight in state["model"].items()}
        if world.is_first:
            sys.stdout.write(json.dumps({"metrics": rows.metrics().model_dump(), "sums": sums}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
