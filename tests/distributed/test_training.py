"""Training on real ranks: one equals two, resumed equals undisturbed, a checkpoint fits any number of ranks."""

import contextlib
import gzip
import json
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
import torch

from recsys_core import checkpoint, distributed, models
from recsys_core.artifacts import Checkpoint, Pending
from recsys_core.features import Engine
from recsys_core.models.base import RetrievalModel
from recsys_core.progress import Stopped, silent
from recsys_core.retrieval import train
from recsys_core.samplers import impressions
from recsys_core.training import loop
from recsys_core.training.config import Config as TrainingConfig
from recsys_core.training.trainer import Trainer


def test_the_loss_falls_and_the_artifact_says_what_was_done(trained, day):
    curve = pq.read_table(trained.path / "curve.parquet").to_pylist()
    assert trained.num_steps == 8 * 16
    assert trained.num_rows == day.num_rows
    assert curve[-1]["examples"] == 8 * day.num_rows
    assert trained.loss < 0.75 * curve[0]["loss"]
    assert not list(trained.path.rglob("steps"))


@pytest.mark.parametrize("sampler", ["weighted", "impressions"])
def test_two_ranks_learn_the_planted_groups(train_request, ranks, events, sampler):
    request = train_request(num_ranks=2, config={"num_epochs": 8, "batch_size": 64})
    if sampler == "impressions":
        # What is shown was mixed into the weights of the items before.
        shown = impressions.Config(source="shown/ds={day}", num_negatives=64)
        request = request.model_copy(update={"sampler": shown})
    codes, log = ranks.stage("train", request, 2)
    assert not any(codes), log
    made = Checkpoint.load(request.output)
    emitted = events()
    assert emitted[-1]["done"] == emitted[-1]["total"] == 8 * 2_011
    assert {"loss", "examples_per_second", "data_wait_share"} <= emitted[-1]["metrics"].keys()
    losses = [event["metrics"]["loss"] for event in emitted if "loss" in event["metrics"]]
    assert made.loss < 0.75 * losses[0]


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


_BY_ADAM = {"sparse_optimizer": {"kind": "adamw", "learning_rate": 0.01, "weight_decay": 0.01}}


@pytest.mark.parametrize(
    "config",
    [{}, _BY_ADAM, _EVERYTHING, _EVERYTHING | {"precision": "float16"}],
    ids=["plain", "adamw", "everything", "float16"],
)
def test_resumed_equals_undisturbed_bit_for_bit(train_request, dying_at, config, same_weights):
    undisturbed = train.run(train_request("undisturbed", config=config), silent)
    killed = train_request("killed", config=config)
    with dying_at(37):
        train.run(killed, silent)
    assert not killed.output.exists()
    partial = killed.output.with_name(".killed.partial")
    assert checkpoint.position(checkpoint.latest(partial / "steps")).step == 30
    resumed = train.run(killed, silent)
    same_weights(undisturbed, resumed, 0.0)
    assert (resumed.loss, resumed.num_steps) == (undisturbed.loss, undisturbed.num_steps)
    losses = [pq.read_table(made.path / "curve.parquet").column("loss").to_pylist() for made in (undisturbed, resumed)]
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("precision", "instructions", "warns"),
    [("bfloat16", "AVX2", True), ("bfloat16", "AVX512", False), ("float32", "AVX2", False)],
)
def test_a_precision_that_a_cpu_computes_in_software_is_reported(
    train_request, monkeypatch, precision, instructions, warns
):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: instructions)
    events = []
    train.run(train_request("software", config={"precision": precision, "num_epochs": 1}), events.append)
    assert (
        any(f"({instructions}) computes {precision} in software" in (event.message or "") for event in events) == warns
    )


