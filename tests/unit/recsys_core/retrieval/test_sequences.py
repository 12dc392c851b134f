"""Whole sequences on their way to a loss, and from day to day, with the stages' own code in this process."""

import datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from recsys_core import config, distributed, ingest, readers
from recsys_core.artifacts import TrainingData
from recsys_core.datasets import synthetic
from recsys_core.features import Config as Features
from recsys_core.features import Engine
from recsys_core.loading.epoch_order import EpochOrder
from recsys_core.loading.rank_batches import CostLimit, RankBatches, Rows
from recsys_core.progress import silent
from recsys_core.retrieval import embed, evaluate, export, preprocess, requests, train
from recsys_core.retrieval.feed import ItemTable, SequenceFeed
from recsys_core.retrieval.objective import Retrieval
from recsys_core.samplers.weighted import Config as Weighted

COMMON = {"config_hash": "", "code_version": ""}
FIRST = datetime.date(2024, 1, 1)
SHOP = {"first_day": FIRST, "num_days": 4, "num_users": 60, "num_items": 40, "interactions_per_day": 240}
SECTIONS = {
    "name": "shop",
    "preprocess": {"examples": "sequences", "history": {"max_length": 6}},
    "features": {
        "embedding_dim": 8,
        "query": [
            {"kind": "sequence", "name": "clicked", "column": "history__item_id", "table": "item_id"}
            | {"pooling": "none", "max_length": 6},
            {"kind": "id", "name": "city", "num_embeddings": 16, "embedding_dim": 4},
        ],
        "item": [{"kind": "id", "name": "item_id", "num_embeddings": 128}],
    },
    "model": {"kind": "sasrec", "output_dim": 8, "max_length": 6, "forward_dim": 8, "dropout": 0.0},
    "loss": {"kind": "full_cross_entropy"},
    "train": {
        "batch_size": 16,
        "num_epochs": 2,
        "sparse_optimizer": {"kind": "adam", "learning_rate": 0.01},
        "dense_optimizer": {"kind": "adam", "learning_rate": 0.01},
    },
}


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    log = tmp_path_factory.mktemp("log") / "shop"
    ingest.import_log(synthetic.Config.model_validate(SHOP), log, silent)
    return log


def _config(shop, **changes):
    section = SECTIONS | {"data": {"kind": "daily", "source": str(shop)}} | changes
    return config.RunConfig.model_validate(section)


def _data(shop, made, day, folder, base=None):
    day = FIRST + datetime.timedelta(days=day)
    request = ingest.Request(
        output=folder / "data", config=made.data, day=day, import_root=folder / "log", fingerprint="", **COMMON
    )
    learned, engine = (None, None) if base is None else base
    return preprocess.run(
        preprocess.Request(
            output=folder / "preprocess",
            config=made.preprocess,
            features=made.features,
            dataset=ingest.run(request, silent),
            day=day,
            base_learned=learned,
            base_engine=engine,
            base_engine_digest=None if engine is None else Engine.load(engine).digest,
            **COMMON,
        ),
        silent,
    )


def _objective(made, data, world):
    return Retrieval(made.model, made.sampler, made.loss, data, batch_size=16, seed=0, world=world)


def _mean_loss(objective, model, world):
    reader = objective.reader
    shard = RankBatches.in_order(reader, objective.feed.columns, batch_size=16, rank=0, num_ranks=1)
    total = 0.0
    with torch.no_grad():
        for batch, _ in objective.feed.batches(shard, epoch=0, step=0):
            total += float(objective.loss(model, batch, world)["loss"])
    return total / reader.num_rows


