"""The artifacts of one day of a shop, as the stages before `publish` would leave them."""

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys_core import artifacts, features
from recsys_core.artifacts import (
    Checkpoint,
    Difference,
    Embeddings,
    Evaluation,
    ExportedModel,
    HeldOut,
    Index,
    RetrievalMetrics,
    TrainingData,
)

NUM_USERS, NUM_ITEMS, EMBEDDING_DIM = 40, 60, 8
COMMON = {"config_hash": "c" * 32, "code_version": "tests"}
FEATURES = {
    "embedding_dim": EMBEDDING_DIM,
    "query": [
        {"kind": "id", "name": "segment", "num_embeddings": 16},
        {"kind": "raw", "name": "age"},
        {"kind": "sequence", "name": "history", "column": "history__item_id", "table": "item_id"},
    ],
    "item": [{"kind": "id", "name": "item_id", "num_embeddings": 100}],
}


class _Inputs(artifacts.Request):
    what: str
    seed: int


def make_day(
    run_directory: Path,
    day: datetime.date,
    seed: int,
    query: tuple[dict[str, Any], ...] = (),
    item: tuple[dict[str, Any], ...] = (),
) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    section = FEATURES | {"query": [*FEATURES["query"], *query], "item": [*FEATURES["item"], *item]}
    data, engine, users, items = _data(run_directory / "preprocess", day, seed, rng, section)
    model, vectors = _model(run_directory / "export", engine, users, items, seed)
    queries = users.select(["user_id", "gt_items", "seen_items"])
    return {
        "data": data,
        "checkpoint": _checkpoint(run_directory / "train", day, seed),
        "model": model,
        "embeddings": _embeddings(run_directory / "embed", model, queries, items, vectors, seed),
        "index": _index(run_directory / "index", items, vectors["item"], seed),
        "evaluation": _evaluation(run_directory / "hitrate", day, seed, rng),
        "held_out": _commit(HeldOut, run_directory / "evaluate", seed, loss=2.5, sampled_recall={"1": 0.2, "10": 0.6}),
    }


def _commit(record: Any, output: Path, seed: int, fill: Callable[[Path], None] | None = None, **fields: Any) -> Any:
    request = _Inputs(output=output, what=record.__name__, seed=seed, **COMMON)
    with artifacts.pending(output) as aside:
        (fill or (lambda directory: _write(directory / "seed.parquet", pa.table({"seed": [seed]}))))(aside.path)
        return aside.commit(record, request, **({"num_rows": NUM_USERS} | fields))


def _write(path: Path, table: pa.Table) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


def _data(
    output: Path, day: datetime.date, seed: int, rng: Any, section: dict[str, Any]
) -> tuple[TrainingData, Any, pa.Table, pa.Table]:
    def lists(high: int) -> list[list[int]]:
        return [rng.integers(0, NUM_ITEMS, rng.integers(0, high)).tolist() for _ in range(NUM_USERS)]

    users = pa.table(
        {
            "user_id": np.arange(NUM_USERS),
            "segment": pa.array([f"s{user % 5}" if user % 7 else None for user in range(NUM_USERS)]),
            "age": pa.array([int(age) if age > 20 else None for age in rng.integers(18, 70, NUM_USERS)]),
            "history__item_id": pa.array(lists(6), pa.list_(pa.int64())),
            "gt_items": pa.array([[user % NUM_ITEMS] for user in range(NUM_USERS)], pa.list_(pa.int64())),
            "seen_items": pa.array(lists(3), pa.list_(pa.int64())),
        }
    )
    histories = users["history__item_id"].to_pylist()
    users = users.append_column("history__brand", pa.array([[f"b{item % 5}" for item in one] for one in histories]))
    users = users.append_column("spent", pa.array(np.arange(NUM_USERS) / 7))
    items = pa.table({"item_id": np.arange(NUM_ITEMS) * 10 + 7})
    if len(section["item"]) > 1:
        items = items.append_column("brand", pa.array([f"b{item % 5}" for item in range(NUM_ITEMS)]))
    engine = features.Engine.build(features.Config.model_validate(section))
    engine.fit([users], [items])

    def fill(directory: Path) -> None:
        _write(directory / "examples" / "part-00000.parquet", users.drop_columns(["gt_items", "seen_items"]))
        _write(directory / "items" / "part-00000.parquet", items)
        _write(directory / "ground_truth" / "part-00000.parquet", users.slice(0, 10))
        _write(directory / "ground_truth" / "part-00001.parquet", users.slice(10))
        engine.save(directory / "features")

    data = _commit(
        TrainingData,
        output,
        seed,
        fill,
        day=day,
        first_day=day,
        ground_truth_day=day + datetime.timedelta(days=1),
        num_items=NUM_ITEMS,
        num_queries=NUM_USERS,
        num_ground_truth=NUM_USERS,
        engine_digest=engine.digest,
    )
    return data, engine, users, items