@pytest.mark.parametrize("log_every_steps", [4, 40], ids=["before", "at the last step"])
def test_a_number_of_steps_ends_within_an_epoch_and_a_stop_changes_nothing(
    train_request, monkeypatch, same_weights, log_every_steps
):
    config = {"num_steps": 40, "checkpoint_every_steps": 1_000, "log_every_steps": log_every_steps}
    request = train_request("steps")
    given = request.config.model_dump(exclude={"num_epochs", "num_warm_epochs"}) | config
    request = request.model_copy(update={"config": TrainingConfig.model_validate(given)})
    events = []
    made = train.run(request, events.append)
    # Two epochs of 16 steps, and half of the third, whose last batch is not among them.
    assert (made.num_steps, events[-1].done, events[-1].total) == (40, 2 * 2_011 + 8 * 128, 40 * 128)
    real = Trainer.step

    def interrupts(self, batch, number):
        if number == 20:
            signal.raise_signal(signal.SIGTERM)
        return real(self, batch, number)

    stopped = request.model_copy(update={"output": request.output.with_name("stopped")})
    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "step", interrupts)
        with pytest.raises(Stopped, match=r"stopped at step \d+, whose checkpoint is kept; run it again"):
            train.run(stopped, events.append)
    assert events[-1].stopped
    kept = checkpoint.latest(request.output.with_name(".stopped.partial") / "steps")
    assert events[-1].step == checkpoint.position(kept).step
    resumed = train.run(stopped, silent)
    same_weights(made, resumed, 0.0)
    assert (resumed.loss, resumed.num_steps) == (made.loss, 40)
    with pytest.raises(ValueError, match="num_steps and num_epochs both say how long to train; give one of them"):
        TrainingConfig.model_validate({"num_steps": 3, "num_epochs": 3})
    # As ranks get it.
    given = TrainingConfig(num_steps=3)
    assert TrainingConfig.model_validate_json(given.model_dump_json()) == given


def test_a_remainder_that_would_be_everything_is_refused(train_request):
    config = {"drop_remainder": True, "batch_size": 2_012}
    with pytest.raises(
        ValueError, match=r"train.drop_remainder: 2,011 rows are less than a batch of 2,012 of all ranks"
    ):
        train.run(train_request(config=config), silent)
    with pytest.raises(ValueError, match=r"drop_remainder: batches by max_cost have no one size; give one of them"):
        TrainingConfig.model_validate({"drop_remainder": True, "cost_column": "cost", "max_cost": 9})


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
        TrainingConfig.model_validate({"max_cost": 3})


def test_a_position_in_rows_that_have_changed_is_refused():
    position = checkpoint.TrainProgress(step=7, source={"a.parquet": "10 bytes, 1", "b.parquet": "5 bytes, 1"})
    position.refuse_other_source({"b.parquet": "5 bytes, 1", "a.parquet": "10 bytes, 1"})
    checkpoint.TrainProgress().refuse_other_source({"a.parquet": "10 bytes, 1"})
    changed = {"a.parquet": "11 bytes, 2", "c.parquet": "5 bytes, 1"}
    with pytest.raises(
        ValueError, match=r"step 7: a\.parquet was 10 bytes, 1 and is 11 bytes, 2; b\.parquet was .* absent"
    ):
        position.refuse_other_source(changed)


def test_killed_after_the_last_step_loses_none(train_request, monkeypatch, same_weights):
    undisturbed = train.run(train_request("undisturbed"), silent)
    killed = train_request("killed")

    def dies(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Pending, "commit", dies)
        with pytest.raises(KeyboardInterrupt):
            train.run(killed, silent)
    partial = killed.output.with_name(".killed.partial")
    kept = ["curve.parquet", "features", "lineage.json", "model.json", "plan.json", "plan.txt", "sample", "state"]
    assert sorted(path.name for path in partial.iterdir()) == kept
    monkeypatch.setattr(Trainer, "step", dies)
    resumed = train.run(killed, silent)
    same_weights(undisturbed, resumed, 0.0)
    assert (resumed.loss, resumed.num_steps) == (undisturbed.loss, undisturbed.num_steps)


def test_evaluation_and_export_take_the_moving_average(train_request, sections, day, weights_of):
    made = train.run(train_request(config={"num_epochs": 1, "dense_optimizer": {"average_decay": 0.9}}), silent)
    stored = weights_of(made)
    engine = Engine.load(day.engine)
    weights = models.build(sections["model"], engine, RetrievalModel).state_dict()
    checkpoint.load_weights(made.state, weights, alone=True)
    dense = [name for name in weights if not name.startswith("tables.")]
    assert dense
    for name, weight in weights.items():
        section = "average" if name in dense else "model"
        assert torch.equal(weight, stored[f"{section}.{name}"])
        assert section == "model" or not torch.equal(weight, stored[f"model.{name}"])


