"""The same raw rows through training's loader, through batch prediction and through the service: the same bits.

The query tower of these bundles is an echo: its vector is its inputs, written out. The index holds the unit vectors, so
that the scores which the service answers over HTTP are the numbers that the tower was given.
"""

import datetime
import json
import re
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faiss
import mlflow.pyfunc
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import uvicorn
from echoing import (
    COMMON,
    DAY,
    ITEM,
    MOST,
    NUM_ROWS,
    OUT_OF_RANGE,
    QUERY,
    Echo,
    EchoOne,
    Made,
    commit,
    items,
    names_of,
    num_columns,
    users,
    write,
)
from mlflow.models import Model
from mlflow.pyfunc import scoring_server
from torch import Tensor

from recsys_core.artifacts import ExportedModel, ExportedRanker, Index, TrainingData
from recsys_core.exported.inputs import ranker_inputs, tower_inputs
from recsys_core.features import Config, Engine
from recsys_core.loading.batch import LabelledBatch
from recsys_core.loading.epoch_order import EpochOrder
from recsys_core.loading.rank_batches import RankBatches
from recsys_core.ranking import predict as ranking_predict
from recsys_core.ranking.feed import LabelledFeed
from recsys_core.readers import parquet
from recsys_core.retrieval import embed, publish
from recsys_core.retrieval.feed import Feed, ItemTable
from recsys_core.samplers import weighted
from recsys_core.serving import Recommender


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    root = tmp_path_factory.mktemp("three")
    engine = Engine.build(Config.model_validate({"embedding_dim": 4, "query": QUERY, "item": ITEM}))
    engine.fit(users().to_batches(max_chunksize=5), [items()])
    truths = {name: pa.array([[100]] * NUM_ROWS) for name in ("gt_items", "seen_items")}

    def data(directory: Path) -> None:
        of_items = items().take(pa.array(np.arange(NUM_ROWS) % 10))
        examples = users()
        for name in ("item_id", "item_price"):
            examples = examples.append_column(name, of_items[name])
        write(directory / "examples" / "part.parquet", examples)
        write(directory / "items" / "part.parquet", items())
        truth = users()
        for name, column in truths.items():
            truth = truth.append_column(name, column)
        write(directory / "ground_truth" / "part.parquet", truth, rows=6)
        engine.save(directory / "features")

    width = engine.dense_dim("query") + MOST * num_columns(engine, "query")

    def model(directory: Path) -> None:
        for side in ("query", "item"):
            (directory / side).mkdir()
            names = names_of(engine, side)
            torch.jit.script(Echo(names, width)).save(str(directory / side / "model.pt"))
            (directory / side / "signature.json").write_text("{}")
        Engine.load(root / "data" / "features").save(directory / "features")

    def index(directory: Path) -> None:
        units = faiss.IndexFlatIP(width)
        units.add(np.eye(width, dtype=np.float32))
        faiss.write_index(units, str(directory / "index.faiss"))
        write(directory / "id_map.parquet", pa.table({"item_id": np.arange(width)}))

    counts = {"num_items": 10, "num_queries": NUM_ROWS, "num_ground_truth": NUM_ROWS}
    days = {"day": DAY, "first_day": DAY, "ground_truth_day": DAY + datetime.timedelta(days=1)}
    kept = commit(TrainingData, root / "data", data, engine_digest=engine.digest, **counts, **days)
    exported = {"embedding_dim": width, "similarity": "dot", "parity_max_abs_difference": 0.0}
    found = {"kind": "flat", "factory": "Flat", "embedding_dim": width, "num_items": width}
    tower = commit(ExportedModel, root / "model", model, **exported)
    return Made(kept, tower, commit(Index, root / "index", index, **found), root)


