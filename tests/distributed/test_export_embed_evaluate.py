"""What follows a training: held-out figures, exported towers, and vectors of every row, on one rank and on two."""

import json
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from recsys_core import indexes
from recsys_core.artifacts import Checkpoint, Embeddings, HeldOut
from recsys_core.exported.inputs import tower_inputs
from recsys_core.features import Engine
from recsys_core.indexes import flat
from recsys_core.progress import silent
from recsys_core.retrieval import embed, evaluate, export, train
from recsys_core.serving import Recommender
from recsys_core.serving.search import Search

COMMON = {"config_hash": "c" * 32, "code_version": "tests"}


def test_a_model_of_ones_own_trains_and_its_towers_need_no_code_of_it(own_package, make_train_request, day, tmp_path):
    section = {"kind": "shop.crossed", "output_dim": 8, "num_crosses": 1}
    made = make_train_request(tmp_path / "train", config={"num_epochs": 3, "log_every_steps": 5})
    request = train.Request.model_validate(made.model_dump() | {"model": section})
    checkpoint = train.run(request, silent)
    curve = pq.read_table(checkpoint.path / "curve.parquet").column("loss").to_pylist()
    assert checkpoint.loss < 0.9 * curve[0]
    exporting = export.Request(
        output=tmp_path / "export",
        **COMMON,
        config=export.Config(parity_rows=100),
        model=request.model,
        data=day,
        checkpoint=checkpoint,
    )
    exported = export.run(exporting, silent)
    alone = "import sys, torch; torch.jit.load(sys.argv[1]); assert not {'shop', 'recsys_core'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", alone, str(exported.query / "model.pt")], check=True, cwd=tmp_path)
    engine = Engine.load(exported.engine)
    tower = torch.jit.load(str(exported.query / "model.pt"))
    rows = pq.read_table(day.ground_truth).slice(0, 5)
    assert tower(tower_inputs(engine.transform(rows, "query"))).shape == (5, 8)


@pytest.fixture
def embed_request(exported, day, tmp_path):
    def make(name="embed", **fields) -> embed.Request:
        given = {"config": embed.Config(batch_size=50), "data": day, "model": exported}
        return embed.Request(output=tmp_path / name, **COMMON, **(given | fields))

    return make


@pytest.fixture
def evaluate_request(trained, day, sections, tmp_path):
    def make(name="evaluate", **fields) -> evaluate.Request:
        given = {"config": evaluate.Config(batch_size=32, ks=(1, 10)), "sharding": {}, "num_ranks": 1, "seed": 3}
        return evaluate.Request(
            output=tmp_path / name, **COMMON, **sections, **(given | fields), data=day, checkpoint=trained
        )

    return make


def test_exported_towers_need_only_plain_tensors(exported, day):
    assert exported.parity_max_abs_difference <= 1e-5
    engine = Engine.load(exported.engine)
    assert engine.digest == day.engine_digest
    items = pq.read_table(day.items)
    tower = torch.jit.load(str(exported.item / "model.pt"))
    signature = json.loads((exported.item / "signature.json").read_text())
    inputs = tower_inputs(engine.transform(items, "item"))
    assert [entry["name"] for entry in signature["inputs"]] == list(inputs)
    with torch.no_grad():
        vectors = tower(inputs)
    assert list(vectors.shape) == [items.num_rows, signature["output"]["shape"][1]]
    assert torch.allclose(vectors.norm(dim=1), torch.ones(items.num_rows), atol=1e-5)


def test_a_shared_table_is_stored_once(exported):
    tower = torch.jit.load(str(exported.query / "model.pt"))
    shapes = [tuple(feature.table.weight.shape) for feature in tower.pooled.children()]
    assert (200, 8) in shapes


def test_parity_beyond_the_tolerance_exports_nothing(trained, day, sections, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "_eager", lambda model, engine, rows: {"query": torch.zeros(100, 16)})
    request = export.Request(
        output=tmp_path / "export",
        **COMMON,
        config=export.Config(parity_rows=100),
        model=sections["model"],
        data=day,
        checkpoint=trained,
    )
    with pytest.raises(ValueError, match="exported query tower differs from the checkpoint"):
        export.run(request, silent)
    assert list(tmp_path.iterdir()) == []


