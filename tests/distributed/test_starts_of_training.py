"""What a training starts from: its seed, a file of vectors or a checkpoint, whatever number of ranks made that."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

from flows.cli import app
from recsys_core.artifacts import Checkpoint
from recsys_core.features import Config, Engine
from recsys_core.progress import silent
from recsys_core.retrieval import train


@pytest.mark.parametrize("sharding", ["table_wise", "row_wise"])
def test_start_weights_do_not_depend_on_the_ranks(train_request, ranks, sharding, same_weights):
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
        codes, log = ranks.stage("train", request, num_ranks)
        assert not any(codes), log
        made[num_ranks] = Checkpoint.load(request.output)
    same_weights(made[1], made[2], 0.0)


@pytest.fixture(scope="module")
def pretrained_day(day, tmp_path_factory):
    """The same day, whose items start from a file and stay so; it has 60 of the 120, and 500 others."""
    path = tmp_path_factory.mktemp("pretrained")
    numbers = np.random.default_rng(1).random((560, 8)).astype(np.float32)
    table = pa.table({"id": [*range(0, 120, 2), *range(1_000, 1_500)], "embedding": numbers.tolist()})
    pq.write_table(table, path / "items.parquet", row_group_size=100)
    section = Engine.load(day.engine).config.model_dump(mode="json")
    start = {"kind": "file", "path": str(path / "items.parquet")}
    section["tables"] = [{"name": "item_id", "initializer": start, "trainable": False}]
    engine = Engine.build(Config.model_validate(section))
    engine.fit([pq.read_table(day.examples)], [pq.read_table(day.items)])
    for name in ("examples", "items", "ground_truth"):
        (path / name).symlink_to(day.path / name)
    engine.save(path / "features")
    return day.model_copy(update={"path": path, "digest": "pretrained", "engine_digest": engine.digest})


def test_a_table_starts_from_a_file_alike_on_any_ranks_and_stays_so_if_frozen(
    pretrained_day, train_request, ranks, same_weights, weights_of, events
):
    still = {"kind": "sgd", "learning_rate": 1e-30}
    made = []
    for num_ranks, kind in ((1, "table_wise"), (2, "row_wise"), (2, "column_wise")):
        config = {"num_epochs": 1, "sparse_optimizer": still, "dense_optimizer": still}
        config["sharding"] = {"sharding_types": [kind], "min_partition": 4}
        name = f"{kind}-{num_ranks}"
        request = train_request(name, data=pretrained_day, num_ranks=num_ranks, config=config)
        codes, log = ranks.stage("train", request, num_ranks)
        assert not any(codes), log
        made.append(Checkpoint.load(request.output))
        same_weights(made[0], made[-1], 0.0)
    messages = [event["message"] for event in events() if "starts from" in (event["message"] or "")]
    assert messages == [f"table item_id starts from {pretrained_day.path / 'items.parquet'}: 60 of 560 ids"] * 3
    (found,) = (w for key, w in weights_of(made[0]).items() if key.endswith(".item_id.weight"))
    file = pq.read_table(pretrained_day.path / "items.parquet").to_pydict()
    encoder = Engine.load(pretrained_day.engine).encoders["item_id"]
    rows = encoder.encode(pa.array(file["id"][:60]))
    assert len(set(rows.tolist()) - {0}) == 60
    assert torch.equal(found[rows], torch.tensor(file["embedding"][:60]))
    drawn = np.setdiff1d(np.arange(200), rows)
    assert float(found[drawn].abs().max()) <= 200**-0.5


def test_who_goes_on_does_not_read_the_file_again(pretrained_day, train_request, dying_at, same_weights):
    undisturbed = train.run(train_request("undisturbed", data=pretrained_day), silent)
    killed = train_request("killed", data=pretrained_day)
    with dying_at(17):
        train.run(killed, silent)
    file = pretrained_day.path / "items.parquet"
    moved = file.rename(file.with_suffix(".moved"))
    try:
        same_weights(undisturbed, train.run(killed, silent), 0.0)
        train.run(train_request("warm", data=pretrained_day, base=undisturbed), silent)
        with pytest.raises(ValueError, match=r"tables\[name=item_id\]\.initializer: .*items\.parquet: no such file"):
            train.run(train_request("cold", data=pretrained_day), silent)
    finally:
        moved.rename(file)


def test_a_checkpoint_of_two_ranks_continues_on_one(train_request, ranks, weights_of):
    request = train_request("two", num_ranks=2, config={"num_epochs": 1, "sharding": {"sharding_types": ["row_wise"]}})
    codes, log = ranks.stage("train", request, 2)
    assert not any(codes), log
    base = Checkpoint.load(request.output)
    config = {"sparse_optimizer": {"learning_rate": 1e-30}, "dense_optimizer": {"learning_rate": 1e-30}}
    continued = train.run(train_request("one", base=base, config=config), silent)
    assert continued.warm_started_from == base.digest
    before, after = weights_of(base), weights_of(continued)
    for key in before:
        if key.startswith("model."):
            assert torch.allclose(before[key], after[key], rtol=0, atol=1e-7), key


_STILL = {"kind": "sgd", "learning_rate": 1e-30}


def test_fine_tuning_starts_from_what_it_chooses(train_request, trained, weights_of):
    config = {"num_epochs": 1, "sparse_optimizer": _STILL, "dense_optimizer": _STILL}
    chosen = {"path": trained.path, "exclude": ["item.*"]}
    tuned = train.run(train_request("tuned", config=config | {"fine_tune_from": chosen}), silent)
    plain = train.run(train_request("plain", config=config), silent)
    found, before, fresh = weights_of(tuned), weights_of(trained), weights_of(plain)
    for key in (key for key in found if key.startswith("model.")):
        expected = fresh if key.startswith("model.item.") else before
        assert torch.allclose(found[key], expected[key], rtol=0, atol=1e-7), key
    shown = CliRunner().invoke(app, ["checkpoint", "list", str(tuned.path.parent), "--json"])
    assert json.loads(shown.stdout) == []
    shown = CliRunner().invoke(app, ["checkpoint", "list", str(trained.path.parent), "--json"])
    assert [(row["steps"], row["start"]) for row in json.loads(shown.stdout)] == [(trained.num_steps, "random")]


def test_a_warm_start_without_the_optimizers_state_may_change_their_kind(train_request, trained, weights_of):
    config = {"num_warm_epochs": 1, "sparse_optimizer": _STILL, "dense_optimizer": _STILL}
    request = train_request(base=trained, config=config | {"restore_optimizer": False})
    found, before = weights_of(train.run(request, silent)), weights_of(trained)
    for key in (key for key in found if key.startswith("model.")):
        assert torch.allclose(found[key], before[key], rtol=0, atol=1e-7), key


def test_a_checkpoint_of_another_model_lists_the_differing_keys(train_request, trained, sections, tmp_path):
    other = sections["model"].model_copy(update={"output_dim": 8})
    # Alone, without the features that say what could be taken over.
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / "state").symlink_to(trained.state)
    base = trained.model_copy(update={"path": tmp_path / "alone"})
    request = train_request("other").model_copy(update={"model": other, "base": base})
    with pytest.raises(ValueError, match=r"(?s)another model:.*model.query.*checkpoint \(16, 32\), model \(8, 32\)"):
        train.run(request, silent)
    assert not request.output.exists()