def _numbers(engine: Engine, batch: LabelledBatch) -> dict[str, Tensor]:
    sequences = engine.number_sequences("query")
    assert [values.shape[1] for values, _ in batch.numbers] == [feature.dim for feature in sequences] == [1, 2]
    inputs: dict[str, Tensor] = {}
    for feature, (values, lengths) in zip(sequences, batch.numbers, strict=True):
        inputs |= {f"{feature.name}.values": values, f"{feature.name}.lengths": lengths.long()}
    return inputs


@pytest.fixture(scope="module")
def trained_on(made: Made) -> np.ndarray:
    """float32 [rows, width]: what training's loader makes of the examples, in batches of 7, written out.

    Sequences of numbers come from the loader of ranking, whose models take them.
    """
    engine = Engine.load(made.data.engine)
    feed = Feed(engine, ItemTable(made.data.items, engine), weighted.Config(num_negatives=3), seed=0, rank=0)
    labelled = LabelledFeed(engine, None)
    reader = parquet.Reader(parquet.Config(path=str(made.data.examples)))
    order = EpochOrder(reader.block_rows, seed=0, epoch=0, shuffle_rows=0)
    shard = RankBatches(reader, order, feed.columns, batch_size=7, rank=0, num_ranks=1)
    names = [feature.name for feature in engine.sparse_features("query")]
    parts = []
    ranked = RankBatches(reader, order, labelled.columns, batch_size=7, rank=0, num_ranks=1)
    both = zip(feed.batches(shard, epoch=0, step=0), labelled.batches(ranked, epoch=0, step=0), strict=True)
    for (batch, _), (beside, _) in both:
        num_rows = len(batch.query_dense_BF)
        inputs = {"dense": batch.query_dense_BF}
        for name in names:
            jagged = batch.sparse[f"query.{name}"]
            assert not jagged.lengths()[num_rows:].any()
            inputs |= {f"{name}.values": jagged.values(), f"{name}.lengths": jagged.lengths()[:num_rows].long()}
        inputs |= _numbers(engine, beside)
        parts.append(Echo(names_of(engine, "query"), made.model.embedding_dim)(inputs).numpy())
    return np.concatenate(parts)


@pytest.fixture(scope="module")
def service(made: Made) -> Iterator[str]:
    """Address of the released bundle as MLflow serves it."""
    bundle_folder = made.root / "bundle"
    asked = pq.read_table(made.data.ground_truth).drop_columns(["gt_items", "seen_items"])
    queries = asked.append_column("embedding", _embedded(made)["embedding"])
    bundle = publish.Bundle(made.model, made.index, queries, mask_seen=True)
    bundle.fill(bundle_folder)
    saved = made.root / "mlflow"
    bundle.save(bundle_folder.iterdir(), saved, Model())
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        app = scoring_server.init(mlflow.pyfunc.load_model(str(saved)))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join()


def _embedded(made: Made) -> pa.Table:
    output = made.root / "embeddings"
    if not output.exists():
        config = embed.Config(batch_size=5)
        request = embed.Request(output=output, config=config, data=made.data, model=made.model, **COMMON)
        figures: list[dict[str, float]] = []
        embed.run(request, lambda event: figures.append(event.metrics))
        assert figures[-1] == OUT_OF_RANGE
    return pa.concat_tables(pq.read_table(path) for path in sorted((output / "queries").glob("*.parquet")))


def _rows(table: pa.Table) -> list[dict[str, Any]]:
    """Rows as a client writes them in JSON: the shortest digits of a float32, ISO times, objects for maps."""
    return [{name: _json(value) for name, value in row.items()} for row in table.to_pylist(maps_as_pydicts="strict")]


def _json(value: Any) -> Any:
    if isinstance(value, float) and value == float(np.float32(value)):
        return float(str(np.float32(value)))
    if isinstance(value, list):
        return [_json(one) for one in value]
    return value.isoformat() if isinstance(value, datetime.date) else value


