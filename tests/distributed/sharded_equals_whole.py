"""Run by ranks: after some steps, the sharded model gives what the same weights give unsharded, on every rank."""

import sys
from pathlib import Path

import torch

from recsys_core import checkpoint, distributed, models
from recsys_core.features import Engine
from recsys_core.models.base import RetrievalModel
from recsys_core.retrieval import train


def main(request_file: str) -> None:
    """Train ten steps of the request, then compare a batch of this rank."""
    request = train.Request.model_validate_json(Path(request_file).read_text())
    with distributed.world("cpu") as world:
        trainer = train.trainer(request, world)
        batches = [batch for batch, _ in trainer.objective.feed.batches(trainer.epoch(), epoch=0, step=0)]
        for number, batch in enumerate(batches[:10]):
            trainer.step(batch, number)
        directory = request.output / "compared"
        checkpoint.save(directory, {"model": trainer.model.state_dict()}, trainer.position, world)
        whole = models.build(request.model, Engine.load(request.data.engine), RetrievalModel)
        state = {"model": whole.state_dict()}
        checkpoint.load(directory, state, alone=True)
        whole.load_state_dict(state["model"])
        batch = batches[-1]
        with torch.no_grad():
            expected = whole(batch.sparse, batch.query_dense_BF, batch.item_dense_MF)
            found = trainer.model(batch.sparse, batch.query_dense_BF, batch.item_dense_MF)
        for left, right in zip(expected, found, strict=True):
            torch.testing.assert_close(left, right, rtol=0, atol=1e-5)
        # A training that ends early has sent a batch that is never looked up: it must not wait there for another one.
        arriving = trainer.arriving((batch, None) for batch in batches)
        next(arriving)
        assert len(trainer.objective.tables._sent) == 2
        arriving.close()
        assert not trainer.objective.tables._sent
        with torch.no_grad():
            again = trainer.model(batch.sparse, batch.query_dense_BF, batch.item_dense_MF)
        torch.testing.assert_close(again, found, rtol=0, atol=0)


if __name__ == "__main__":
    main(sys.argv[1])
