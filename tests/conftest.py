"""What tests of several levels start from."""

import contextlib
import datetime
import os
import re
import runpy
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import HealthCheck, settings

from recsys_core import artifacts, features, launch, tracking
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

# A busy machine is slow: no test fails for the time that an example takes.
settings.register_profile("dayline", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("dayline")

# Prefect reads its environment when it is imported. What tests run leaves no trace in the user's own records.
_PREFECT_HOME = tempfile.TemporaryDirectory(prefix="dayline-tests-")
os.environ |= {
    "DAYLINE_KEEP_SECONDS": "0",
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MPLBACKEND": "Agg",
    "PREFECT_HOME": _PREFECT_HOME.name,
    "XDG_CACHE_HOME": f"{_PREFECT_HOME.name}/cache",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}
_DATA = Path(os.environ.get("RECSYS_DATA", Path(__file__).parents[2] / "shared" / "data"))

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


@pytest.fixture
def object_store() -> MemoryFileSystem:
    """fsspec's store in memory (`memory://`), empty: one process has only one, and every test of a worker sees it."""
    store = MemoryFileSystem()
    store.store.clear()
    store.pseudo_dirs[:] = [""]
    return store


@pytest.fixture(scope="session")
def recsys_data() -> Callable[[str], Path]:
    """Locate a folder of the research data by its name (`ml-100k`), or skip the test."""

    def locate(name: str) -> Path:
        if not (_DATA / name).is_dir():
            pytest.skip(f"no {_DATA / name}: RECSYS_DATA names the folder of the research data")
        return _DATA / name

    return locate


@pytest.fixture(scope="session")
def own_package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The user's package `shop` that docs/components.md shows, in its parent folder, which is on Python's path."""
    page = (Path(__file__).parents[1] / "docs" / "components.md").read_text(encoding="utf-8")
    root = tmp_path_factory.mktemp("own")
    (root / "shop").mkdir()
    for name, source in re.findall(r"`(shop/\w+\.py)`:\n\n```python\n(.*?)```", page, re.DOTALL):
        (root / name).write_text(source, encoding="utf-8")
    assert sorted(path.name for path in (root / "shop").iterdir()) == [
        "brier.py",
        "crossed.py",
        "focal.py",
        "length.py",
    ]
    sys.path.insert(0, str(root))
    yield root
    sys.path.remove(str(root))


@pytest.fixture(scope="session")
def make_store(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """Put MLflow's empty store into a run_root, as a first run does; making each anew would take seconds."""
    made = tmp_path_factory.mktemp("store")
    tracking.check(tracking.Config(), made)

    def make(run_root: Path) -> Path:
        run_root.mkdir(parents=True, exist_ok=True)
        shutil.copy(made / "mlflow.db", run_root)
        return run_root

    return make


@pytest.fixture(scope="session")
def forking() -> Iterator[Any]:
    """What starts processes that have MLflow imported; see `forking.py`."""
    with runpy.run_path(str(Path(__file__).with_name("forking.py")))["Server"]() as server:
        yield server


@pytest.fixture(scope="module")
def kept_checks() -> Iterator[None]:
    """Let publishing check its bundles where a run does: in processes that have imported what that takes."""
    with launch.keeping():
        yield


@pytest.fixture
def dying_at(monkeypatch) -> Callable[[int], contextlib.AbstractContextManager[None]]:
    """Return what makes a `with` in which training dies before the step of that number."""
    from recsys_core.training.trainer import Trainer

    real = Trainer.step

    @contextlib.contextmanager
    def dying(last: int) -> Iterator[None]:
        def step(self, batch, number):
            if number == last:
                raise KeyboardInterrupt
            return real(self, batch, number)

        with monkeypatch.context() as patched:
            patched.setattr(Trainer, "step", step)
            with pytest.raises(KeyboardInterrupt):
                yield

    return dying


@pytest.fixture(scope="session")
def made_day() -> Callable[..., dict[str, Any]]:
    """Make the artifacts of one day, as the stages before `publish` would: towers of random weights, a real index.

    Call it with the run's directory, a day, a seed, and features besides those that are always there (of the query,
    and of items that have a `brand` then); the artifacts' names are those of publish.Request's fields.
    """
    return _made_day


def _made_day(
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