def _answers(uri: str, rows: list[dict[str, Any]], k: int) -> list[dict[str, Any]]:
    body = json.dumps({"dataframe_records": rows, "params": {"k": k, "mask_seen": False}}).encode()
    request = urllib.request.Request(f"{uri}/invocations", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=600) as response:
        return json.load(response)["predictions"]


def _ask(uri: str, rows: list[dict[str, Any]], k: int) -> np.ndarray:
    """float32 [rows, k]: the scores by item, which are the numbers of the tower's input."""
    answers = _answers(uri, rows, k)
    found = np.zeros((len(rows), k), np.float32)
    for row, answer in enumerate(answers):
        found[row, answer["item_ids"]] = answer["scores"]
    return found


def test_batch_prediction_is_given_what_training_is(made: Made, trained_on: np.ndarray) -> None:
    embedded = np.stack(_embedded(made)["embedding"].to_numpy(zero_copy_only=False))
    assert embedded.shape == (NUM_ROWS, made.model.embedding_dim)
    assert embedded.tobytes() == trained_on.tobytes()
    # Something is there to be compared: no column is the same in all rows, but for the one that is never filled.
    engine = Engine.load(made.model.engine)
    assert engine.dense_dim("query") == 8
    for name, encoded in engine.transform(users(), "query").sparse.items():
        assert (encoded.lengths.sum() == 0) == (name == "never")


def test_the_service_is_given_what_training_is(made: Made, trained_on: np.ndarray, service: str) -> None:
    rows = _rows(users())
    width = made.model.embedding_dim
    # Together pandas makes floats of integers beside a null; alone a row has nothing beside it.
    whole = _ask(service, rows, width)
    one_by_one = np.concatenate([_ask(service, [row], width) for row in rows])
    for answered in (whole, one_by_one):
        np.testing.assert_array_equal(answered, trained_on)
    loaded = Recommender.load(made.root / "bundle")
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    assert loaded.embed(loaded.table(columns)).tobytes() == trained_on.tobytes()


def test_the_service_reports_what_it_left_out_of_each_row(service: str, made: Made) -> None:
    left_out = [answer["out_of_range"] for answer in _answers(service, _rows(users()), 1)]
    assert left_out == [{"cell": int(row > 19), "cells": row % 2 + (row == 21)} for row in range(NUM_ROWS)]
    assert {f"out_of_range/{name}": sum(one[name] for one in left_out) for name in left_out[0]} == OUT_OF_RANGE
    outputs = Model.load(str(made.root / "mlflow")).get_output_schema().input_names()
    assert outputs == ["item_ids", "scores", "out_of_range"]


@pytest.mark.parametrize("refused", [4, 17])
def test_a_row_with_an_id_out_of_range_is_named(made: Made, refused: int) -> None:
    query: list[dict[str, Any]] = [
        {"kind": "id", "name": "cell", "encoding": "hash", "num_embeddings": 20, "input": "encoded"}
    ]
    engine = Engine.build(Config.model_validate({"embedding_dim": 4, "query": query, "item": []}))
    cells = [99 if row == refused else row % 20 for row in range(NUM_ROWS)]
    source = made.root / f"refused-{refused}" / "part.parquet"
    write(source, pa.table({"cell": cells}), rows=9)
    reason = "feature 'cell', column 'cell': id 99 is not in 0..19; raise num_embeddings"
    message = f"row {refused} of those read: {reason}"
    reader = parquet.Reader(parquet.Config(path=str(source)))
    feed = LabelledFeed(engine, None)
    for shuffle_rows in (0, 1_000):
        order = EpochOrder(reader.block_rows, seed=3, epoch=0, shuffle_rows=shuffle_rows)
        shard = RankBatches(reader, order, feed.columns, batch_size=5, rank=0, num_ranks=1)
        with pytest.raises(ValueError, match=re.escape(message)):
            list(feed.batches(shard, epoch=0, step=0))

    def model(directory: Path) -> None:
        torch.jit.script(EchoOne(Echo(["cell"], MOST), 0)).save(str(directory / "model.pt"))
        engine.save(directory / "features")

    ranker = commit(ExportedRanker, made.root / f"refusing-{refused}", model, parity_max_abs_difference=0.0)
    request = ranking_predict.Request(
        output=made.root / f"unscored-{refused}",
        config=ranking_predict.Config(batch_size=5),
        source=str(source),
        source_digest="0",
        model=ranker,
        **COMMON,
    )
    with pytest.raises(ValueError, match=re.escape(f"{source}: row {refused}: {reason}")):
        ranking_predict.run(request, lambda _: None)


