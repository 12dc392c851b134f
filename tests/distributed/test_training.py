"""Training on real ranks: one equals two, resumed equals undisturbed, a checkpoint fits any number of ranks."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import torch.distributed.checkpoint as dcp
from typer.testing import CliRunner

from flows.cli import app
from recsys_core import checkpoint, models, train
from recsys_core.artifacts import Checkpoint, Pending
from recsys_core.features import Engine
from recsys_core.models.base import RetrievalModel
from recsys_core.progress import silent


def _weights(made: Checkpoint) -> dict[str, torch.Tensor]:
    """Read every tensor of a checkpoint, whole, without ranks."""
    metadata = dcp.FileSystemReader(made.state).read_metadata().state_dict_metadata
    state = {key: torch.empty(meta.size) for key, meta in metadata.items() if hasattr(meta, "size")}
    dcp.load(state, checkpoint_id=made.state, no_dist=True)
    return state


def _same(left: Checkpoint, right: Checkpoint, tolerance: float) -> None:
    a, b = _weights(left), _weights(right)
    assert a.keys() == b.keys()
    for key in a:
        # Two ranks make half as many steps as one.
        if key != "optimizer.num_batches" or left.num_steps == right.num_steps:
            assert torch.allclose(a[key], b[key], rtol=0, atol=tolerance), key


def test_the_loss_falls_and_the_artifact_says_what_was_done(trained, day):
    curve = pq.read_table(trained.path / "curve.parquet").to_pylist()
    assert trained.num_steps == 8 * 16
    assert trained.num_rows == day.num_rows
    assert curve[-1]["examples"] == 8 * day.num_rows
    assert trained.loss < 0.75 * curve[0]["loss"]
    assert not list(trained.path.rglob("steps"))


def test_two_ranks_learn_the_planted_groups(train_request, torchrun, events):
    request = train_request(num_ranks=2, config={"num_epochs": 8, "batch_size": 64})
    done = torchrun("train", request, 2)
    assert done.returncode == 0, done.stderr
    made = Checkpoint.load(request.output)
    told = events()
    assert told[-1]["done"] == told[-1]["total"] == 8 * 2_011
    assert {"loss", "examples_per_second", "data_wait_share"} <= told[-1]["metrics"].keys()
    losses = [event["metrics"]["loss"] for event in told if "loss" in event["metrics"]]
    assert made.loss < 0.75 * losses[0]


@pytest.mark.parametrize("sharding", ["table_wise", "row_wise"])
def test_start_weights_do_not_depend_on_the_ranks(train_request, torchrun, sharding):
    made = {}
    for num_ranks in (1, 2):
        # A learning rate of almost 0 leaves the start weights, unless some rank does not heed its schedule.
        still = {"kind": "sgd", "learning_rate": 0.1, "schedule": {"kind": "constant", "warmup_steps": 10**13}}
        config = {
            "num_epochs": 1,
            "sparse_optimizer": still,
            "dense_optimizer": still,
            "sharding": {"sharding_types": [sharding]},
        }
        request = train_request(f"ranks-{num_ranks}", num_ranks=num_ranks, config=config)
        done = torchrun("train", request, num_ranks)
        assert done.returncode == 0, done.stderr
        made[num_ranks] = Checkpoint.load(request.output)
    _same(made[1], made[2], 0.0)


_EVERYTHING = {
    "precision": "bfloat16",
    "sparse_optimizer": {"schedule": {"kind": "cosine_restarts", "first": 9, "growth": 2, "warmup_steps": 5}},
    "dense_optimizer": {
        "schedule": {"kind": "exponential", "factor": 0.5, "every": 1, "by": "epoch"},
        "accumulate_batches": 4,
        "average_decay": 0.9,
        "max_gradient_norm": 0.5,
    },
}


@pytest.mark.parametrize("config", [{}, _EVERYTHING], ids=["plain", "everything"])
def test_resumed_equals_undisturbed_bit_for_bit(train_request, monkeypatch, config):
    undisturbed = train.run(train_request("undisturbed", config=config), silent)
    killed = train_request("killed", config=config)
    real = train.Trainer.step

    def dies(self, batch, number):
        if number == 37:
            raise KeyboardInterrupt
        return real(self, batch, number)

    monkeypatch.setattr(train.Trainer, "step", dies)
    with pytest.raises(KeyboardInterrupt):
        train.run(killed, silent)
    assert not killed.output.exists()
    partial = killed.output.with_name(".killed.partial")
    assert checkpoint.position(checkpoint.latest(partial / "steps")).step == 30
    monkeypatch.setattr(train.Trainer, "step", real)
    resumed = train.run(killed, silent)
    _same(undisturbed, resumed, 0.0)
    assert (resumed.loss, resumed.num_steps) == (undisturbed.loss, undisturbed.num_steps)
    losses = [pq.read_table(made.path / "curve.parquet").column("loss").to_pylist() for made in (undisturbed, resumed)]
    assert losses[0] == losses[1]


def test_chosen_rows_in_batches_by_cost_are_each_trained_on_once(train_request, day):
    ages = pq.read_table(day.examples).column("activity").to_pylist()
    chosen = sum(age > 0.5 for age in ages)
    config = {
        "num_epochs": 2,
        "batch_size": 200,
        "selection": {"filter": [["activity", ">", 0.5]]},
        "cost_column": "history__item_id",
        "max_cost": 100,
    }
    made = train.run(train_request("chosen", config=config), silent)
    assert made.num_rows == chosen
    curve = pq.read_table(made.path / "curve.parquet").to_pylist()
    assert curve[-1]["examples"] == 2 * chosen
    # A history has 2.5 items on average: a hundred of them are forty rows or so, not two hundred.
    assert made.num_steps > 2 * chosen / 60
    with pytest.raises(ValueError, match=r"train\.selection keeps none of the 2011 rows; widen it"):
        train.run(train_request("none", config={"selection": {"filter": [["activity", ">", 2]]}}), silent)
    with pytest.raises(ValueError, match="cost_column and max_cost go together"):
        train.Config.model_validate({"max_cost": 3})


def test_a_position_in_rows_that_have_changed_is_refused():
    position = checkpoint.Position(step=7, source={"a.parquet": "10 bytes, 1", "b.parquet": "5 bytes, 1"})
    position.refuse_other_source({"b.parquet": "5 bytes, 1", "a.parquet": "10 bytes, 1"})
    checkpoint.Position().refuse_other_source({"a.parquet": "10 bytes, 1"})
    changed = {"a.parquet": "11 bytes, 2", "c.parquet": "5 bytes, 1"}
    with pytest.raises(
        ValueError, match=r"step 7: a\.parquet was 10 bytes, 1 and is 11 bytes, 2; b\.parquet was .* absent"
    ):
        position.refuse_other_source(changed)


def test_killed_after_the_last_step_loses_none(train_request, monkeypatch):
    undisturbed = train.run(train_request("undisturbed"), silent)
    killed = train_request("killed")

    def dies(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Pending, "commit", dies)
        with pytest.raises(KeyboardInterrupt):
            train.run(killed, silent)
    partial = killed.output.with_name(".killed.partial")
    assert sorted(path.name for path in partial.iterdir()) == ["curve.parquet", "plan.json", "plan.txt", "state"]
    monkeypatch.setattr(train.Trainer, "step", dies)
    resumed = train.run(killed, silent)
    _same(undisturbed, resumed, 0.0)
    assert (resumed.loss, resumed.num_steps) == (undisturbed.loss, undisturbed.num_steps)


def test_evaluation_and_export_take_the_moving_average(train_request, sections, day):
    made = train.run(train_request(config={"num_epochs": 1, "dense_optimizer": {"average_decay": 0.9}}), silent)
    stored = _weights(made)
    engine = Engine.load(day.engine)
    weights = models.build(sections["model"], engine, RetrievalModel).state_dict()
    checkpoint.load_weights(made.state, weights, alone=True)
    dense = [name for name in weights if not name.startswith("tables.")]
    assert dense
    for name, weight in weights.items():
        section = "average" if name in dense else "model"
        assert torch.equal(weight, stored[f"{section}.{name}"])
        assert section == "model" or not torch.equal(weight, stored[f"model.{name}"])


def test_a_checkpoint_of_two_ranks_continues_on_one(train_request, torchrun):
    request = train_request("two", num_ranks=2, config={"num_epochs": 1, "sharding": {"sharding_types": ["row_wise"]}})
    done = torchrun("train", request, 2)
    assert done.returncode == 0, done.stderr
    base = Checkpoint.load(request.output)
    config = {"sparse_optimizer": {"learning_rate": 1e-30}, "dense_optimizer": {"learning_rate": 1e-30}}
    continued = train.run(train_request("one", base=base, config=config), silent)
    assert continued.warm_started_from == base.digest
    before, after = _weights(base), _weights(continued)
    for key in before:
        if key.startswith("model."):
            assert torch.allclose(before[key], after[key], rtol=0, atol=1e-7), key


_STILL = {"kind": "sgd", "learning_rate": 1e-30}


def test_fine_tuning_starts_from_what_it_chooses(train_request, trained):
    config = {"num_epochs": 1, "sparse_optimizer": _STILL, "dense_optimizer": _STILL}
    chosen = {"path": trained.path, "exclude": ["item.*"]}
    tuned = train.run(train_request("tuned", config=config | {"fine_tune_from": chosen}), silent)
    plain = train.run(train_request("plain", config=config), silent)
    found, before, fresh = _weights(tuned), _weights(trained), _weights(plain)
    for key in (key for key in found if key.startswith("model.")):
        expected = fresh if key.startswith("model.item.") else before
        assert torch.allclose(found[key], expected[key], rtol=0, atol=1e-7), key
    shown = CliRunner().invoke(app, ["checkpoint", "list", str(tuned.path.parent), "--json"])
    assert json.loads(shown.stdout) == []
    shown = CliRunner().invoke(app, ["checkpoint", "list", str(trained.path.parent), "--json"])
    assert [(row["steps"], row["start"]) for row in json.loads(shown.stdout)] == [(trained.num_steps, "random")]


def test_a_warm_start_without_the_optimizers_state_may_change_their_kind(train_request, trained):
    config = {"num_warm_epochs": 1, "sparse_optimizer": _STILL, "dense_optimizer": _STILL}
    request = train_request(base=trained, config=config | {"restore_optimizer": False})
    found, before = _weights(train.run(request, silent)), _weights(trained)
    for key in (key for key in found if key.startswith("model.")):
        assert torch.allclose(found[key], before[key], rtol=0, atol=1e-7), key


def test_a_checkpoint_of_another_model_lists_the_differing_keys(train_request, trained, sections):
    other = sections["model"].model_copy(update={"output_dim": 8})
    request = train_request("other").model_copy(update={"model": other, "base": trained})
    with pytest.raises(ValueError, match=r"(?s)another model:.*model.query.*checkpoint \(16, 32\), model \(8, 32\)"):
        train.run(request, silent)
    assert not request.output.exists()


def test_a_loss_that_is_no_number_stops_with_a_remedy(train_request):
    request = train_request(config={"dense_optimizer": {"kind": "sgd", "learning_rate": 1e30}})
    with pytest.raises(ValueError, match=r"the loss is nan at step .*lower train"):
        train.run(request, silent)


def test_bad_input_in_a_rank_is_an_event_and_exit_code_2(train_request, torchrun, events, day, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(day.path, moved)
    (moved / "examples" / "part-00000.parquet").write_bytes(b"PAR1")
    request = train_request(data=day.model_copy(update={"path": moved}))
    done = torchrun("train", request, 1)
    assert done.returncode != 0
    assert "part-00000.parquet: not a readable Parquet file" in json.dumps(events())
    assert not request.output.exists()


def test_an_optimizer_without_a_kernel_for_the_device_is_refused(train_request):
    told = r"sparse_optimizer\.kind: adam has no fused kernel for CPUs; use rowwise"
    with pytest.raises(ValueError, match=told):
        train.run(train_request(config={"sparse_optimizer": {"kind": "adam"}}), silent)
    with pytest.raises(ValueError, match=told):
        train_request(config={"sparse_optimizer": {"kind": "adam"}, "sharding": {"device": "cpu"}})


@pytest.mark.parametrize("sharding", ["table_wise", "row_wise", "column_wise"])
def test_a_sharded_model_gives_what_the_whole_one_gives(train_request, tmp_path, sharding):
    request = train_request(num_ranks=2, config={"sharding": {"sharding_types": [sharding]}})
    file = tmp_path / "request.json"
    file.write_text(request.model_dump_json())
    program = Path(__file__).with_name("sharded_equals_whole.py")
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        str(program),
        str(file),
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": str(program.parents[2])}
    )
    assert done.returncode == 0, done.stderr