def test_a_loss_that_is_no_number_stops_with_a_remedy(train_request):
    request = train_request(config={"dense_optimizer": {"kind": "sgd", "learning_rate": 1e30}})
    with pytest.raises(ValueError, match=r"the loss is nan at step .*lower train"):
        train.run(request, silent)


def test_the_batch_of_a_loss_that_is_no_number_is_kept_and_so_is_the_last_checkpoint(train_request, monkeypatch, day):
    seen = []
    real = Trainer.step

    def breaks(self, batch, number):
        seen.append(batch)
        losses = real(self, batch, number)
        return {name: loss * float("inf") if number == 36 else loss for name, loss in losses.items()}

    monkeypatch.setattr(Trainer, "step", breaks)
    request = train_request(config={"dense_optimizer": {"average_decay": 0.9}})
    # 2,011 rows are 16 batches: step 37 is the third epoch's fifth.
    message = (
        r"the loss is inf at step 37 of epoch 3 \(rank 0: rows 512 to 639 of the epoch's order, .*bad_rows\.parquet\)"
    )
    with pytest.raises(ValueError, match=message):
        train.run(request, silent)
    bad = pq.read_table(request.output.with_name("train.bad_rows.parquet"))
    items = pq.read_table(day.items).column("item_id").to_pylist()
    positives = [items[row] for row in seen[36].item_rows_M[:128].tolist()]
    assert bad.column("item_id").to_pylist() == positives
    (kept,) = (request.output.with_name(".train.partial") / "steps").iterdir()
    assert kept.name == "step-30"


@pytest.mark.parametrize("ending", [9, 63], ids=["at a checkpoint", "at the end"])
def test_a_state_that_is_not_finite_is_never_saved(train_request, monkeypatch, ending):
    real = Trainer.step

    def poisons(self, batch, number):
        loss = real(self, batch, number)
        if number == ending:
            (shard,) = self.model.state_dict()["tables.bags.embedding_bags.item_id.weight"].local_shards()
            # A row that no batch has looked up: no loss will ever show it.
            shard.tensor[199, 3] = float("nan")
        return loss

    monkeypatch.setattr(Trainer, "step", poisons)
    request = train_request()
    with pytest.raises(
        ValueError, match=rf"after step {ending + 1} .*: model\.tables\.bags\.embedding_bags\.item_id\.weight;"
    ):
        train.run(request, silent)
    partial = request.output.with_name(".train.partial")
    assert not (partial / "state").exists()
    assert [path.name for path in partial.glob("steps/*")] == (["step-60"] if ending == 63 else [])


def test_checkpoints_in_the_background_are_the_same_bits(train_request, monkeypatch, weights_of):
    made = {}
    for name in ("now", "later"):
        config = _EVERYTHING | {"num_epochs": 2, "keep_checkpoints": 9, "async_checkpoints": name == "later"}
        request = train_request(name, config=config)
        kept = request.output.with_name(f"{name}-kept")
        with monkeypatch.context() as patched:
            patched.setattr(loop.shutil, "rmtree", lambda steps, kept=kept, **_: steps.exists() and steps.rename(kept))
            made[name] = (train.run(request, silent), kept)
    assert sorted(path.name for path in made["now"][1].iterdir()) == ["step-10", "step-20", "step-30"]
    for directory in made["now"][1].iterdir():
        one, two = (weights_of(SimpleNamespace(state=kept / directory.name)) for _, kept in made.values())
        assert one.keys() == two.keys()
        assert all(torch.equal(one[key], two[key]) for key in one)
        positions = [checkpoint.position(kept / directory.name) for _, kept in made.values()]
        assert positions[0] == positions[1]


