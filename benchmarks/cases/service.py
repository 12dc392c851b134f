"""The release that `../serving.py` makes up, requests at a fixed rate, and what is measured of both.

FAISS and torch share the process, as they do in the service.
"""

import argparse
import asyncio
import contextlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from recsys_core import features, integrity, registry, serving
from recsys_core.artifacts.release import ITEMS, QUERIES, SETTINGS
from recsys_core.exported.inputs import tower_inputs
from recsys_core.models.two_tower import Config
from recsys_core.models.two_tower.model import Tower
from recsys_core.retrieval.export import ExportedTower

DIM, K, NUM_USERS, BATCH, CONNECTIONS = 64, 20, 2_048, 4_096, 32
_MOST_SECONDS, _STEP = 0.05, 1.25
_ANSWER_SECONDS = 60  # what takes longer has failed
FEATURES = {
    "embedding_dim": 32,
    "query": [
        {"kind": "sequence", "name": "clicked", "column": "history__item_id", "table": "item_id"},
        {"kind": "sequence", "name": "clicked_category", "column": "history__category", "table": "category"},
        {"kind": "sequence", "name": "clicked_brand", "column": "history__brand", "table": "brand"},
        {"kind": "id", "name": "city", "num_embeddings": 64},
        {"kind": "id", "name": "gender", "num_embeddings": 8},
        {"kind": "id", "name": "interests", "num_embeddings": 64},
        {"kind": "raw", "name": "age", "boundaries": [18, 25, 35, 45, 55, 65]},
    ],
    "item": [
        {"kind": "id", "name": "item_id", "num_embeddings": 200_000},
        {"kind": "id", "name": "category", "num_embeddings": 64},
        {"kind": "id", "name": "brand", "num_embeddings": 1_000},
    ],
}