def _model(output: Path, engine: Any, users: pa.Table, items: pa.Table, seed: int) -> tuple[ExportedModel, dict]:
    import torch

    from recsys_core.exported.inputs import tower_inputs
    from recsys_core.models.two_tower import Config
    from recsys_core.models.two_tower.model import Tower
    from recsys_core.retrieval.export import ExportedTower

    torch.manual_seed(seed)
    weights = {table.name: torch.randn(table.num_embeddings, table.embedding_dim) for table in engine.tables}
    vectors: dict[str, np.ndarray] = {}

    def fill(directory: Path) -> None:
        for side, table in (("query", users), ("item", items)):
            known = engine.sparse_features(side)
            width = len(known) * EMBEDDING_DIM + engine.dense_dim(side)
            tower = torch.jit.script(
                ExportedTower(Tower(width, (16,), Config.model_validate({"output_dim": EMBEDDING_DIM})), known, weights)
            )
            (directory / side).mkdir()
            tower.save(str(directory / side / "model.pt"))
            (directory / side / "signature.json").write_text("{}")
            with torch.no_grad():
                vectors[side] = tower(tower_inputs(engine.transform(table, side))).numpy()
        engine.save(directory / "features")

    fields = {"embedding_dim": EMBEDDING_DIM, "similarity": "cosine", "parity_max_abs_difference": 0.0}
    return _commit(ExportedModel, output, seed, fill, **fields), vectors


def _checkpoint(output: Path, day: datetime.date, seed: int) -> Checkpoint:
    steps = np.arange(1, 41) * 10
    curve = pa.table(
        {
            "step": steps,
            "examples": steps * 1_024,
            "loss": 3.0 + 4.0 * np.exp(-steps / 120),
            "examples_per_second": np.full(len(steps), 21_000.0),
        }
    )
    return _commit(
        Checkpoint,
        output,
        seed,
        lambda directory: _write(directory / "curve.parquet", curve),
        day=day,
        num_steps=400,
        loss=3.1,
        examples_per_second=21_000.0,
        num_ranks=2,
        warm_started_from=None,
    )


def _embeddings(
    output: Path, model: ExportedModel, queries: pa.Table, items: pa.Table, vectors: dict, seed: int
) -> Any:
    def column(values: np.ndarray) -> pa.Array:
        return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), EMBEDDING_DIM)

    def fill(directory: Path) -> None:
        with_vectors = queries.append_column("embedding", column(vectors["query"]))
        # Other parts than the ground truth's: only the order of the rows is promised.
        _write(directory / "queries" / "part-00000.parquet", with_vectors.slice(0, 13))
        _write(directory / "queries" / "part-00001.parquet", with_vectors.slice(13))
        _write(directory / "items" / "part-00000.parquet", items.append_column("embedding", column(vectors["item"])))

    counts = {"num_items": NUM_ITEMS, "num_queries": NUM_USERS}
    fields = {"embedding_dim": EMBEDDING_DIM, "model_digest": model.digest}
    return _commit(Embeddings, output, seed, fill, **counts, **fields)


def _index(output: Path, items: pa.Table, vectors: np.ndarray, seed: int) -> Index:
    import faiss

    index = faiss.index_factory(EMBEDDING_DIM, "HNSW8,Flat", faiss.METRIC_INNER_PRODUCT)
    index.add(vectors)

    def fill(directory: Path) -> None:
        faiss.write_index(index, str(directory / "index.faiss"))
        _write(directory / "id_map.parquet", items)

    fields = {"kind": "hnsw", "factory": "HNSW8,Flat", "embedding_dim": EMBEDDING_DIM, "num_items": NUM_ITEMS}
    return _commit(Index, output, seed, fill, **fields)


def _evaluation(output: Path, day: datetime.date, seed: int, rng: Any) -> Evaluation:
    def ranking(level: float) -> RetrievalMetrics:
        rates = {str(k): min(1.0, level * k**0.5 / 10) for k in (20, 50, 200)}
        return RetrievalMetrics(hit_rate=rates, recall=rates, ndcg=rates, mrr=rates, coverage=rates)

    exact, champion = ranking(0.30), ranking(0.27)
    differences = {}
    for k, rate in exact.hit_rate.items():
        ahead = rate - champion.hit_rate[k]
        differences[f"hit_rate@{k}"] = Difference(value=ahead, low=ahead - 0.005, high=ahead + 0.005)
    return _commit(
        Evaluation,
        output,
        seed,
        day=day,
        ground_truth_day=day + datetime.timedelta(days=1),
        ground_truth_digest=f"{seed:032x}",
        num_queries=NUM_USERS,
        num_ground_truth=NUM_USERS,
        num_items=NUM_ITEMS,
        protocol="full ranking",
        exact=exact,
        approximate=ranking(0.29),
        popularity=ranking(0.11),
        item_item=ranking(0.16),
        champion=champion,
        differences=differences,
        ann_recall={"20": 0.99, "50": 0.985, "200": 0.97},
        ann_recall_by_nprobe={
            str(n): {str(k): 1 - k**0.25 / (5 * n) for k in (20, 50, 200)} for n in (1, 2, 4, 8, 16, 32, 64)
        },
        hit_rate_by_popularity={"head": 0.4, "torso": 0.2, "tail": 0.1},
    )