def test_what_goes_wrong_in_the_background_is_raised(train_request, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_state", full)
    request = train_request(config={"async_checkpoints": True})
    with pytest.raises(OSError, match="No space left"):
        train.run(request, silent)
    assert not checkpoint.latest(request.output.with_name(".train.partial") / "steps")


def test_the_curve_has_the_norms_and_tensorboard_and_a_profile_lie_beside(train_request, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = {"num_epochs": 2, "log_every_steps": 4, "tensorboard": True, "profile": {"start": 3, "steps": 2}}
    made = train.run(train_request(config=config), silent)
    curve = pq.read_table(made.path / "curve.parquet").to_pylist()
    assert [point["step"] for point in curve] == [4, 8, 10, 12, 16, 20, 24, 28, 30, 32]
    for point in curve:
        assert point["weight_norm"] > 0
        assert point["gradient_norm"] > 0
        assert point["memory_bytes"] > 1e7
        assert point["dense_learning_rate"] == 0.001
    points = EventAccumulator(str(tmp_path / "train.tensorboard")).Reload().Scalars("train/loss")
    assert [(event.step, event.value) for event in points] == [
        (point["step"], pytest.approx(point["loss"])) for point in curve
    ]
    with gzip.open(tmp_path / "train.profile" / "rank-0.json.gz") as file:
        names = {event.get("name") for event in json.load(file)["traceEvents"]}
    assert {"ProfilerStep#3", "ProfilerStep#4"} <= names
    assert "ProfilerStep#5" not in names


def test_bad_input_in_a_rank_is_an_event_and_exit_code_2(train_request, ranks, events, day, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(day.path, moved)
    (moved / "examples" / "part-00000.parquet").write_bytes(b"PAR1")
    request = train_request(data=day.model_copy(update={"path": moved}))
    assert ranks.stage("train", request, 1)[0] == [2]
    assert "part-00000.parquet: not a readable Parquet file" in json.dumps(events())
    assert not request.output.exists()


def test_an_optimizer_without_a_kernel_for_the_device_is_refused(train_request):
    message = r"sparse_optimizer\.kind: lamb has no fused kernel for CPUs; use one of rowwise"
    with pytest.raises(ValueError, match=message):
        train.run(train_request(config={"sparse_optimizer": {"kind": "lamb"}}), silent)
    with pytest.raises(ValueError, match=message):
        train_request(config={"sparse_optimizer": {"kind": "lamb"}, "sharding": {"device": "cpu"}})


def test_an_optimizer_of_whole_rows_is_refused_where_rows_are_split(train_request):
    message = (
        r"kind: rowwise_adagrad works on whole rows, which train\.sharding's column_wise cuts in pieces; use adagrad"
    )
    for sharding in (
        {"sharding_types": ["column_wise"]},
        {"by_table": {"item_id": {"sharding_types": ["row_wise", "column_wise"]}}},
    ):
        with pytest.raises(ValueError, match=message):
            train_request(config={"sharding": sharding})


@pytest.mark.parametrize("features", ["day", "rich_day"])
@pytest.mark.parametrize("sharding", ["table_wise", "row_wise", "column_wise"])
def test_a_sharded_model_gives_what_the_whole_one_gives(train_request, ranks, tmp_path, sharding, features, request):
    config = {"sharding": {"sharding_types": [sharding]}, "sparse_optimizer": {"kind": "adagrad"}}
    request = train_request(num_ranks=2, config=config, data=request.getfixturevalue(features))
    file = tmp_path / "request.json"
    file.write_text(request.model_dump_json())
    program = Path(__file__).with_name("sharded_equals_whole.py")
    codes, log = ranks([str(program), str(file)], 2)
    assert codes == [0, 0], log


@pytest.mark.parametrize("prepared", ["day", "rich_day"])
def test_ids_that_were_sent_ahead_are_looked_up_once_where_they_are(train_request, monkeypatch, request, prepared):
    with distributed.world("cpu") as world:
        trainer = train.trainer(train_request(data=request.getfixturevalue(prepared)), world)
        tables = trainer.objective.tables
        made = trainer.objective.feed.batches(trainer.epoch(), epoch=0, step=0)
        with contextlib.closing(made) as batches:
            first, second, third = (next(batches)[0] for _ in range(3))

        def look_up(batch):
            with torch.no_grad():
                return torch.cat(trainer.model(batch.sparse, batch.query_dense_BF, batch.item_dense_MF))

        expected = [look_up(batch) for batch in (first, second, third)]
        tables.send(first.sparse)
        tables.send(second.sparse)
        # A batch that was not sent may come between.
        assert torch.equal(look_up(third), expected[2])
        collections = [*filter(None, [tables.bags]), *tables.rows]
        for kind in {type(collection) for collection in collections}:
            monkeypatch.setattr(kind, "input_dist", lambda *_: pytest.fail("sent again"))
        assert torch.equal(look_up(first), expected[0])
        assert torch.equal(look_up(second), expected[1])
        with pytest.raises(pytest.fail.Exception, match="sent again"):
            look_up(first)
