"""What absorbing the measured day is worth on the day after: releases with `publish.absorb` and without, day by day.

    python benchmarks/freshness.py [WORK] [--shop-days N] [--movielens-days N] [--scale F] [--json FILE]

When day D has ended, the newest release has learned up to D-1 and has the items known by then: it was measured on D.
With `publish.absorb` it has learned from D as well, and has the items of D. Both answer the users of D+1, as they are
when it begins, from their own items; measured is hit rate@50 over all that these users then took, by exact search, seen
items masked. Items that a release does not have count as not found. In between stands the older model with the items of
D, which tells the worth of new items from that of new weights.

The generated shop has new items every day. MovieLens 100K has hardly any, and most users of a day are new on it; it is
read from `ml-100k` below RECSYS_DATA or ../shared/data, and left out where that is missing. WORK keeps what was made.
"""

import argparse
import datetime
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from recsys_core import config as configs
from recsys_core import ingest
from recsys_core.artifacts import Checkpoint, Dataset, ExportedModel, TrainingData
from recsys_core.config import RunConfig
from recsys_core.datasets import daily, synthetic
from recsys_core.progress import silent
from recsys_core.retrieval import embed, export, preprocess, train
from recsys_core.retrieval.vectors import Items, read_items, read_queries

K = 50
_SHOP = {
    "num_users": 4_000,
    "num_items": 2_000,
    "new_items_per_day": 60,
    "interactions_per_day": 15_000,
}
_COMMON = {"config_hash": "benchmark", "code_version": "benchmark"}
_DATA = Path(os.environ.get("RECSYS_DATA", "../shared/data"))
_A_DAY = datetime.timedelta(days=1)


class Day(NamedTuple):
    """What each release finds on one day, as shares, and how many items were to be found."""

    day: datetime.date
    num_truth: int
    without: float
    old_model_new_items: float
    absorbed: float


class State(NamedTuple):
    """A trained state: what it was trained on, and its towers."""

    data: TrainingData
    checkpoint: Checkpoint
    model: ExportedModel


class Bench(NamedTuple):
    """One log with its config, and where things are written."""

    work: Path
    config: RunConfig
    dataset: Dataset

    def data(self, day: datetime.date, base: State | None, measured: TrainingData | None = None) -> TrainingData:
        """Preprocess `day`; with `measured`, as the day that is absorbed."""
        given: dict[str, Any] = {}
        if base is not None:
            engine, digest = base.data.engine, base.data.engine_digest
            given = {"base_learned": base.checkpoint.learned, "base_engine": engine, "base_engine_digest": digest}
        name = "absorbed" if measured else "measured"
        asked = preprocess.Request(
            output=self.work / str(day) / name, config=self.config.preprocess, features=self.config.features,
            dataset=self.dataset, day=day, measured=measured, **given, **_COMMON,
        )  # fmt: skip
        return preprocess.run(asked, silent)

    def trained(self, data: TrainingData, base: State | None) -> State:
        """Train on `data` and export."""
        config, folder = self.config, self.work / str(data.day)
        made = train.run(
            train.Request(
                output=folder / "train", config=config.train, model=config.model, sampler=config.sampler,
                loss=config.loss, num_ranks=1, seed=config.seed, data=data,
                base=base.checkpoint if base else None, base_engine=base.data.engine if base else None, **_COMMON,
            ),
            silent,
        )  # fmt: skip
        asked = export.Request(
            output=folder / "export", config=config.export, model=config.model, data=data, checkpoint=made, **_COMMON
        )
        return State(data, made, export.run(asked, silent))

    def hit_rates(self, truth: TrainingData, state: State, *known: TrainingData) -> list[float]:
        """Return what `state` finds of `truth`, of the items that each of `known` knows."""
        embedded = embed.run(
            embed.Request(
                output=self.work / str(truth.day) / f"embed-{state.data.day}", config=self.config.embed, data=truth,
                model=state.model, **_COMMON,
            ),
            silent,
        )  # fmt: skip
        everything = read_items(embedded.items)
        return [_hit_rate(embedded.queries, _only(everything, read_items_of(one))) for one in known]


def read_items_of(data: TrainingData) -> pa.Array:
    """Return the item ids of a day's table."""
    import pyarrow.dataset

    return pyarrow.dataset.dataset(data.items).to_table(["item_id"])["item_id"].combine_chunks()


def _only(items: Items, known: pa.Array) -> Items:
    kept = pc.is_in(items.ids, known)
    return Items(items.ids.filter(kept), items.vectors[kept.to_numpy(zero_copy_only=False)])