def test_the_service_refuses_integers_that_have_lost_digits(service: str) -> None:
    rows = _rows(users().slice(0, 2))
    rows[1]["user_id"] = None
    with pytest.raises(urllib.error.HTTPError) as caught:
        _ask(service, rows, 3)
    assert caught.value.code == 400
    assert "column 'user_id' takes int64: an integer beyond 2**53" in json.loads(caught.value.read())["message"]


def test_batch_scoring_is_given_what_training_a_ranker_is(made: Made) -> None:
    source = made.root / "labelled" / "part.parquet"
    write(source, pq.read_table(made.data.examples), rows=9)
    engine = Engine.load(made.data.engine)
    reader = parquet.Reader(parquet.Config(path=str(source)))
    feed = LabelledFeed(engine, None)
    order = EpochOrder(reader.block_rows, seed=0, epoch=0, shuffle_rows=0)
    batches = feed.batches(
        RankBatches(reader, order, feed.columns, batch_size=NUM_ROWS, rank=0, num_ranks=1), epoch=0, step=0
    )
    batch = next(iter(batches))[0]
    inputs, names = {"dense": batch.dense_BF} | _numbers(engine, batch), ["waits", "spots"]
    for key in batch.sparse.keys():  # noqa: SIM118 - a KeyedJaggedTensor is no dict
        name = key.partition(".")[2]
        names.append(name)
        jagged = batch.sparse[key]
        inputs |= {f"{name}.values": jagged.values(), f"{name}.lengths": jagged.lengths().long()}
    echo = Echo(names, batch.dense_BF.shape[1] + MOST * (num_columns(engine, "query") + num_columns(engine, "item")))
    expected = echo(inputs).numpy()
    for column in range(0, expected.shape[1], 27):

        def model(directory: Path, column: int = column) -> None:
            torch.jit.script(EchoOne(echo, column)).save(str(directory / "model.pt"))
            engine.save(directory / "features")

        ranker = commit(ExportedRanker, made.root / f"ranker-{column}", model, parity_max_abs_difference=0.0)
        request = ranking_predict.Request(
            output=made.root / f"scores-{column}",
            config=ranking_predict.Config(batch_size=5, reserved_columns=("user_id",)),
            source=str(source),
            source_digest="0",
            model=ranker,
            **COMMON,
        )
        figures: list[dict[str, float]] = []
        made_scores = ranking_predict.run(request, lambda event, figures=figures: figures.append(event.metrics))
        assert figures[-1] == OUT_OF_RANGE
        parts = sorted((made_scores.path / "rows").glob("*.parquet"))
        scores = pa.concat_tables(pq.read_table(path) for path in parts)["score"].to_numpy()
        assert scores.tobytes() == np.ascontiguousarray(expected[:, column]).tobytes()


def test_ids_are_written_out_exactly(made: Made) -> None:
    encoded = Engine.load(made.data.engine).transform(users(), "query")
    tensors = tower_inputs(encoded)
    assert tensors.keys() == ranker_inputs(encoded, encoded).keys()
    assert all(int(jagged.values.max(initial=0)) < 1 << 24 for jagged in encoded.sparse.values())
    assert max(int(jagged.lengths.max(initial=0)) for jagged in encoded.sparse.values()) <= MOST