def test_the_loss_of_whole_sequences_is_that_of_their_interactions_one_by_one(shop, tmp_path):
    # Without the city, whose rows are by how many examples have it.
    clicked, _ = SECTIONS["features"]["query"]
    longer = {
        "features": SECTIONS["features"] | {"query": [clicked | {"max_length": 50}]},
        "model": SECTIONS["model"] | {"max_length": 50},
    }
    whole, single = (
        _config(shop, preprocess={"examples": kind, "history": {"max_length": 50}}, **longer)
        for kind in ("sequences", "interactions")
    )
    with distributed.world("cpu") as world:
        by_row = _objective(whole, _data(shop, whole, 0, tmp_path / "whole"), world)
        by_interaction = _objective(single, _data(shop, single, 0, tmp_path / "single"), world)
        counts = [len(row) for row in readers.read_all(by_row.reader)["known"].to_pylist()]
        # No history is cut, so that what is known of an interaction is the same.
        assert max(counts) <= 50
        assert by_row.reader.num_rows < by_interaction.reader.num_rows == sum(counts)
        model = by_row.model.to_empty(device="cpu")
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        losses = [_mean_loss(objective, model, world) for objective in (by_row, by_interaction)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_day_goes_on_where_the_day_before_ended(shop, tmp_path, monkeypatch):
    made = _config(shop)
    data = _data(shop, made, 1, tmp_path / "1")
    first = train.run(_training(made, data, tmp_path / "1", None), silent)
    assert first.loss < np.log(data.num_items)
    base = (first.learned, data.engine)
    second = _data(shop, made, 2, tmp_path / "2", base)
    # Only what is new is to be found, behind all that came before it.
    rows = readers.read_all(readers.opened(second.examples))
    single = _config(shop, preprocess={"examples": "interactions", "history": {"max_length": 6}})
    assert second.num_targets == _data(shop, single, 2, tmp_path / "single", base).num_rows
    assert max(map(max, rows["known"].to_pylist())) == 6
    checkpoint = train.run(_training(made, second, tmp_path / "2", first), silent)
    assert checkpoint.warm_started_from == first.digest
    held_out = evaluate.run(_measuring(made, second, checkpoint, tmp_path / "evaluate"), silent)
    monkeypatch.setattr(evaluate, "_BLOCK_NUMBERS", 3 * second.num_items)
    in_blocks = evaluate.run(_measuring(made, second, checkpoint, tmp_path / "blocks"), silent)
    assert (in_blocks.loss, in_blocks.sampled_recall) == (pytest.approx(held_out.loss), held_out.sampled_recall)
    # Among all items, of which every pair's own is one.
    assert 0 < held_out.loss < 2 * np.log(second.num_items)
    exported = export.run(
        requests.ExportRequest(
            output=tmp_path / "export",
            config=made.export,
            model=made.model,
            data=second,
            checkpoint=checkpoint,
            **COMMON,
        ),
        silent,
    )
    vectors = embed.run(
        requests.EmbedRequest(output=tmp_path / "embed", config=made.embed, data=second, model=exported, **COMMON),
        silent,
    )
    assert (vectors.num_queries, vectors.embedding_dim) == (second.num_queries, 8)
    assert exported.parity_max_abs_difference < 1e-4


def _training(made, data, folder, base):
    return requests.TrainRequest(
        output=folder / "train",
        config=made.train,
        model=made.model,
        sampler=made.sampler,
        loss=made.loss,
        num_ranks=1,
        seed=0,
        data=data,
        base=base,
        **COMMON,
    )


def _measuring(made, data, checkpoint, output):
    return requests.EvaluateRequest(
        output=output,
        config=made.evaluate,
        model=made.model,
        sampler=made.sampler,
        loss=made.loss,
        sharding=made.train.sharding,
        num_ranks=1,
        seed=0,
        data=data,
        checkpoint=checkpoint,
        **COMMON,
    )


ITEMS = pa.table({"item_id": [7, 8, 9], "sampling_weight": [1.0, 1.0, 1.0], "num_interactions": [3, 2, 1]})
EXAMPLES = pa.table(
    {
        "history__item_id": pa.array([[7, 8], [], [9]]),
        "targets": pa.array([[8, 9, 7], [7], [8]]),
        "known": pa.array([[1, 2, 2], [0], [1]], pa.list_(pa.int32())),
    }
)


def _feed(tmp_path, sampler, **feature):
    features = {
        "embedding_dim": 4,
        "query": [
            {"kind": "sequence", "name": "clicked", "column": "history__item_id", "table": "item_id", "pooling": "none"}
            | feature
        ],
        "item": [{"kind": "id", "name": "item_id", "num_embeddings": 8}],
    }
    engine = Engine.build(Features.model_validate(features))
    engine.fit([EXAMPLES], [ITEMS])
    (tmp_path / "items").mkdir()
    pq.write_table(ITEMS, tmp_path / "items" / "part-00000.parquet")
    return SequenceFeed(engine, ItemTable(tmp_path / "items", engine), sampler, seed=0, rank=0, most_targets=3)


def _rows(num_ranks=1):
    (part,) = EXAMPLES.to_batches()
    return Rows([part], [(0, 3)], most_rows=3, global_rows=3 * num_ranks)


def test_targets_are_those_of_all_rows_one_after_another(tmp_path):
    batch = _feed(tmp_path, None).batch(_rows(), epoch=0, step=0)
    assert batch.targets is not None
    assert [own.tolist() for own in batch.targets] == [[0, 0, 0, 1, 2], [1, 2, 2, 0, 1], [1, 2, 0, 0, 1]]
    # All items are negatives, and targets are among them.
    assert batch.item_rows_M.tolist() == [0, 1, 2]
    assert (batch.sparse.stride(), batch.global_rows) == (3, 3)


@pytest.mark.parametrize(("num_ranks", "num_rows"), [(1, 5), (2, 5)])
def test_items_of_targets_are_looked_up_once_each_and_ranks_have_as_many_rows(tmp_path, num_ranks, num_rows):
    feed = _feed(tmp_path, Weighted(num_negatives=2))
    batch = feed.batch(_rows(num_ranks), epoch=0, step=0)
    assert batch.targets is not None
    assert batch.item_rows_M[:3].tolist() == [0, 1, 2]
    assert batch.targets.item_T.tolist() == [1, 2, 0, 0, 1]
    # Three items at most, and two negatives.
    assert (len(batch.item_rows_M), batch.sparse.stride()) == (5, num_rows)


def test_a_feature_that_leaves_entries_out_is_refused(tmp_path):
    with pytest.raises(ValueError, match="feature 'clicked': 1 ids of a history of 2 entries; whole sequences need"):
        _feed(tmp_path, None, max_length=1).batch(_rows(), epoch=0, step=0)


def test_a_model_without_states_trains_on_no_whole_sequences(shop, tmp_path):
    made = _config(shop)
    data = _data(shop, made, 0, tmp_path)
    assert isinstance(data, TrainingData)
    two_tower = _config(
        shop,
        model={"kind": "two_tower"},
        preprocess={},
        features=SECTIONS["features"] | {"query": [{"kind": "id", "name": "city", "num_embeddings": 16}]},
    ).model
    with distributed.world("cpu") as world, pytest.raises(ValueError, match="not a model that reads sequences in thei"):
        Retrieval(two_tower, None, made.loss, data, batch_size=16, seed=0, world=world)


def test_batches_are_bounded_by_their_targets(shop, tmp_path):
    made = _config(shop)
    data = _data(shop, made, 1, tmp_path)
    reader = readers.opened(data.examples)
    order = EpochOrder(reader.block_rows, seed=0, epoch=0, shuffle_rows=100, rows_per_turn=16)
    limit = CostLimit("targets", 30)
    shard = RankBatches(reader, order, ["targets"], batch_size=16, rank=0, num_ranks=1, budget=limit)
    counts = [sum(map(len, part.batch["targets"])) for part in shard]
    assert sum(counts) == data.num_targets
    assert max(counts) <= 30
