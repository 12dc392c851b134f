"""What a change of features, tables or layers costs a live model the day after, on the demo's shop.

    python benchmarks/warm_start.py [WORK] [--cases NAME ...] [--seeds N] [--scale F] [--json FILE]

A model of configs/demo.yaml is trained on all days but the last two. On the next day it is continued as it is, which is
the reference, and after each change; and each changed model is trained on the same new rows from random weights. All
are measured on the last day: hit rate@50 by exact search over all items, seen ones masked. Printed is what is carried
(`ratio` to the reference) and what a cold start on the same rows has. WORK keeps the log and what was trained.
"""

import argparse
import datetime
import json
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from recsys_core import config as configs
from recsys_core import ingest
from recsys_core.artifacts import Checkpoint, Dataset, TrainingData
from recsys_core.config import RunConfig
from recsys_core.datasets import daily, synthetic
from recsys_core.progress import silent
from recsys_core.retrieval import embed, export, preprocess, train
from recsys_core.retrieval.vectors import read_items, read_queries

K = 50
_CONFIG = Path("configs/demo.yaml")
_NUM_DAYS = 9
_SHOP = {"num_users": 8_000, "num_items": 3_000, "interactions_per_day": 20_000}
_COMMON = {"config_hash": "benchmark", "code_version": "benchmark"}

Changes = dict[str, Any]


def _without(side: str, *names: str) -> Changes:
    features = configs.load(_CONFIG).model_dump(mode="json")["features"][side]
    return {f"features.{side}": [one for one in features if one["name"] not in names]}


def _with(side: str, *features: dict[str, Any]) -> Changes:
    return {f"features.{side}": [*_without(side)[f"features.{side}"], *features]}


def cases() -> dict[str, Changes]:
    """Return what each case changes of the config."""
    tags = {"kind": "sequence", "name": "clicked_tags", "column": "history__tags", "table": "tags"}
    output = {"kind": "id", "encoding": "hash", "num_embeddings": 256, "embedding_dim": 8}
    group = {"kind": "combo", "name": "group", "columns": ["city", "gender"], "output": output}
    age = {"kind": "raw", "name": "years", "column": "age", "normalizer": "zscore"}
    return {
        "unchanged": {},
        "feature added: a history": _with("query", tags),
        "feature added: ids": _with("query", group),
        "feature added: numbers": _with("query", age),
        "feature removed: brand history": _without("query", "clicked_brand"),
        "feature removed: city": _without("query", "city"),
        "feature removed: tags": _without("item", "tags"),
        "vocabularies enlarged": {
            "features.item[name=item_id].num_embeddings": 40_000,
            "features.item[name=brand].num_embeddings": 2_000,
        },
        "width 32 to 48": {"features.embedding_dim": 48},
        "width 32 to 24": {"features.embedding_dim": 24},
        "towers wider": {"model.query_hidden": [128], "model.item_hidden": [128]},
        "towers deeper": {"model.query_hidden": [64, 64], "model.item_hidden": [64, 64]},
        "towers deeper, then narrow": {"model.query_hidden": [64, 32], "model.item_hidden": [64, 32]},
        "towers narrower": {"model.query_hidden": [48], "model.item_hidden": [48]},
        "towers without hidden layers": {"model.query_hidden": [], "model.item_hidden": []},
        "output 32 to 48": {"model.output_dim": 48},
        "boundaries moved": {"features.query[name=age].boundaries": [20, 30, 40, 50, 60]},
        "brands hashed": {"features.item[name=brand].encoding": "hash"},
    }