def release(folder: Path, num_items: int, seed: int) -> None:
    """Write a bundle."""
    rng = np.random.default_rng(seed)
    number = np.arange(num_items)
    categories, brands = np.char.mod("c%d", number % 40), np.char.mod("b%d", number % 800)
    items = pa.table({"item_id": number, "category": categories.tolist(), "brand": brands.tolist()})
    lengths = rng.integers(0, 30, NUM_USERS)
    seen = pa.ListArray.from_arrays(
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32), pa.array(rng.integers(0, num_items, lengths.sum()))
    )
    users = pa.table(
        {
            "history__item_id": seen,
            "history__category": pa.ListArray.from_arrays(
                seen.offsets, items["category"].take(seen.values).combine_chunks()
            ),
            "history__brand": pa.ListArray.from_arrays(seen.offsets, items["brand"].take(seen.values).combine_chunks()),
            "city": np.char.mod("city%d", rng.integers(0, 50, NUM_USERS)).tolist(),
            "gender": ["F", "M"] * (NUM_USERS // 2),
            "interests": [[f"c{n % 40}", f"c{n % 9}"] for n in range(NUM_USERS)],
            "age": rng.integers(18, 80, NUM_USERS),
        }
    )
    engine = features.Engine.build(features.Config.model_validate(FEATURES))
    engine.fit([users], [items])
    torch.manual_seed(seed)
    weights = {table.name: torch.randn(table.num_embeddings, table.embedding_dim) for table in engine.tables}
    known = engine.sparse_features("query")
    width = sum(weights[one.table].shape[1] for one in known) + engine.dense_dim("query")
    config = Config.model_validate({"output_dim": DIM, "similarity": "cosine"})
    tower = torch.jit.script(ExportedTower(Tower(width, (128,), config), known, weights)).eval()
    vectors = rng.normal(size=(num_items, DIM)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    nlist = min(4 * int(num_items**0.5), max(1, num_items // 39))
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(DIM), DIM, nlist, faiss.METRIC_INNER_PRODUCT)
    index.cp.niter, index.cp.max_points_per_centroid, index.nprobe = 4, 40, min(nlist, 32)
    index.train(vectors)
    index.add(vectors)
    for part in ("query", "index"):
        (folder / part).mkdir(parents=True)
    tower.save(str(folder / "query" / "model.pt"))
    engine.save(folder / "features")
    faiss.write_index(index, str(folder / "index" / "index.faiss"))
    pq.write_table(items.select(["item_id"]), folder / "index" / "id_map.parquet")
    pq.write_table(items, folder / ITEMS)
    (folder / SETTINGS).write_text(integrity.sealed({"product": "retrieval", "mask_seen": True}))
    with torch.inference_mode():
        measured = tower(tower_inputs(engine.transform(users, "query"))).numpy()
    column = pa.FixedSizeListArray.from_arrays(pa.array(measured.ravel()), DIM)
    pq.write_table(users.append_column("embedding", column), folder / QUERIES)
    integrity.seal(folder, {})


def users_of(folder: Path) -> pa.Table:
    """Return the users of a bundle, raw."""
    return pq.read_table(folder / QUERIES).drop_columns("embedding")


def embed(folder: Path, _: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure vectors in bulk; both ways in turns, by the CPU time of all threads: features are encoded in some."""
    loaded = serving.load(folder)
    assert isinstance(loaded, serving.Recommender)
    torch.set_num_threads(1)
    users = users_of(folder)
    table = pa.concat_tables([users] * (BATCH // NUM_USERS)).combine_chunks()
    inputs = tower_inputs(loaded.engine.transform(table, "query"))
    tower = torch.jit.load(str(folder / "query" / "model.pt")).eval()
    best = [float("inf")] * 2
    with torch.inference_mode():
        for _ in range(10):
            for place, way in enumerate((lambda: loaded.embed(table), lambda: tower(inputs))):
                started = time.process_time()
                way()
                best[place] = min(best[place], time.process_time() - started)
    return [row("embed", "raw rows to vectors", BATCH / best[0], "1/s of one core", BATCH / best[1])]


def bare(folder: Path, num: int) -> np.ndarray:
    """Return the seconds of a loop of tower and search, one row at a time, on tensors that lie in memory."""
    loaded = serving.load(folder)
    assert isinstance(loaded, serving.Recommender)
    users = users_of(folder)
    inputs = [tower_inputs(loaded.engine.transform(users.slice(n, 1), "query")) for n in range(min(num, NUM_USERS))]
    tower = torch.jit.load(str(folder / "query" / "model.pt")).eval()
    index = faiss.read_index(str(folder / "index" / "index.faiss"))
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    seconds = []
    with torch.inference_mode():
        for one in inputs:
            started = time.perf_counter()
            index.search(tower(one).numpy(), K)
            seconds.append(time.perf_counter() - started)
    return np.array(seconds[len(seconds) // 10 :])


class Served(NamedTuple):
    """A service that runs: its port, and its process."""

    port: int
    process: psutil.Process

    def cpu_seconds(self) -> float:
        """Return the CPU time that it has taken so far."""
        times = self.process.cpu_times()
        return times.user + times.system


@contextlib.contextmanager
def served(*arguments: str) -> Iterator[Served]:
    """Run `dayline serve` until the block ends; yield it once it answers."""
    command = [sys.executable, "-c", "from flows import cli; cli.main()", "serve", "--port", "0", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            port = 0
            for line in process.stderr:
                if found := re.search(r"listening on http://127.0.0.1:(\d+)", line):
                    port = int(found[1])
                elif line.startswith("serving"):
                    break
                else:
                    raise SystemExit(line.strip())
            yield Served(port, psutil.Process(process.pid))
        finally:
            process.terminate()


class Load:
    """Requests at a fixed rate over kept connections; `seconds` count from when each was due."""

    def __init__(self, port: int, users: list[dict[str, Any]], k: int = K) -> None:
        """Each user is asked for in turn."""
        self._port = port
        self._requests = [_request("/recommend", {"user": user, "k": k}) for user in users]
        self.seconds: list[float] = []
        self.answers: list[tuple[int, int, bytes]] = []  # user, status, body

    async def run(self, rate: float, seconds: float, *, keep: bool = False) -> None:
        """Ask."""
        start, total = time.perf_counter() + 0.1, int(rate * seconds)
        ways = (self._connection(first, total, start, rate, keep=keep) for first in range(min(CONNECTIONS, total)))
        await asyncio.gather(*ways)

    async def _connection(self, first: int, total: int, start: float, rate: float, *, keep: bool) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        for number in range(first, total, CONNECTIONS):
            due = start + number / rate
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            user = number % len(self._requests)
            try:
                writer.write(self._requests[user])
                async with asyncio.timeout(_ANSWER_SECONDS):
                    status, body = await _response(reader)
            except (OSError, asyncio.IncompleteReadError):  # a timeout is an OSError
                # It counts as failed, and the others go on.
                status, body = 0, b""
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            self.seconds.append(time.perf_counter() - due)
            if keep or status != 200:
                self.answers.append((user, status, body))
        writer.close()


def _request(path: str, body: Any) -> bytes:
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    return head.encode() + data


async def _response(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head)
    assert length is not None
    return int(head[9:12]), await reader.readexactly(int(length[1]))


def serve(folder: Path, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure the service at the asked rate, and the highest rate at which 99 of 100 are answered within 50 ms."""
    users = users_of(folder).to_pylist()
    alone = bare(folder, 1_000)
    alone_ms = np.quantile(alone, (0.5, 0.99)) * 1e3
    rows: list[dict[str, Any]] = []
    with served("--release", str(folder)) as service:
        warm = Load(service.port, users)
        asyncio.run(warm.run(arguments.rate, min(2, arguments.seconds)))
        rate, highest = arguments.rate, 0.0
        while True:
            load, before = Load(service.port, users), service.cpu_seconds()
            asyncio.run(load.run(rate, arguments.seconds))
            spent = (service.cpu_seconds() - before) / len(load.seconds)
            p50, p99 = np.quantile(load.seconds, (0.5, 0.99)) * 1e3
            if rate == arguments.rate:
                case = f"serve, {rate:g} requests/s"
                rows += [row(case, "p50", p50, "ms", alone_ms[0]), row(case, "p99", p99, "ms", alone_ms[1])]
                rows.append(row(case, "CPU time of a request", spent * 1e3, "ms", alone.mean() * 1e3))
            if load.answers or p99 > _MOST_SECONDS * 1e3:
                break
            highest, rate = rate, rate * _STEP
    figure = f"highest rate with p99 < {_MOST_SECONDS * 1e3:g} ms"
    return [*rows, row("serve", figure, highest, "1/s", 1 / alone.mean())]


def swap(folder: Path, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Count the failed and the mixed answers while an alias moves between two versions."""
    from mlflow import MlflowClient

    other = _other(folder, arguments)
    users = users_of(folder).slice(0, 64).to_pylist()
    torch.set_num_threads(1)
    expected = {}
    with tempfile.TemporaryDirectory() as root:
        uri = f"sqlite:///{root}/mlflow.db"
        client = MlflowClient(uri, uri)
        client.create_registered_model("shop")
        for number, bundle in enumerate((folder, other), start=1):
            shutil.copytree(bundle, Path(root) / str(number) / "artifacts")
            said = {"product": "retrieval", "day": "2024-01-01", "run_id": str(number), "metrics": "{}", "model": ""}
            said |= {"replaced": str(number - 1)} if number > 1 else {}
            said |= {"bundle_digest": f"{number}" * 32, "ground_truth_digest": "", "checkpoint": "", "checked": "true"}
            tags = {f"dayline.{name}": value for name, value in said.items()}
            run_id = client.create_run("0").info.run_id
            client.create_model_version("shop", f"file://{root}/{number}", run_id=run_id, tags=tags)
            loaded = serving.load(bundle)
            columns = {name: [user[name] for user in users] for name in users[0]}
            expected[f"shop/{number}"] = loaded.answer(columns, {"k": K}).to_pylist()
        client.set_registered_model_alias("shop", "champion", "1")
        options = ("--tracking-uri", uri, "--cache", f"{root}/cache", "--poll-seconds", "0.5")
        with served("--release", "shop@champion", *options) as service:
            load = Load(service.port, users)
            done, back = asyncio.run(_while_swapping(load, client, arguments))
    failed = sum(status != 200 for _, status, _ in load.answers)
    mixed, seen = 0, [""]
    for user, status, body in load.answers:
        if status == 200:
            answer = json.loads(body)
            wanted = expected[answer["version"]][user]
            same = np.float32(answer["scores"]).tobytes() == np.float32(wanted["scores"]).tobytes()
            mixed += answer["item_ids"] != wanted["item_ids"] or not same
            seen += [answer["version"]] if answer["version"] != seen[-1] else []
    case = f"{done} swaps, {back} rollbacks, {len(load.answers):,} answers"
    p99 = float(np.quantile(load.seconds, 0.99)) * 1e3
    return [
        row(case, "failed", failed, "answers", None),
        row(case, "mixed", mixed, "answers", None),
        row(case, "changes seen", len(seen) - 2, "changes", None),
        row(case, "p99", p99, "ms", None),
    ]


def replay(folder: Path, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Log requests as a service answers them, and ask the same release and another for all of them again."""
    users, rows = users_of(folder).to_pylist(), list[dict[str, Any]]()
    with tempfile.TemporaryDirectory() as aside:
        log = f"{aside}/log"
        with served("--release", str(folder), "--log", log, "--log-share", "1") as service:
            load = Load(service.port, users)
            asyncio.run(load.run(arguments.rate, arguments.replayed / arguments.rate))
        if load.answers:
            raise SystemExit(f"replay: {len(load.answers):,} requests were not answered; ask at a lower --rate")
        for called, bundle in (("the same release", folder), ("another release", _other(folder, arguments))):
            print(f"replay: {len(load.seconds):,} requests asked of {called}", file=sys.stderr)
            command = [sys.executable, "-c", "from flows import cli; cli.main()", "replay", log]
            ended = subprocess.run([*command, "--release", str(bundle), "--json"], stdout=subprocess.PIPE, check=True)
            total = json.loads(ended.stdout)["total"]
            case = f"replay of {total['num_requests']:,}, {called}"
            rows += [
                row(case, "identical answers", total["identical"], "answers", total["num_requests"]),
                row(case, "items that come again", total["overlap"], "of those logged", None),
                row(case, "first item stays first", total["first"], "of the answers", None),
                row(case, "largest difference of a score", total["max_difference"] or 0.0, "", None),
                row(case, "an answer", total["replayed_seconds"] * 1e3, "ms", total["logged_seconds"]["p50"] * 1e3),
            ]
    return rows


def _other(folder: Path, arguments: argparse.Namespace) -> Path:
    other = folder.with_name(f"{folder.name}-other")
    if not other.is_dir():
        release(other, arguments.items, 1)
    return other


async def _while_swapping(load: Load, client: Any, arguments: argparse.Namespace) -> tuple[int, int]:
    """Move the alias to and fro while requests are answered; return how often, and how often by a rollback."""
    asking = asyncio.create_task(load.run(arguments.rate, arguments.seconds, keep=True))
    moves = arguments.swaps + arguments.rollbacks
    to_first = range(1, moves, 2)
    rolled_back = {*to_first[len(to_first) - arguments.rollbacks :]}
    done = back = 0
    for number in range(moves):
        await asyncio.sleep(arguments.seconds / (moves + 1))
        if asking.done():
            break
        if number in rolled_back:
            await asyncio.to_thread(registry.rollback, client.tracking_uri, "shop")
            back += 1
        else:
            await asyncio.to_thread(client.set_registered_model_alias, "shop", "champion", str(2 - number % 2))
            done += 1
        print(f"swap: {done} swaps and {back} rollbacks of {moves}, {len(load.answers):,} answers", file=sys.stderr)
    await asking
    return done, back


def row(case: str, figure: str, value: float, unit: str, reference: float | None) -> dict[str, Any]:
    """Return a row of the table."""
    ratio = None if reference is None else value / reference
    return {"case": case, "figure": figure, "value": value, "unit": unit, "reference": reference, "ratio": ratio}