def _hit_rate(folder: Path, items: Items) -> float:
    queries = read_queries(folder, items.ids)
    hits = 0
    for query, vector in enumerate(queries.vectors):
        scores = items.vectors @ vector
        seen, truth = (one.values[one.offsets[query] : one.offsets[query + 1]] for one in (queries.seen, queries.truth))
        scores[seen[seen >= 0]] = -np.inf
        hits += len(np.intersect1d(np.argpartition(-scores, K)[:K], truth))
    return hits / len(queries.truth.values)


def measure(bench: Bench, first: datetime.date, num_days: int) -> Iterator[Day]:
    """Train up to `first`, then absorb day by day; yield what the releases find on each of the `num_days` after."""
    measured = bench.data(first, None)
    before = bench.trained(measured, None)
    for number in range(1, num_days + 1):
        absorbed = bench.data(first + number * _A_DAY, before, measured)
        after = bench.trained(absorbed, before)
        truth = bench.data(first + number * _A_DAY, after)
        without, new_items = bench.hit_rates(truth, before, before.data, after.data)
        (fresh,) = bench.hit_rates(truth, after, after.data)
        yield Day(truth.ground_truth_day, truth.num_ground_truth, without, new_items, fresh)
        measured, before = truth, after


def prepared(work: Path, config: RunConfig, last: datetime.date) -> Bench:
    """Check the config's log up to the day after `last`, importing it if need be."""
    asked = ingest.Request(
        output=work / "ingest", config=config.data, day=last, import_root=work / "imports",
        fingerprint=ingest.fingerprint(config.data, last), **_COMMON,
    )  # fmt: skip
    return Bench(work, config, ingest.run(asked, silent))


def shop(work: Path, num_days: int, scale: float) -> Iterator[Day]:
    """Measure on the generated shop, after three days to begin with."""
    log = work / "log"
    if not log.exists():
        settings = {name: round(number * scale) for name, number in _SHOP.items()} | {"num_days": num_days + 4}
        ingest.import_log(synthetic.Config.model_validate(settings), log, silent)
    config = configs.load(Path("configs/demo.yaml"), [f"data.source={log}"])
    assert isinstance(config, RunConfig)
    last = daily.last_day(log)
    yield from measure(prepared(work, config, last), last - num_days * _A_DAY, num_days)


def movielens(work: Path, num_days: int) -> Iterator[Day]:
    """Measure on the last days of MovieLens 100K that have a day before and after them."""
    config = configs.load(Path("configs/movielens_two_tower.yaml"), [f"data.source={_DATA / 'ml-100k'}"])
    assert isinstance(config, RunConfig)
    last = ingest.last_day(config.data, work / "imports", silent)
    yield from measure(prepared(work, config, last), last - num_days * _A_DAY, num_days)


def table(name: str, days: Iterator[Day]) -> list[dict[str, Any]]:
    """Print a line for each day and one for all, in which each item to be found counts once; return them as rows."""
    print(f"{name}\n{'day':<12} {'to find':>8} {'without':>9} {'new items':>10} {'absorbed':>9} {'ratio':>7}")
    rows: list[dict[str, Any]] = []
    found: list[Day] = []

    def emit(label: str, day: Day) -> None:
        ratio = day.absorbed / day.without if day.without else float("inf")
        for figure, value in (("absorbed", day.absorbed), ("older model, new items", day.old_model_new_items)):
            row = {"case": f"{name}, {label}", "figure": f"hit rate@{K}, {figure}", "value": value, "unit": "share"}
            rows.append(row | {"reference": day.without, "ratio": value / day.without if day.without else None})
        rates = f"{day.without:>9.4f} {day.old_model_new_items:>10.4f} {day.absorbed:>9.4f}"
        print(f"{label:<12} {day.num_truth:>8,} {rates} {ratio:>7.3f}", flush=True)

    for day in days:
        found.append(day)
        emit(str(day.day), day)
    counts = [day.num_truth for day in found]
    means = [float(np.average([day[at] for day in found], weights=counts)) for at in (2, 3, 4)]
    emit("all", Day(found[0].day, sum(counts), *means))
    return rows


def main() -> None:
    """Measure both logs and print a table of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, nargs="?", help="folder to keep things in; by default they are deleted")
    parser.add_argument("--shop-days", type=int, default=5, help="days to measure on the generated shop; 0: none")
    parser.add_argument("--movielens-days", type=int, default=14, help="days to measure on MovieLens; 0: none")
    parser.add_argument("--scale", type=float, default=1.0, help="of the generated shop; 1: 4,000 users")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as elsewhere:
        work = arguments.work or Path(elsewhere)
        if arguments.shop_days:
            rows += table("generated shop", shop(work / "shop", arguments.shop_days, arguments.scale))
        if arguments.movielens_days and (_DATA / "ml-100k").is_dir():
            rows += table("MovieLens 100K", movielens(work / "movielens", arguments.movielens_days))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
