"""Tables whose rows come and go, over days and ranks: ids that survive keep their rows, new ones start anew."""

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from recsys_core import checkpoint, distributed, features, models
from recsys_core.artifacts import Checkpoint
from recsys_core.checkpoint import files, storage
from recsys_core.checkpoint.owners import changed_rows
from recsys_core.features import Engine
from recsys_core.models.base import RetrievalModel
from recsys_core.progress import silent
from recsys_core.retrieval import export, train
from recsys_core.training.trainer import Trainer

_STILL = {"kind": "sgd", "learning_rate": 1e-30}
_STAND = {"num_epochs": 1, "num_warm_epochs": 1, "sparse_optimizer": _STILL, "dense_optimizer": _STILL}


@pytest.fixture(scope="module")
def days(day, tmp_path_factory):
    """Two days' data: on the first users 0 to 199 were seen, on the second 100 to 299, and the table may be larger."""
    root = tmp_path_factory.mktemp("days")
    examples, items = pq.read_table(day.examples), pq.read_table(day.items)
    users = examples["user_id"].to_numpy()
    made, base = [], None
    for number, (max_rows, low, high) in enumerate([(150, 0, 200), (170, 100, 300)]):
        section = Engine.load(day.engine).config.model_dump(mode="json")
        section["query"][0] = {
            "kind": "id",
            "name": "user_id",
            "dynamic": {"max_rows": max_rows, "block_rows": 8},
        }
        base = Engine.build(features.Config.model_validate(section), base=base)
        base.fit([examples.filter(pa.array((users >= low) & (users < high)))], [items])
        path = root / str(number)
        path.mkdir()
        for name in ("examples", "items", "ground_truth"):
            (path / name).symlink_to(day.path / name)
        base.save(path / "features")
        made.append(day.model_copy(update={"path": path, "digest": str(number), "engine_digest": base.digest}))
    return made


def _rows(engine: Engine) -> dict[int, int]:
    return {int(one): int(row) for row, one in engine.owners()["user_id"]}


def _read(made: Checkpoint, key: str) -> torch.Tensor:
    section, _, name = key.partition(".")
    held = files.empty_state(made.state, section)
    storage.load(made.state, {section: held}, alone=True)
    return held[name]


WEIGHT = "tables.bags.embedding_bags.user_id.weight"
STATE = f"state.{WEIGHT}.user_id.momentum1"


@pytest.mark.parametrize(
    ("kind", "moments"), [("rowwise_adagrad", ["momentum1"]), ("adamw", ["momentum1", "exp_avg_sq"])]
)
def test_who_survives_keeps_row_and_optimizer_and_who_comes_starts_anew(days, train_request, ranks, kind, moments):
    first, second = (_rows(Engine.load(data.engine)) for data in days)
    assert (len(first), len(second)) == (149, 169)
    survivors = {one for one in first if second.get(one) == first[one]}
    newcomers = second.keys() - first.keys()
    reused = {one for one in newcomers if second[one] in first.values()}
    assert min(len(survivors), len(newcomers), len(reused)) > 10
    own = {"sparse_optimizer": {"kind": kind}}
    yesterday = train.run(train_request("first", data=days[0], config={"num_epochs": 1} | own), silent)
    trained = _read(yesterday, f"model.{WEIGHT}")
    states = [_read(yesterday, f"optimizer.state.{WEIGHT}.user_id.{name}") for name in moments]
    assert len(trained) == 150
    for state in states:
        touched = [one for one in reused if state[second[one]].any()]
        assert touched, "rows that change hands have an optimizer's state to lose"

    request = train_request("second", data=days[1], base=yesterday, config={"num_warm_epochs": 1} | own)
    with distributed.world("cpu") as world:
        trainer = train.trainer(request, world)
        fresh = trainer.model.state_dict()[WEIGHT].local_shards()[0].tensor.clone()
        trainer.start.inherit(yesterday.state, "model", "optimizer")
        weight = trainer.model.state_dict()[WEIGHT].local_shards()[0].tensor
        now = trainer.optimizer.state()["optimizer"]["state"][WEIGHT]
        assert [*now] == [f"user_id.{name}" for name in moments]
        assert len(weight) == 170
        for one in survivors:
            assert torch.equal(weight[second[one]], trained[first[one]])
        for one in newcomers:
            assert torch.equal(weight[second[one]], fresh[second[one]])
        for held, state in zip(now.values(), states, strict=True):
            moment = held.local_shards()[0].tensor
            assert len(moment) == 170
            assert all(torch.equal(moment[second[one]], state[first[one]]) for one in survivors)
            assert not any(moment[second[one]].any() for one in newcomers)
        expected = weight.clone()

    # Two ranks, each with half of the rows, take the same from the checkpoint of one, and one takes it back.
    still = _STAND | {"restore_optimizer": False, "sharding": {"sharding_types": ["row_wise"]}}
    request = train_request("two", data=days[1], base=yesterday, config=still, num_ranks=2)
    codes, log = ranks.stage("train", request, 2)
    assert not any(codes), log
    two = Checkpoint.load(request.output)
    assert torch.allclose(_read(two, f"model.{WEIGHT}"), expected, rtol=0, atol=1e-7)
    assert "170 x 8" in two.plan.read_text()
    back = train.run(train_request("back", data=days[1], base=two, config=still), silent)
    assert torch.allclose(_read(back, f"model.{WEIGHT}"), expected, rtol=0, atol=1e-7)


