"""Ranks that do a day's stages one after another make what processes of each stage's own make, to the bit."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import psutil
import pytest

from recsys_core import launch
from recsys_core.artifacts import Artifact, Checkpoint, Embeddings, ExportedModel, HeldOut, Request, TrainingData
from recsys_core.progress import silent
from recsys_core.retrieval import embed, evaluate, export

A = TypeVar("A", bound=Artifact)
Run = Callable[[str, type[A], Request, int], A]
COMMON = {"config_hash": "c" * 32, "code_version": "tests"}


class Made(NamedTuple):
    checkpoint: Checkpoint
    held_out: HeldOut
    model: ExportedModel
    embeddings: Embeddings


@pytest.fixture
def pipeline(make_train_request, sections) -> Callable[[Path, TrainingData, int, Run[Any]], Made]:
    """Train on a day, evaluate, export and embed below a folder, each stage by `run`."""

    def make(home: Path, day: TrainingData, num_ranks: int, run: Run[Any]) -> Made:
        kinds = ["row_wise"] if num_ranks > 1 else ["table_wise"]
        sharding = {"sharding_types": kinds}
        learning = make_train_request(home / "train", data=day, config={"sharding": sharding}, num_ranks=num_ranks)
        checkpoint = run("train", Checkpoint, learning, num_ranks)
        given = {"config": evaluate.Config(batch_size=32, ks=(1, 10)), "sharding": sharding, "num_ranks": num_ranks}
        measuring = evaluate.Request(
            output=home / "evaluate", **COMMON, **sections, **given, seed=3, data=day, checkpoint=checkpoint
        )
        exporting = export.Request(
            output=home / "export",
            **COMMON,
            config=export.Config(parity_rows=100),
            model=sections["model"],
            data=day,
            checkpoint=checkpoint,
        )
        held_out = run("evaluate", HeldOut, measuring, num_ranks)
        model = run("export", ExportedModel, exporting, 1)
        embedding = embed.Request(
            output=home / "embed", **COMMON, config=embed.Config(batch_size=50), data=day, model=model
        )
        return Made(checkpoint, held_out, model, run("embed", Embeddings, embedding, num_ranks))

    return make


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_kept_ranks_make_to_the_bit_what_others_make(
    num_ranks, pipeline, day, rich_day, ranks, same_weights, tmp_path
) -> None:
    def by_itself(stage: str, record: type[A], request: Request, num_ranks: int) -> A:
        if stage == "export":
            return launch.run(stage, record, request, silent, launch.Local(threads_per_rank=1))
        codes, log = ranks.stage(stage, request, num_ranks)
        assert not any(codes), log
        return record.load(request.output)

    config = launch.Local(num_ranks=num_ranks, threads_per_rank=1)
    starts: set[int] = set()

    def kept(stage: str, record: type[A], request: Request, num_ranks: int) -> A:
        one = launch.Local(threads_per_rank=1)
        made = launch.run(stage, record, request, silent, config if num_ranks > 1 else one)
        for child in psutil.Process().children():
            with contextlib.suppress(psutil.NoSuchProcess):  # it has ended, and is a zombie until it is waited for
                starts.update({child.pid} if "retrieval" in child.cmdline() else ())
        return made

    expected = pipeline(tmp_path / "expected", day, num_ranks, by_itself)
    with launch.keeping():
        launch.begin(config, "retrieval")
        first = pipeline(tmp_path / "first", day, num_ranks, kept)
        pipeline(tmp_path / "other", rich_day, num_ranks, kept)
        second = pipeline(tmp_path / "second", day, num_ranks, kept)
    assert len(starts) == num_ranks
    for made in (first, second):
        same_weights(expected.checkpoint, made.checkpoint, 0.0)
        assert made.checkpoint.loss == expected.checkpoint.loss
        assert (made.held_out.loss, made.held_out.sampled_recall) == (
            expected.held_out.loss,
            expected.held_out.sampled_recall,
        )
        assert made.model.digest == expected.model.digest
        assert made.embeddings.digest == expected.embeddings.digest
