"""RecIS's CTR example, cut small: its tensors equal what plain Python makes of the rows, and two ranks train it."""

from collections import Counter
from pathlib import Path

import farmhash
import mmh3
import numpy as np
import pytest
import torch
from pyarrow import orc
from pyarrow import parquet as pq

from recsys_core import config as configs
from recsys_core import models
from recsys_core.artifacts import Checkpoint
from recsys_core.features import Engine
from recsys_core.loading.rank_batches import Rows
from recsys_core.models.base import RankingModel
from recsys_core.progress import silent
from recsys_core.ranking import evaluate, export, predict, prepare, train
from recsys_core.ranking.feed import LabelledFeed

COMMON = {"config_hash": "c" * 32, "code_version": "tests"}
CONFIG = Path(__file__).parents[2] / "configs" / "recis_deepctr.yaml"
LENGTH = 12
# Everything but the sizes is the config's own.
CHANGES = [
    *("data.num_files=2", "data.rows_per_file=300", "data.max_length=25", "data.num_texts=40"),
    *(f"features.query[name=sparse{n}].{key}={LENGTH}" for n in (4, 5) for key in ("max_length", "tile_length")),
    *("train.batch_size=64", "train.num_steps=40", "evaluate.batch_size=64", "predict.batch_size=64"),
]


@pytest.fixture(scope="module")
def config():
    return configs.load(CONFIG, CHANGES)


@pytest.fixture(scope="module")
def data(config, tmp_path_factory):
    root = tmp_path_factory.mktemp("deepctr")
    request = prepare.Request(
        output=root / "prepare",
        config=config.ranking,
        data=config.data,
        features=config.features,
        import_root=root / "imports",
        fingerprint="f",
        **COMMON,
    )
    return prepare.run(request, silent)


def _rows(folder):
    return [row for file in sorted(folder.glob("*.orc")) for row in orc.ORCFile(file).read().to_pylist()]


def _vocabulary(*columns):
    """Return the row of each id: the most frequent has row 1; of equally frequent ones the smaller id comes first."""
    counts = Counter(id_ for column in columns for ids in column for id_ in ids)
    return {id_: row for row, (id_, _) in enumerate(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])), 1)}


def _reference(rows, of_training):
    """Return each feature's table rows by row of the data, one Python number at a time."""

    def buckets(some):
        return [[sum(bound <= x for bound in (0, 0.5, 1)) for x in row["dense2"]] for row in some]

    of_sparse1 = _vocabulary([row["sparse1"] for row in of_training], buckets(of_training))
    of_sparse2 = _vocabulary([row["sparse2"] for row in of_training])
    return {
        "dense2": [[of_sparse1[bucket] for bucket in row] for row in buckets(rows)],
        "sparse1": [[of_sparse1[id_] for id_ in row["sparse1"]] for row in rows],
        "sparse2": [[of_sparse2[id_] for id_ in row["sparse2"]] for row in rows],
        "sparse3": [[id_ % 10_000 for id_ in row["sparse3"]] for row in rows],
        "sparse4": [[id_ % 10_000 for id_ in row["sparse4"][:LENGTH]] for row in rows],
        "sparse5": [[farmhash.fingerprint64(text) % 10_000 for text in row["sparse5"][:LENGTH]] for row in rows],
        "sparse1_x_sparse2": [
            [mmh3.hash64(f"{a}\x1e{b}", signed=False)[0] % 1_000 for a in row["sparse1"] for b in row["sparse2"]]
            for row in rows
        ],
    }