def test_resumed_equals_undisturbed_and_the_curves_show_how_full_tables_are(days, train_request, monkeypatch):
    config = {"num_epochs": 2, "sharding": {"sharding_types": ["row_wise"]}}
    events = []
    undisturbed = train.run(train_request("undisturbed", data=days[0], config=config), events.append)
    filled = events[0].metrics
    assert filled["tables/user_id/occupancy"] == 1.0
    assert 0 < filled["tables/user_id/collision_rate"] < 1
    assert filled["tables/user_id/admitted"] == 149
    assert filled["tables/item_id/occupancy"] == 120 / 199
    assert events[0].message.startswith("plan (fresh)\ntable ")
    assert undisturbed.touched["user_id"] == (_read(undisturbed, f"optimizer.{STATE}") > 0).sum() / 150
    assert undisturbed.touched["item_id"] == 120 / 200
    killed, real = train_request("killed", data=days[0], config=config), Trainer.step

    def dies(self, batch, number):
        if number == 17:
            raise KeyboardInterrupt
        return real(self, batch, number)

    monkeypatch.setattr(Trainer, "step", dies)
    with pytest.raises(KeyboardInterrupt):
        train.run(killed, silent)
    monkeypatch.setattr(Trainer, "step", real)
    events = []
    resumed = train.run(killed, events.append)
    assert events[0].message.startswith(f"plan (that of {killed.output.with_name('.killed.partial')}, whose tables")
    for key in (f"model.{WEIGHT}", f"optimizer.{STATE}", "owners.user_id"):
        assert torch.equal(_read(undisturbed, key), _read(resumed, key)), key


def test_the_export_maps_ids_as_the_training_did(days, train_request, sections, tmp_path):
    made = train.run(train_request("train", data=days[1], config=_STAND), silent)
    request = export.Request(
        output=tmp_path / "export",
        config_hash="c",
        code_version="tests",
        config=export.Config(parity_rows=100),
        model=sections["model"],
        data=days[1],
        checkpoint=made,
    )
    engine, exported = Engine.load(days[1].engine), Engine.load(export.run(request, silent).engine)
    assert exported.digest == engine.digest
    ids = pa.array([*_rows(engine), 10**15])
    table = pa.table({"user_id": ids, "segment": ["s"] * len(ids), "activity": [0.0] * len(ids)})
    table = table.append_column("history__item_id", pa.array([[]] * len(ids), pa.list_(pa.int64())))
    assert exported.transform(table, "query").sparse["user_id"].values.tolist() == [*_rows(engine).values(), 0]


def test_a_table_that_can_only_be_cut_by_columns_is_refused(days, train_request):
    by_columns = {"sharding": {"sharding_types": ["column_wise"]}, "sparse_optimizer": {"kind": "adagrad"}}
    columns = train_request("columns", data=days[0], config=by_columns)
    with distributed.world("cpu") as world:
        two = dataclasses.replace(world, num_ranks=2, num_local_ranks=2)
        with pytest.raises(ValueError, match="table 'user_id' has dynamic ids, so it grows, and cannot be cut"):
            train.trainer(columns, two)


def test_fine_tuning_takes_rows_by_their_ids_whatever_the_size_of_the_table(days, train_request):
    larger = train.run(train_request("larger", data=days[1], config={"num_epochs": 1}), silent)
    tuned = _STAND | {"fine_tune_from": {"path": larger.path}}
    smaller = train.run(train_request("smaller", data=days[0], config=tuned), silent)
    found, held = _read(smaller, f"model.{WEIGHT}"), _read(larger, f"model.{WEIGHT}")
    first, second = (_rows(Engine.load(data.engine)) for data in days)
    both = first.keys() & second.keys()
    assert len(found) == 150
    assert any(first[one] != second[one] for one in both) or len(both) < len(first)
    for one in both:
        assert torch.allclose(found[first[one]], held[second[one]], rtol=0, atol=1e-7)


def test_rows_that_have_changed_hands():
    before = np.array([[1, 70], [2, 80], [4, 90]])
    now = np.array([[1, 70], [2, 81], [3, 60], [4, 90], [9, 80]])
    assert changed_rows(before, now).tolist() == [2, 3, 9]
    assert changed_rows(None, now).tolist() == changed_rows(before[:0], now).tolist() == [1, 2, 3, 4, 9]
    assert changed_rows(before, now[:0]).tolist() == []


def test_evaluation_reads_a_dynamic_table_as_any_other(days, train_request, sections):
    made = train.run(train_request("train", data=days[1], config=_STAND), silent)
    weights = models.build(sections["model"], Engine.load(days[1].engine), RetrievalModel).state_dict()
    checkpoint.load_weights(made.state, weights, alone=True)
    assert torch.equal(weights[WEIGHT], _read(made, f"model.{WEIGHT}"))