def test_two_ranks_embed_what_one_embeds_in_the_same_order(embed_request, ranks, day):
    one = embed.run(embed_request("one"), silent)
    request = embed_request("two")
    codes, log = ranks.stage("embed", request, 2)
    assert not any(codes), log
    two = Embeddings.load(request.output)
    assert (two.num_items, two.num_queries) == (day.num_items, day.num_queries)
    for folder in ("items", "queries"):
        left, right = pq.read_table(one.path / folder), pq.read_table(two.path / folder)
        assert left.drop_columns(["embedding"]).equals(right.drop_columns(["embedding"]))
        vectors = [np.stack(table.column("embedding").to_numpy()) for table in (left, right)]
        assert np.allclose(*vectors, atol=1e-6)
    assert pq.read_table(one.items).column("item_id").equals(pq.read_table(day.items).column("item_id"))


def test_weights_maxima_and_tiles_go_from_two_ranks_to_the_service(rich_day, train_request, ranks, sections, tmp_path):
    learning = train_request(num_ranks=2, data=rich_day, config={"sharding": {"sharding_types": ["row_wise"]}})
    codes, log = ranks.stage("train", learning, 2)
    assert not any(codes), log
    made = Checkpoint.load(learning.output)
    assert made.num_steps == 4 * 8
    given = {"config": export.Config(parity_rows=100), "model": sections["model"], "data": rich_day}
    model = export.run(export.Request(output=tmp_path / "export", checkpoint=made, **given, **COMMON), silent)
    signature = json.loads((model.query / "signature.json").read_text())
    assert {"name": "most.weights", "dtype": "float32", "shape": ["values"]} in signature["inputs"]
    asked = embed.Request(output=tmp_path / "embed", config=embed.Config(), data=rich_day, model=model, **COMMON)
    codes, log = ranks.stage("embed", asked, 2)
    assert not any(codes), log
    vectors = Embeddings.load(asked.output)
    items, queries = (
        np.stack(pq.read_table(path)["embedding"].to_numpy()) for path in (vectors.items, vectors.queries)
    )
    index = indexes.build(
        flat.Config(), items, pq.read_table(vectors.items)["item_id"].combine_chunks(), "ip", 0, silent
    )
    engine, tower = Engine.load(model.engine), torch.jit.load(str(model.query / "model.pt"))
    bundle = Recommender(engine, tower, Search(index))
    rows = pq.read_table(rich_day.ground_truth).to_pylist()
    table = bundle.table({name: [row[name] for row in rows] for name in engine.columns("query")})
    np.testing.assert_allclose(bundle.embed(table), queries, atol=1e-6)
    best = (queries @ items.T).argmax(axis=1)
    assert [found[0] for found in bundle.recommend(table, 1, mask_seen=False)["item_ids"].to_pylist()] == best.tolist()


def test_vectors_find_the_planted_group(embed_request):
    made = embed.run(embed_request(), silent)
    items, queries = pq.read_table(made.items), pq.read_table(made.queries)
    scores = np.stack(queries.column("embedding").to_numpy()) @ np.stack(items.column("embedding").to_numpy()).T
    best = scores.argmax(axis=1)
    assert (best % 6 == queries.column("user_id").to_numpy() % 6).mean() > 0.9


def test_a_column_that_the_day_does_not_have_is_named(embed_request, day, tmp_path):
    poorer = tmp_path / "poorer"
    for folder in ("items", "ground_truth"):
        (poorer / folder).mkdir(parents=True)
        table = pq.read_table(day.path / folder)
        dropped = [name for name in ("category",) if name in table.column_names]
        pq.write_table(table.drop_columns(dropped), poorer / folder / "part-00000.parquet")
    request = embed_request(data=day.model_copy(update={"path": poorer}))
    with pytest.raises(ValueError, match=r"item features need column\(s\) category"):
        embed.run(request, silent)


def test_every_known_pair_is_evaluated_once(evaluate_request, ranks, day):
    one = evaluate.run(evaluate_request("one"), silent)
    assert one.num_rows == day.num_ground_truth
    assert 0 < one.sampled_recall["1"] < one.sampled_recall["10"] <= 1
    assert one.sampled_recall["10"] > 0.4
    request = evaluate_request("two", num_ranks=2)
    codes, log = ranks.stage("evaluate", request, 2)
    assert not any(codes), log
    two = HeldOut.load(request.output)
    assert two.num_rows == one.num_rows
    assert two.loss == pytest.approx(one.loss, abs=0.2)
