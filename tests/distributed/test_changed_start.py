"""Continuing a training after a change of features, tables or layers: what means the same is taken over."""

from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from recsys_core import distributed, features
from recsys_core.artifacts import Checkpoint, TrainingData
from recsys_core.checkpoint import files, lineage, storage
from recsys_core.checkpoint.carrying import Report
from recsys_core.features import Engine
from recsys_core.models import two_tower
from recsys_core.progress import silent
from recsys_core.retrieval import train
from recsys_core.training.starting import Base

_STILL = {"kind": "sgd", "learning_rate": 1e-30}
_STAND = {"num_epochs": 1, "num_warm_epochs": 1, "sparse_optimizer": _STILL, "dense_optimizer": _STILL}
_STAND |= {"restore_optimizer": False}
_TABLES = "tables.bags.embedding_bags"


@pytest.fixture
def changed(day, tmp_path):
    """Make the day's data with other features, which continue its engine or, `anew`, are fitted from row `first`."""

    def make(name: str, change: Any, *, anew: bool = False, first: int = 0) -> TrainingData:
        section = Engine.load(day.engine).config.model_dump(mode="json")
        change(section)
        base = None if anew else Engine.load(day.engine)
        engine = Engine.build(features.Config.model_validate(section), base=base)
        engine.fit([pq.read_table(day.examples).slice(first)], [pq.read_table(day.items).slice(first // 20)])
        path = tmp_path / name / "preprocess"
        path.mkdir(parents=True)
        for folder in ("examples", "items", "ground_truth"):
            (path / folder).symlink_to(day.path / folder)
        engine.save(path / "features")
        return day.model_copy(update={"path": path, "digest": name, "engine_digest": engine.digest})

    return make


def grow(section: dict[str, Any]) -> None:
    """A wider table, a larger one, a new feature of ids between the others, and one of numbers."""
    section["query"][1] |= {"embedding_dim": 12}
    section["item"][0] |= {"num_embeddings": 300}
    bucket = {"kind": "raw", "name": "busy", "column": "activity", "boundaries": [0.5], "embedding_dim": 4}
    section["query"].insert(1, bucket)
    section["query"].insert(0, {"kind": "raw", "name": "twice", "column": "activity", "normalizer": "log1p"})


def read(made: Checkpoint) -> dict[str, torch.Tensor]:
    state = {section: files.empty_state(made.state, section) for section in ("model", "optimizer")}
    storage.load(made.state, state, alone=True)
    return {f"{section}.{name}": value for section, held in state.items() for name, value in held.items()}


def begun(request: train.Request, base: Checkpoint) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], Report]:
    """Return the state before anything is taken over, the one after it, and what was reported."""
    with distributed.world("cpu") as world:
        trainer = train.trainer(request, world)
        before = {key: value.clone() for key, value in flat(trainer.state()).items()}
        report = trainer.begin(Base(base), {}, silent)
        assert report is not None
        return before, {key: value.clone() for key, value in flat(trainer.state()).items()}, report


def flat(state: dict[str, Any], prefix: str = "") -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for key, value in state.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.")
        elif isinstance(value, torch.Tensor):
            shards = getattr(value, "local_shards", None)
            found[f"{prefix}{key}"] = shards()[0].tensor.detach() if shards else value.detach()
    return found


def test_rows_columns_and_inputs_are_taken_over_and_the_rest_starts_anew(changed, train_request, trained):
    request = train_request(data=changed("grown", grow), base=trained)
    fresh, now, report = begun(request, trained)
    old = read(trained)
    # The table of segments is wider: its six rows that were given out (and row 0) keep eight columns of twelve.
    key = f"model.{_TABLES}.segment.weight"
    assert torch.equal(now[key][:7, :8], old[key][:7])
    assert torch.equal(now[key][:7, 8:], fresh[key][:7, 8:])
    assert torch.equal(now[key][7:], fresh[key][7:])
    # The one of items has more rows; 120 are given out.
    key = f"model.{_TABLES}.item_id.weight"
    assert torch.equal(now[key][:121], old[key][:121])
    assert torch.equal(now[key][121:], fresh[key][121:])
    state = f"optimizer.state.{_TABLES}.item_id.weight.item_id.momentum1"
    assert torch.equal(now[state][:121], old[state][:121])
    assert old[state][1:121].all()
    assert not now[state][121:].any()
    busy = f"model.{_TABLES}.busy.weight"
    assert torch.equal(now[busy], fresh[busy])
    # Columns then: user_id 0-7, segment 8-15, history 16-23, activity 24. Now the tables stand as they are first named:
    # user_id 0-7, busy 8-11, segment 12-23, history 24-31, twice 32, activity 33.
    moved = {
        **{c: c for c in range(8)},
        **{c: c + 4 for c in range(8, 16)},
        **{c: c + 8 for c in range(16, 24)},
        24: 33,
    }
    for name in ("model.query.layers.0.weight", "optimizer.state.query.layers.0.weight.exp_avg"):
        assert now[name].shape == (32, 34)
        assert torch.equal(now[name][:, [*moved.values()]], old[name][:, [*moved]])
        others = [column for column in range(34) if column not in moved.values()]
        assert not now[name][:, others].any()
    for name in ("query.layers.0.bias", "query.layers.2.weight", "item.layers.0.weight"):
        assert torch.equal(now[f"model.{name}"], old[f"model.{name}"])
    assert now["optimizer.state.query.layers.0.weight.step"] == old["optimizer.state.query.layers.0.weight.step"] > 0
    assert now["optimizer.num_batches"] == old["optimizer.num_batches"] > 0
    assert report.changes[:3] == (
        "feature twice: new",
        "feature busy: new",
        "feature item_id: num_embeddings 200 → 300",
    )
    parts = {part.name: part for part in report.parts}
    segment = parts[f"{_TABLES}.segment.weight"]
    assert (segment.carried_rows, segment.rows, segment.carried_columns, segment.columns) == (7, 16, 8, 12)
    assert parts[f"{_TABLES}.busy.weight"].is_new
    assert "121 of 300" in report.text


def test_a_model_that_only_grew_gives_out_what_it_gave_out(changed, train_request, trained, day):
    wide = two_tower.Config(output_dim=16, query_hidden=(48, 50), item_hidden=(40,))
    request = train_request(data=changed("wide", grow), base=trained).model_copy(update={"model": wide})
    outputs = []
    for asked, base in ((train_request("same", base=trained), trained), (request, trained)):
        with distributed.world("cpu") as world:
            trainer = train.trainer(asked, world)
            trainer.begin(Base(base), {}, silent)
            (rows,) = (rows for number, rows in enumerate(trainer.epoch()) if number == 0)
            batch = trainer.objective.feed.batch(rows, epoch=0, step=0)
            with torch.no_grad():
                outputs.append(trainer.model(batch.sparse, batch.query_dense_BF, batch.item_dense_MF))
    for before, now in zip(*outputs, strict=True):
        assert torch.allclose(before, now, rtol=0, atol=1e-6)


def test_two_ranks_take_over_what_one_does_and_give_it_back(changed, train_request, trained, ranks):
    data = changed("grown", grow)
    _, expected, _ = begun(train_request(data=data, base=trained, config=_STAND), trained)
    still = _STAND | {"sharding": {"sharding_types": ["row_wise"]}}
    request = train_request("two", data=data, base=trained, config=still, num_ranks=2)
    codes, log = ranks.stage("train", request, 2)
    assert not any(codes), log
    two = Checkpoint.load(request.output)
    found = read(two)
    for key in (key for key in found if key.startswith("model.")):
        assert torch.allclose(found[key], expected[key], rtol=0, atol=1e-7), key
    assert "121 of 300" in two.carried.read_text()

    # From two ranks' shards to one, without what was new; and a row-wise optimizer's state likewise.
    def shrink(section: dict[str, Any]) -> None:
        grow(section)
        del section["query"][0]
        section["query"][1] |= {"boundaries": [0.25, 0.5, 0.75]}

    _, back, report = begun(train_request("back", data=changed("shrunk", shrink), base=two, config=_STAND), two)
    assert "feature twice: gone" in report.changes
    assert torch.equal(back["model.query.layers.0.weight"][:, :32], found["model.query.layers.0.weight"][:, :32])
    # [-inf, .25) and [.25, .5) lay in the first bucket, the others in the second.
    busy = f"model.{_TABLES}.busy.weight"
    assert torch.equal(back[busy], found[busy][[0, 0, 1, 1]])


def test_a_killed_training_of_a_changed_start_ends_as_an_undisturbed_one(
    changed, train_request, trained, dying_at, same_weights
):
    data = changed("grown", grow)
    config = {"num_warm_epochs": 2, "dense_optimizer": {"average_decay": 0.9}}
    undisturbed = train.run(train_request("undisturbed", data=data, base=trained, config=config), silent)
    killed = train_request("killed", data=data, base=trained, config=config)
    with dying_at(17):
        train.run(killed, silent)
    resumed = train.run(killed, silent)
    same_weights(undisturbed, resumed, 0.0)
    assert resumed.carried.read_text() == undisturbed.carried.read_text()
    assert Report.model_validate_json(resumed.carried.with_suffix(".json").read_text()).changes


def test_an_unchanged_start_takes_all_and_says_nothing(train_request, trained):
    with distributed.world("cpu") as world:
        trainer = train.trainer(train_request(base=trained), world)
        assert trainer.begin(Base(trained), {}, silent) is None
        old, now = read(trained), flat(trainer.state())
        for key, value in old.items():
            assert torch.equal(now[key], value), key
    assert not trained.carried.exists()


def test_what_the_config_does_not_want_or_cannot_be_taken_over_is_refused(changed, train_request, trained):
    refuse = train_request("refuse", data=changed("grown", grow), base=trained, config={"on_change": "refuse"})
    with pytest.raises(ValueError, match=r"train.on_change: refuse, and feature twice: new; .*start the run again"):
        train.run(refuse, silent)

    def other(section: dict[str, Any]) -> None:
        number = {"encoding": "hash", "num_embeddings": 31}
        section["query"] = [{"kind": "id", "name": "visitor", "column": "user_id", **number}]
        section["item"] = [{"kind": "id", "name": "thing", "column": "item_id", **number}]

    nothing = train_request("nothing", data=changed("other", other), base=trained)
    nothing = nothing.model_copy(update={"model": two_tower.Config(output_dim=8, query_hidden=(), item_hidden=())})
    with pytest.raises(ValueError, match="nothing of the model to continue means the same here"):
        train.run(nothing, silent)


def test_another_kind_of_optimizer_starts_anew(train_request, trained):
    adagrad = {"sparse_optimizer": {"kind": "adagrad"}, "dense_optimizer": {"kind": "adamw"}}
    _, now, report = begun(train_request(base=trained, config=adagrad), trained)
    assert report.changes == (
        "train.sparse_optimizer: rowwise_adagrad → adagrad",
        "train.dense_optimizer: adam → adamw",
    )
    assert torch.equal(now["model.query.layers.0.weight"], read(trained)["model.query.layers.0.weight"])
    assert not any(value.any() for key, value in now.items() if key.startswith("optimizer."))


def test_both_moments_of_adamw_go_with_their_rows(changed, train_request, day):
    adamw = {"sparse_optimizer": {"kind": "adamw", "learning_rate": 0.01, "weight_decay": 0.01}, "num_epochs": 1}
    base = train.run(train_request("base", config=adamw), silent)
    old = read(base)
    # Fitted on other rows, so that ids have other rows; the table of segments is wider, and that of items is larger.
    data = changed("anew", grow, anew=True, first=600)
    _, now, report = begun(train_request(data=data, base=base, config=adamw), base)
    assert not [change for change in report.changes if "optimizer" in change]
    tables = features.carried(Engine.load(day.engine), Engine.load(data.engine)).tables
    for table, width in (("item_id", 8), ("segment", 8), ("user_id", 8)):
        rows, weight = tables[table], f"{_TABLES}.{table}.weight"
        others = torch.ones(len(now[f"model.{weight}"]), dtype=torch.bool)
        others[rows.now] = False
        assert torch.equal(now[f"model.{weight}"][rows.now, :width], old[f"model.{weight}"][rows.before])
        for moment in ("momentum1", "exp_avg_sq"):
            key = f"optimizer.state.{weight}.{table}.{moment}"
            assert old[key].any(), "the training before has moved it"
            assert torch.equal(now[key][rows.now, :width], old[key][rows.before])
            assert not now[key][rows.now, width:].any()
            assert not now[key][others].any()
    assert (tables["item_id"].before != tables["item_id"].now).sum() > 50
    assert now["optimizer.num_batches"] == old["optimizer.num_batches"] == 16
    # Fine-tuning takes the weights alone: what the optimizer keeps starts at nothing, and so does its count of steps.
    chosen = adamw | {"fine_tune_from": {"path": base.path, "strict": False}}
    request = train_request("tuned", data=data, config=chosen)
    with distributed.world("cpu") as world:
        trainer = train.trainer(request, world)
        trainer.begin(None, {}, silent)
        tuned = {key: value.clone() for key, value in flat(trainer.state()).items()}
    rows, key = tables["item_id"], f"model.{_TABLES}.item_id.weight"
    assert torch.equal(tuned[key][rows.now], old[key][rows.before])
    assert not any(value.any() for key, value in tuned.items() if key.startswith("optimizer."))


def test_layers_that_come_and_go_leave_the_others_alone(train_request, trained):
    # The query's output reads another layer, which passes on what the first one gives out; the item's reads the inputs.
    deeper = two_tower.Config(output_dim=24, query_hidden=(32, 40), item_hidden=())
    request = train_request(base=trained).model_copy(update={"model": deeper})
    fresh, now, report = begun(request, trained)
    old = read(trained)
    assert torch.equal(now["model.query.layers.0.weight"], old["model.query.layers.0.weight"])
    passes = now["model.query.layers.2.weight"]
    assert torch.equal(passes[:32], torch.eye(32))
    assert torch.equal(passes[32:], fresh["model.query.layers.2.weight"][32:])
    assert not now["model.query.layers.2.bias"][:32].any()
    for key in ("model.query.layers.4.weight", "optimizer.state.query.layers.4.weight.exp_avg"):
        was = key.replace("layers.4", "layers.2")
        assert torch.equal(now[key][:16, :32], old[was])
        assert not now[key][:16, 32:].any()
    assert torch.equal(now["model.query.layers.4.bias"][:16], old["model.query.layers.2.bias"])
    assert torch.equal(now["model.item.layers.0.weight"], fresh["model.item.layers.0.weight"])
    assert torch.equal(now["model.item.layers.0.bias"], fresh["model.item.layers.0.bias"])
    states = {part.name: "identity" if part.passes else "new" for part in report.parts if part.is_new}
    assert states == {
        "query.layers.2.weight": "identity",
        "query.layers.2.bias": "identity",
        "item.layers.0.weight": "new",
        "item.layers.0.bias": "new",
    }


def test_fine_tuning_finds_rows_by_their_ids_or_refuses(changed, train_request, trained, tmp_path):
    # Fitted on other rows, so that ids have other rows.
    data = changed("anew", lambda section: None, anew=True, first=600)
    assert Engine.load(data.engine).digest != Engine.load(trained_engine(trained)).digest
    chosen = _STAND | {"fine_tune_from": {"path": trained.path}}
    tuned = read(train.run(train_request("tuned", data=data, config=chosen), silent))
    old, key = read(trained), f"model.{_TABLES}.item_id.weight"
    rows = features.carried(Engine.load(trained_engine(trained)), Engine.load(data.engine)).tables["item_id"]
    assert (rows.before != rows.now).sum() > 50
    assert torch.allclose(tuned[key][rows.now], old[key][rows.before], rtol=0, atol=1e-7)
    assert torch.allclose(tuned["model.query.layers.0.weight"], old["model.query.layers.0.weight"], rtol=0, atol=1e-7)
    # Not at hand: the checkpoint lies elsewhere, alone.
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "state").symlink_to(trained.state)
    chosen = _STAND | {"fine_tune_from": {"path": alone}}
    with pytest.raises(
        ValueError, match=r"table 'category' were given to ids, and the features of .*alone.* not at hand"
    ):
        train.run(train_request("alone", data=data, config=chosen), silent)
    chosen["fine_tune_from"]["features"] = trained_engine(trained)
    again = read(train.run(train_request("named", data=data, config=chosen), silent))
    assert torch.equal(again[key], tuned[key])
    wrong = _STAND | {"fine_tune_from": {"path": trained.path, "features": data.engine}}
    with pytest.raises(ValueError, match="these are not the features that .* was trained with"):
        train.run(train_request("wrong", data=data, config=wrong), silent)


def test_fine_tuning_of_other_features_takes_a_part_only_where_that_is_said(changed, train_request, trained):
    data = changed("grown", grow)
    chosen = {"path": trained.path, "exclude": [f"{_TABLES}.busy.weight", f"{_TABLES}.segment.weight"]}
    with pytest.raises(
        ValueError, match=r"query.layers.0.weight: .*, of which 32 of 32 x 25 of 34 mean the same; strict"
    ):
        train.run(train_request("strict", data=data, config=_STAND | {"fine_tune_from": chosen}), silent)
    loose = _STAND | {"fine_tune_from": {"path": trained.path, "strict": False}}
    tuned = read(train.run(train_request("loose", data=data, config=loose), silent))
    old = read(trained)
    assert torch.allclose(tuned[f"model.{_TABLES}.segment.weight"][:7, :8], old[f"model.{_TABLES}.segment.weight"][:7])
    assert torch.allclose(tuned["model.query.layers.0.weight"][:, 33], old["model.query.layers.0.weight"][:, 24])


def trained_engine(trained: Checkpoint) -> Any:
    said = lineage.of(trained.path)
    assert said is not None
    return (trained.path / said.engine).resolve()
