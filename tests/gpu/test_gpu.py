"""What tests/distributed shows of CPUs, on GPUs: as on a CPU, as on one rank, as if never stopped.

Sums on a GPU are made in another order each time, so that equal means equal to within roundings.
"""

import contextlib
import math

import pytest
import torch
import torch.distributed as dist

from recsys_core import checkpoint, distributed, launch
from recsys_core.artifacts import Checkpoint
from recsys_core.loading.batch import moved
from recsys_core.progress import silent
from recsys_core.ranking import evaluate, export
from recsys_core.ranking import train as rank_train
from recsys_core.retrieval import train
from recsys_core.sections.export import Config as Export
from recsys_core.training.config import Config as Train

SGD = {"kind": "sgd", "learning_rate": 0.05}
COMMON = {"config_hash": "c" * 32, "code_version": "tests"}


def test_the_world_of_a_gpu_speaks_nccl_there_and_gloo_beside_it():
    with distributed.world("auto") as world:
        assert world.device == torch.device("cuda", 0)
        ones = world.sum(torch.ones(3, device=world.device))
        assert (ones.device, ones.tolist()) == (world.device, [1.0] * 3)
        assert world.sum(torch.ones(2)).tolist() == [1.0] * 2
        assert world.gather("a") == ["a"]
        assert "nccl" in dist.get_backend_config()


def test_batches_wait_in_memory_that_a_gpu_copies_from(train_request):
    with distributed.world("cuda") as world:
        trainer = train.trainer(train_request("train", config={"sharding": {"device": "cuda"}}), world)
        made = trainer.objective.feed.batches(trainer.epoch(), epoch=0, step=0, pins=True)
        with contextlib.closing(made) as batches:
            batch, _ = next(batches)
        there = moved(batch, world.device)
    for one, copy in (
        (batch.sparse.values(), there.sparse.values()),
        (batch.query_dense_BF, there.query_dense_BF),
        (batch.item_rows_M, there.item_rows_M),
    ):
        assert one.is_pinned()
        assert copy.device == world.device
        assert torch.equal(copy.cpu(), one)


def test_two_towers_learn_on_a_gpu_what_they_learn_on_a_cpu(train_request, same_weights):
    made = {}
    for device in ("cpu", "cuda"):
        config = {"sharding": {"device": device}, "sparse_optimizer": SGD, "dense_optimizer": SGD}
        made[device] = train.run(train_request(device, config=config), silent)
    assert made["cuda"].loss == pytest.approx(made["cpu"].loss, rel=1e-4)
    same_weights(made["cpu"], made["cuda"], 1e-4)


@pytest.mark.parametrize("kernel", ["fused", "fused_uvm", "fused_uvm_caching"])
def test_a_ranker_learns_on_a_gpu_what_it_learns_on_a_cpu(ranking_request, same_weights, kernel):
    on_cpu = rank_train.run(ranking_request("cpu", sharding={"device": "cpu"}), silent)
    on_gpu = rank_train.run(ranking_request("cuda", sharding={"compute_kernels": [kernel]}), silent)
    assert on_gpu.loss == pytest.approx(on_cpu.loss, rel=1e-4)
    same_weights(on_cpu, on_gpu, 1e-4)


@pytest.mark.parametrize("config", [{"precision": "bfloat16"}, {"precision": "float16"}, {"compile": True}])
def test_narrow_and_compiled_trainings_end_near_the_plain_one(ranking_request, config):
    plain = rank_train.run(ranking_request("plain"), silent)
    other = rank_train.run(ranking_request("other", **config), silent)
    assert math.isfinite(other.loss)
    assert other.loss == pytest.approx(plain.loss, rel=0.02)


@pytest.mark.parametrize("kind", ["adam", "partial_rowwise_adam", "rowwise_adagrad"])
def test_resumed_equals_undisturbed(train_request, dying_at, same_weights, kind):
    config = {"sparse_optimizer": {"kind": kind, "learning_rate": 0.01}, "sharding": {"device": "cuda"}}
    undisturbed = train.run(train_request("undisturbed", config=config), silent)
    killed = train_request("killed", config=config)
    with dying_at(37):
        train.run(killed, silent)
    partial = killed.output.with_name(".killed.partial")
    assert checkpoint.position(checkpoint.latest(partial / "steps")).step == 30
    resumed = train.run(killed, silent)
    assert (resumed.num_steps, resumed.num_rows) == (undisturbed.num_steps, undisturbed.num_rows)
    assert resumed.loss == pytest.approx(undisturbed.loss, rel=1e-3)
    same_weights(undisturbed, resumed, 1e-2)


def test_what_a_gpu_trained_a_cpu_measures_alike_and_exports(ranking_request, data, tmp_path):
    request = ranking_request("train")
    made = rank_train.run(request, silent)
    figures = []
    for device in ("cpu", "cuda"):
        asked = evaluate.Request(
            output=tmp_path / f"evaluate-{device}",
            config=evaluate.Config(split="train", batch_size=100),
            ranking=request.ranking,
            model=request.model,
            sharding=Train.model_validate({"sharding": {"device": device}}).sharding,
            num_ranks=1,
            seed=3,
            data=data,
            checkpoint=made,
            **COMMON,
        )
        figures.append(evaluate.run(asked, silent).metrics.model_dump())
    assert figures[0] == pytest.approx(figures[1], rel=1e-4)
    exported = export.run(
        export.Request(
            output=tmp_path / "export", config=Export(), model=request.model, data=data, checkpoint=made, **COMMON
        ),
        silent,
    )
    assert exported.parity_max_abs_difference < 1e-4


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize("sharding", ["table_wise", "row_wise", "column_wise"])
def test_fifty_steps_on_two_gpus_end_as_on_one(ranking_request, same_weights, sharding):
    one = rank_train.run(ranking_request("one"), silent)
    request = ranking_request("two", 2, sharding={"sharding_types": [sharding]})
    two = launch.run("rank_train", Checkpoint, request, silent, launch.Local(num_ranks=2))
    assert two.num_steps == one.num_steps == 50
    assert two.loss == pytest.approx(one.loss, rel=1e-4)
    same_weights(one, two, 1e-4)
