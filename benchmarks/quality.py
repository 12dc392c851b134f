"""How well shipped configs' models do on the data that their published figures were measured on.

    python benchmarks/quality.py NAME ... [--work DIR] [--seeds N ...] [--set KEY=VALUE ...] [--json FILE]
    python benchmarks/quality.py --all

NAME is a config, such as `deepfm_frappe` for configs/deepfm_frappe.yaml, or the path of one; `--all` is every shipped
one that has a published figure here, but those whose data is not there. It is trained with each seed.

Of ranking on splits the best state on `valid` is kept, and every row of `test` is measured once. A retrieval model is
trained by `dayline run`, and measured as its `holdout` says: a full ranking of the item table. Printed are the
protocol, each seed's figures and time, and the mean beside the published figure. DIR keeps the imported tables and what
was trained; by default it is deleted.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from recsys_core import config as configs
from recsys_core import uri
from recsys_core.artifacts import Evaluation, LabelledData
from recsys_core.config import RankingConfig, RunConfig
from recsys_core.progress import silent
from recsys_core.ranking import evaluate, prepare, train

_COMMON = {"config_hash": "benchmark", "code_version": "benchmark"}
_DAYLINE = Path(sys.executable).with_name("dayline")


class Published(NamedTuple):
    """What was published of a model, and where."""

    source: str
    figures: Mapping[str, float]


def _frappe(auc: float, logloss: float) -> Published:
    return Published("BARS leaderboard (Zhu et al. 2022), Frappe_x1, width 10", {"auc": auc, "logloss": logloss})


# By the shipped config's name.
PUBLISHED = {
    "lr_frappe": _frappe(0.9356, 0.3076),
    "deepfm_frappe": _frappe(0.9842, 0.1482),
    "dlrm_frappe": _frappe(0.9840, 0.1444),
    "dcnv2_frappe": _frappe(0.9845, 0.1491),
    "finalmlp_frappe": _frappe(0.9861, 0.1484),
    "ml1m_sasrec": Published(
        "Klenitskiy & Vasilev 2023, SASRec with cross-entropy, ML-1M", {"hit_rate@10": 0.3152, "ndcg@10": 0.1821}
    ),
}


class Measured(NamedTuple):
    """A training's figures, its seconds and steps (None: not known), and in words how it was measured."""

    figures: dict[str, float]
    seconds: float
    steps: int | None
    protocol: str


class Ranking:
    """A ranking config on splits; tables are imported and features fitted once."""

    def __init__(self, config: RankingConfig, work: Path) -> None:
        """Import and check the tables, and fit the features."""
        self._config, self._work = config, work
        asked = prepare.Request(
            output=work / "prepare", config=config.ranking, data=config.split_data, features=config.features,
            import_root=work / "imports", fingerprint=prepare.fingerprint(config.split_data), **_COMMON,
        )  # fmt: skip
        self._data = prepare.run(asked, silent)

    def measure(self, seed: int) -> Measured:
        """Train, and measure the best state on the evaluated split."""
        config, data, work, start = self._config, self._data, self._work / f"seed-{seed}", time.perf_counter()
        checkpoint = train.run(
            train.Request(
                output=work / "train", config=config.train, ranking=config.ranking, model=config.model,
                loss=config.loss, num_ranks=1, seed=seed, day=config.split_data.day, data=data, **_COMMON,
            ),
            silent,
        )  # fmt: skip
        seconds = time.perf_counter() - start
        measured = evaluate.run(
            evaluate.Request(
                output=work / "evaluate", config=config.evaluate, ranking=config.ranking, model=config.model,
                sharding=config.train.sharding, num_ranks=1, seed=seed, data=data, checkpoint=checkpoint, **_COMMON,
            ),
            silent,
        )  # fmt: skip
        figures = {figure: float(getattr(measured.metrics, figure)) for figure in ("auc", "logloss")}
        return Measured(figures, seconds, checkpoint.num_steps, self._protocol(data))

    def _protocol(self, data: LabelledData) -> str:
        config = self._config
        rows = ", ".join(f"{split.name} {split.num_rows:,} ({split.num_positives:,} positive)" for split in data.splits)
        chosen = "the state that is best on valid" if config.train.evaluates else "the last state"
        return (
            f"Rows {rows}; {chosen}, measured on every row of {config.evaluate.split} once; features "
            f"{data.engine_digest[:12]}, config {config.hash}"
        )