class Bench(NamedTuple):
    """The log, and where things are written."""

    work: Path
    dataset: Dataset
    days: tuple[datetime.date, datetime.date]

    def config(self, changes: Changes) -> RunConfig:
        """Return the demo's config with `changes`."""
        return configs.load(_CONFIG, [json.dumps(changes)] if changes else [])

    def data(self, name: str, config: RunConfig, day: datetime.date, base: TrainingData | None) -> TrainingData:
        """Preprocess `day`, continuing `base`."""
        given = {} if base is None else {"base_learned": base.learned, "base_engine": base.engine}
        given |= {} if base is None else {"base_engine_digest": base.engine_digest}
        output = self.work / name / "preprocess"
        asked = preprocess.Request(
            output=output, config=config.preprocess, features=config.features, dataset=self.dataset, day=day,
            **given, **_COMMON,
        )  # fmt: skip
        return preprocess.run(asked, silent)

    def trained(
        self, name: str, config: RunConfig, data: TrainingData, seed: int, base: Checkpoint | None, engine: Path | None
    ) -> Checkpoint:
        """Train on `data`, from `base` if it is given."""
        asked = train.Request(
            output=self.work / name / f"train-{seed}", config=config.train, model=config.model, sampler=config.sampler,
            loss=config.loss, num_ranks=1, seed=seed, data=data, base=base, base_engine=engine, **_COMMON,
        )  # fmt: skip
        return train.run(asked, silent)

    def hit_rate(self, config: RunConfig, data: TrainingData, made: Checkpoint) -> float:
        """Measure a checkpoint on the day after its data's."""
        beside = made.path.parent
        exported = export.run(
            export.Request(
                output=beside / f"{made.path.name}-export", config=config.export, model=config.model, data=data,
                checkpoint=made, **_COMMON,
            ),
            silent,
        )  # fmt: skip
        embedded = embed.run(
            embed.Request(
                output=beside / f"{made.path.name}-embed", config=config.embed, data=data, model=exported, **_COMMON
            ),
            silent,
        )
        items = read_items(embedded.items)
        queries = read_queries(embedded.queries, items.ids)
        hits = 0
        for query, vector in enumerate(queries.vectors):
            scores = items.vectors @ vector
            seen, truth = (
                one.values[one.offsets[query] : one.offsets[query + 1]] for one in (queries.seen, queries.truth)
            )
            scores[seen[seen >= 0]] = -np.inf
            top = np.argpartition(-scores, K)[:K]
            hits += len(np.intersect1d(top, truth))
        return hits / len(queries.truth.values)


def prepared(work: Path, scale: float) -> Bench:
    """Make the demo's log in `work`, `scale` times as large, if it is not there, and check it."""
    log = work / "shop"
    if not log.exists():
        settings = {name: round(number * scale) for name, number in _SHOP.items()} | {"num_days": _NUM_DAYS}
        ingest.import_log(synthetic.Config.model_validate(settings), log, silent)
    last = daily.last_day(log)
    source = configs.load(_CONFIG, [f"data.source={log}"]).data
    asked = ingest.Request(
        output=work / "ingest", config=source, day=last, import_root=work / "imports",
        fingerprint=ingest.fingerprint(source, last), **_COMMON,
    )  # fmt: skip
    return Bench(work, ingest.run(asked, silent), (last - datetime.timedelta(days=1), last))


def measure(bench: Bench, chosen: list[str], num_seeds: int) -> list[dict[str, Any]]:
    """Return the rows of every case, the mean over the seeds, the unchanged one first."""
    plain = bench.config({})
    first = bench.data("base", plain, bench.days[0], None)
    bases = [bench.trained("base", plain, first, seed, None, None) for seed in range(num_seeds)]
    rows: list[dict[str, Any]] = []
    for case, changes in cases().items():
        if case != "unchanged" and chosen and not any(one in case for one in chosen):
            continue
        config = bench.config(changes)
        name = case.replace(" ", "-").replace(":", "").replace(",", "")
        data = bench.data(name, config, bench.days[1], first)
        found: dict[str, list[float]] = {"carried": [], "cold": []}
        for seed, base in enumerate(bases):
            for how, start in (("carried", base), ("cold", None)):
                made = bench.trained(f"{name}/{how}", config, data, seed, start, first.engine)
                found[how].append(bench.hit_rate(config, data, made))
        rates = {how: float(np.mean(values)) for how, values in found.items()}
        reference = rows[0]["value"] if rows else rates["carried"]
        for how, rate in rates.items():
            row = {"case": f"{case}, {how}", "figure": f"hit rate@{K}", "value": rate, "unit": "share"}
            rows.append(row | {"reference": reference, "ratio": rate / reference})
        print(
            f"{case:<34} {rates['carried']:>8.4f} {rates['carried'] / reference:>7.3f} {rates['cold']:>8.4f} "
            f"{rates['cold'] / reference:>7.3f}",
            flush=True,
        )
    return rows


def main() -> None:
    """Measure the cases and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, nargs="?", help="folder to keep things in; by default they are deleted")
    parser.add_argument("--cases", nargs="*", default=[], help="parts of the names of those to measure; default: all")
    parser.add_argument("--seeds", type=int, default=1, help="trainings of each case")
    parser.add_argument("--scale", type=float, default=1.0, help="of the shop; 1: 8,000 users")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as elsewhere:
        bench = prepared(arguments.work or Path(elsewhere), arguments.scale)
        print(f"{'case':<34} {'carried':>8} {'ratio':>7} {'cold':>8} {'ratio':>7}")
        rows = measure(bench, arguments.cases, arguments.seeds)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