def test_tensors_equal_those_of_plain_python(config, data):
    engine = Engine.load(data.engine)
    feed = LabelledFeed(engine, config.ranking)
    (file,) = data.folders("test")[0].glob("*.orc")
    table = orc.ORCFile(file).read()
    batch = feed.batch(Rows(table.combine_chunks().to_batches(), [], table.num_rows + 3, table.num_rows))
    rows = _rows(*data.folders("test"))
    assert batch.labels[""].tolist() == [row["label"] for row in rows]
    assert batch.dense_BF.tolist() == np.array([row["dense1"] for row in rows], np.float32).tolist()
    wanted = _reference(rows, _rows(*data.folders("train")))
    assert batch.sparse.keys() == [f"query.{name}" for name in wanted]
    for name, lists in wanted.items():
        jagged = batch.sparse[f"query.{name}"]
        assert jagged.lengths().tolist() == [*map(len, lists), 0, 0, 0], name
        assert jagged.values().tolist() == [id_ for ids in lists for id_ in ids], name

    # And what the first layer reads: sums, tiles with zeros behind the last id, a mean.
    torch.manual_seed(0)
    model = models.build(config.model, engine, RankingModel)
    with torch.no_grad():
        pooled = model.tables(batch.sparse, table.num_rows).pooled_BP.numpy()
    weights = {name.split(".")[-2]: weight.numpy() for name, weight in model.tables.state_dict().items()}
    start = 0
    for feature, width in zip(model.tables.pooled_features, model.tables.pooled_widths, strict=True):
        expected = np.zeros((len(rows), width), np.float32)
        for row, ids in enumerate(wanted[feature.name]):
            for place, id_ in enumerate(ids):
                vector = weights[feature.table][id_]
                at = place * len(vector) if feature.pooling == "tile" else 0
                expected[row, at : at + len(vector)] += vector
        # All pooled lists have one id, so a sum is a mean.
        np.testing.assert_array_equal(pooled[:, start : start + width], expected, err_msg=feature.name)
        start += width
    assert start == 8 + 8 + 16 + 8 + 2 * 16 * LENGTH + 16


def test_two_ranks_train_it_and_its_scores_are_the_model_s(config, data, ranks, tmp_path):
    request = train.Request(
        output=tmp_path / "train",
        config=config.train,
        ranking=config.ranking,
        model=config.model,
        loss=config.loss,
        num_ranks=2,
        seed=config.seed,
        day=config.data.day,
        data=data,
        **COMMON,
    )
    codes, log = ranks.stage("rank_train", request, 2)
    assert codes == [0, 0], log
    checkpoint = Checkpoint.load(tmp_path / "train")
    assert (checkpoint.num_ranks, checkpoint.num_steps, checkpoint.num_rows) == (2, 40, 600)
    # A pass has four whole batches of both ranks, and its other 88 rows are left out.
    curve = pq.read_table(checkpoint.path / "curve.parquet").to_pylist()
    assert [point["examples"] for point in curve] == [10 * 128, 20 * 128, 30 * 128, 40 * 128]
    assert checkpoint.loss < 0.69
    assert curve[-1]["auc"] > max(0.6, curve[0]["auc"])
    # The tables of sparse1 and sparse2 have a row for every id, and both learned by AdamW.
    assert checkpoint.touched["sparse2"] > 0
    measured = evaluate.run(
        evaluate.Request(
            output=tmp_path / "evaluate",
            config=config.evaluate,
            ranking=config.ranking,
            model=config.model,
            sharding=config.train.sharding,
            num_ranks=1,
            seed=config.seed,
            data=data,
            checkpoint=checkpoint,
            **COMMON,
        ),
        silent,
    )
    assert measured.num_rows == 300
    assert measured.metrics.auc > 0.55, "the labels follow in part from the columns"
    ranker = export.run(
        export.Request(
            output=tmp_path / "export",
            config=config.export,
            model=config.model,
            data=data,
            checkpoint=checkpoint,
            **COMMON,
        ),
        silent,
    )
    assert ranker.parity_max_abs_difference < 1e-5
    scored = predict.run(
        predict.Request(
            output=tmp_path / "predict",
            config=config.predict,
            source=str(*data.folders("test")),
            source_digest="d",
            model=ranker,
            **COMMON,
        ),
        silent,
    )
    assert scored.num_rows == 300