class Retrieval:
    """A retrieval config, by the command that runs the whole line: FAISS and torch do not share a process."""

    def __init__(self, path: Path, config: RunConfig, changes: list[str], work: Path) -> None:
        """`changes` are those of `config`, which `path` holds without them."""
        self._arguments = ["run", str(path), "--json", *(word for change in changes for word in ("--set", change))]
        self._config, self._work = config, work
        work.mkdir(parents=True, exist_ok=True)

    def measure(self, seed: int) -> Measured:
        """Run the line, and read what it has measured."""
        home = {"PREFECT_HOME": str(self._work / "prefect"), "DAYLINE_KEEP_SECONDS": "0"}
        command = [_DAYLINE, *self._arguments, "--set", f"seed={seed}", "--set", f"run_root={self._work / 'runs'}"]
        done = subprocess.run(command, stdout=subprocess.PIPE, env=os.environ | home, check=False)
        if done.returncode:
            raise SystemExit(f"dayline {' '.join(map(str, command[1:]))}: exit code {done.returncode}")
        result = json.loads(done.stdout)
        metrics, evaluation = result["metrics"], Evaluation.load(Path(result["artifacts"]["hitrate"]))
        figures = {f"{name}@{k}": value for name in ("hit_rate", "ndcg") for k, value in metrics[name].items()}
        for baseline, by_k in metrics["baselines"].items():
            figures |= {f"{baseline}: hit_rate@{k}": value for k, value in (by_k or {}).items()}
        protocol = f"{evaluation.protocol} Day {evaluation.day}, config {self._config.hash}"
        return Measured(figures, result["stages"]["train"]["seconds"], None, protocol)


def measured(name: str, changes: list[str], seeds: list[int], work: Path) -> list[dict[str, Any]]:
    """Print and return the rows of every seed, and of their mean."""
    path = _path(name)
    config = configs.load(path, changes)
    if isinstance(config, RankingConfig) and config.is_daily:
        raise SystemExit(f"{path}: a ranking config on days; this measures those on splits")
    own = work / config.name
    case = Ranking(config, own) if isinstance(config, RankingConfig) else Retrieval(path, config, changes, own)
    published = PUBLISHED.get(path.stem)
    rows: list[dict[str, Any]] = []
    found: list[dict[str, float]] = []
    for seed in seeds:
        done = case.measure(seed)
        if not found:
            print(f"{path.stem}: model {config.model.kind}, data {config.data.kind}. {done.protocol}", flush=True)
        steps = "" if done.steps is None else f", {done.steps} steps"
        print(f"  seed {seed}: {_text(done.figures)}; {done.seconds:.0f} s of training{steps}", flush=True)
        found.append(done.figures)
        row = {"case": path.stem, "seed": seed, "protocol": done.protocol}
        rows += [row | _figure(figure, value, published) for figure, value in done.figures.items()]
        rows.append(row | _figure("training", done.seconds, None) | {"unit": "seconds"})
    mean = {figure: float(np.mean([one[figure] for one in found])) for figure in found[0]}
    print(f"  mean: {_text(mean)}")
    if published is not None:
        print(f"  published: {_text(published.figures)} ({published.source})")
    total = {"case": path.stem, "seed": None, "protocol": rows[0]["protocol"]}
    return rows + [total | _figure(figure, value, published) for figure, value in mean.items()]


def _figure(figure: str, value: float, published: Published | None) -> dict[str, Any]:
    reference = published.figures.get(figure) if published else None
    ratio = None if reference is None else value / reference
    return {"figure": figure, "value": value, "unit": "", "reference": reference, "ratio": ratio}


def _text(figures: Mapping[str, float]) -> str:
    return ", ".join(f"{figure} {value:.4f}" for figure, value in figures.items())


def _path(name: str) -> Path:
    return Path(name) if Path(name).suffix else Path("configs") / f"{name}.yaml"


def _shipped(changes: list[str]) -> Iterable[str]:
    """Yield every shipped config that has a published figure, and say which are left out as their data is not there."""
    for name in PUBLISHED:
        if _path(name).is_file():
            source = configs.load(_path(name), changes).data.source
            if isinstance(source, str) and not uri.is_remote(source) and not uri.local(source).exists():
                print(f"{name}: left out, as there is no {source}")
            else:
                yield name


def main() -> None:
    """Train, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="of a config in configs/, or the path of one")
    parser.add_argument("--all", action="store_true", help="every shipped config with a published figure")
    parser.add_argument("--work", type=Path, help="folder to keep things in; by default they are deleted")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the trainings; default: 0")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="changes of the config"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too, after each config")
    arguments = parser.parse_args()
    if arguments.all == bool(arguments.names):
        parser.error("name configs, or say --all")
    torch.set_num_threads(1)
    rows, start = [], time.perf_counter()
    with tempfile.TemporaryDirectory() as elsewhere:
        for name in _shipped(arguments.set) if arguments.all else arguments.names:
            rows += measured(name, arguments.set, arguments.seeds, arguments.work or Path(elsewhere))
            if arguments.json:
                arguments.json.write_text(json.dumps(rows, indent=2) + "\n")
    print(f"{(time.perf_counter() - start) / 60:.0f} minutes in all")


if __name__ == "__main__":
    main()
