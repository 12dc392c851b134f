"""How well a shipped config's model does on the data set that its published figure was measured on.

    python benchmarks/quality.py NAME [WORK] [--seeds N ...] [--set KEY=VALUE ...] [--json FILE]

NAME is a ranking config, such as `deepfm_frappe` for configs/deepfm_frappe.yaml, or the path of one. It is trained with
each seed, the best state on `valid` is kept, and every row of `test` is measured once. Printed are the protocol, each
seed's figures and time, and the mean beside the published figure. WORK keeps the imported tables and what was trained.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recsys_core import config as configs
from recsys_core.artifacts import LabelledData, LabelledMetrics
from recsys_core.config import RankingConfig
from recsys_core.progress import silent
from recsys_core.ranking import evaluate, prepare, train

_COMMON = {"config_hash": "benchmark", "code_version": "benchmark"}
_FIGURES = ("auc", "logloss")
# AUC and logloss on the test rows of Frappe_x1: BARS' leaderboard (Zhu et al. 2022, BARS), embeddings of width 10.
_BARS = "BARS leaderboard, Frappe_x1"
PUBLISHED = {
    "lr_frappe": (0.9356, 0.3076),
    "fm_frappe": (0.9671, 0.2065),
    "wide_and_deep_frappe": (0.9841, 0.1490),
    "deepfm_frappe": (0.9842, 0.1482),
    "dlrm_frappe": (0.9840, 0.1444),
    "dcn_frappe": (0.9839, 0.1527),
    "dcnv2_frappe": (0.9845, 0.1491),
    "xdeepfm_frappe": (0.9845, 0.1466),
    "autoint_frappe": (0.9848, 0.1490),
    "masknet_frappe": (0.9837, 0.1696),
    "finalmlp_frappe": (0.9861, 0.1484),
}


def prepared(config: RankingConfig, work: Path) -> LabelledData:
    """Import and check the tables, and fit the features."""
    data = config.split_data
    asked = prepare.Request(
        output=work / "prepare", config=config.ranking, data=data, features=config.features,
        import_root=work / "imports", fingerprint=prepare.fingerprint(data), **_COMMON,
    )  # fmt: skip
    return prepare.run(asked, silent)


def trained(config: RankingConfig, data: LabelledData, seed: int, work: Path) -> tuple[LabelledMetrics, float, int]:
    """Return what the best state of a training has on the evaluated split, its seconds, and its steps."""
    start = time.perf_counter()
    checkpoint = train.run(
        train.Request(
            output=work / "train", config=config.train, ranking=config.ranking, model=config.model, loss=config.loss,
            num_ranks=1, seed=seed, day=config.split_data.day, data=data, **_COMMON,
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
    return measured.metrics, seconds, checkpoint.num_steps


def protocol(config: RankingConfig, data: LabelledData) -> str:
    """Return in words what is learned from and measured on."""
    rows = ", ".join(f"{split.name} {split.num_rows:,} ({split.num_positives:,} positive)" for split in data.splits)
    chosen = "the state that is best on valid" if config.train.evaluates else "the last state"
    return (
        f"{config.name}: model {config.model.kind}, data {config.split_data.kind}, rows {rows}; {chosen}, measured on "
        f"every row of {config.evaluate.split} once; features {data.engine_digest[:12]}, config {config.hash}"
    )


def measure(name: str, config: RankingConfig, seeds: list[int], work: Path) -> list[dict[str, Any]]:
    """Return the rows of every seed, and of their mean."""
    data = prepared(config, work)
    print(protocol(config, data), flush=True)
    print(f"{'seed':<6}" + "".join(f"{figure:>10}" for figure in _FIGURES) + f"{'steps':>8}{'seconds':>9}", flush=True)
    rows: list[dict[str, Any]] = []
    found: dict[str, list[float]] = {figure: [] for figure in _FIGURES}
    for seed in seeds:
        metrics, seconds, steps = trained(config, data, seed, work / f"seed-{seed}")
        for figure, values in found.items():
            values.append(float(getattr(metrics, figure)))
        print(
            f"{seed:<6}" + "".join(f"{own[-1]:>10.4f}" for own in found.values()) + f"{steps:>8}{seconds:>9.0f}",
            flush=True,
        )
        rows += [_row(f"{name}, seed {seed}", figure, values[-1], None) for figure, values in found.items()]
        rows.append(_row(f"{name}, seed {seed}", "training", seconds, None, unit="seconds"))
    published = dict(zip(_FIGURES, PUBLISHED[name], strict=True)) if name in PUBLISHED else {}
    means = {figure: float(np.mean(values)) for figure, values in found.items()}
    print("mean  " + "".join(f"{mean:>10.4f}" for mean in means.values()))
    if published:
        print("publ. " + "".join(f"{value:>10.4f}" for value in published.values()) + f"  {_BARS}")
    return rows + [_row(name, figure, mean, published.get(figure)) for figure, mean in means.items()]


def _row(case: str, figure: str, value: float, reference: float | None, *, unit: str = "") -> dict[str, Any]:
    ratio = None if reference is None else value / reference
    return {"case": case, "figure": figure, "value": value, "unit": unit, "reference": reference, "ratio": ratio}


def main() -> None:
    """Train, measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="of a config in configs/, or the path of one")
    parser.add_argument("work", type=Path, nargs="?", help="folder to keep things in; by default they are deleted")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the trainings; default: 0")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="changes of the config")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    path = Path(arguments.name)
    config = configs.load(path if path.suffix else Path("configs") / f"{path}.yaml", arguments.set)
    if not isinstance(config, RankingConfig) or config.is_daily:
        raise SystemExit(f"{arguments.name}: no ranking config on splits, and this measures only such")
    with tempfile.TemporaryDirectory() as elsewhere:
        rows = measure(config.name, config, arguments.seeds, arguments.work or Path(elsewhere))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
