"""Do models of several tasks gain by choosing what is shared, where tasks have little in common?

Impressions of a made-up shop have clicks, and likes of the same rows by tastes that go along with those of clicks as
far as `--agreements` say, from 1 over 0 to -1. Each model learns both labels at once from some days, and is measured on
the next one, by the AUC of each label beside that of the shared bottom. All have about as many dense weights.

    python benchmarks/tasks.py --agreements 0 -0.9
"""

import argparse
import datetime
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recsys_core import models
from recsys_core.config import RankingConfig
from recsys_core.datasets import base
from recsys_core.datasets.labelled import _impressions
from recsys_core.features import Engine
from recsys_core.models.base import RankingModel
from recsys_core.progress import silent
from recsys_core.ranking import evaluate, prepare, train

_COMMON: Any = {"config_hash": "0" * 64, "code_version": "benchmark"}
_FIRST_DAY = datetime.date(2024, 1, 1)
_TOWERS = {"click": {"hidden": [16]}, "like": {"hidden": [16]}}
_TABLES = {"user_id": 8_192, "age": 16, "gender": 8, "city": 64, "item_id": 2_048, "category": 64, "brand": 256}
MODELS: dict[str, dict[str, Any]] = {
    "shared_bottom": {"hidden": [64, 32]},
    "mmoe": {"num_experts": 4, "hidden": [16, 32]},
    "ple": {"layers": [{"num_shared": 1, "num_own": 1, "hidden": [20, 32]}]},
}


def config(kind: str, folder: Path, epochs: int) -> RankingConfig:
    """Return what trains a model of a kind on the rows in `folder`."""
    features = [{"kind": "id", "name": name, "num_embeddings": size} for name, size in _TABLES.items()]
    return RankingConfig.model_validate(
        {
            "name": "tasks",
            "data": {"kind": "splits", "source": str(folder), "day": str(_FIRST_DAY)},
            "ranking": {"tasks": {"click": {"label": "click"}, "like": {"label": "like"}}},
            "features": {"embedding_dim": 8, "query": features[:4], "item": features[4:]},
            "model": {"kind": kind, "tasks": _TOWERS} | MODELS[kind],
            "train": {
                "batch_size": 512,
                "num_epochs": epochs,
                "sparse_optimizer": {"kind": "adagrad", "learning_rate": 0.05},
                "dense_optimizer": {"kind": "adam", "learning_rate": 0.001},
                "sharding": {"device": "cpu"},
            },
        }
    )


def made(agreement: float, folder: Path, arguments: argparse.Namespace) -> tuple[float, float]:
    """Write the rows; return the AUC of clicks and of likes that are attainable on the last day."""
    shop = _impressions.Config(
        num_days=arguments.days, rows_per_day=arguments.rows_per_day, like_agreement=agreement, signal=arguments.signal
    )
    attainable = _impressions.write(shop, folder / "days", silent)[-1]
    for number in range(arguments.days):
        day = base.partition(_FIRST_DAY + datetime.timedelta(days=number))
        place = folder / "rows" / ("train" if number < arguments.days - 1 else "test") / day
        place.parent.mkdir(parents=True, exist_ok=True)
        (folder / "days" / day).rename(place)
    assert attainable.auc is not None
    assert attainable.like_auc is not None
    return attainable.auc, attainable.like_auc


def measured(kind: str, seed: int, folder: Path, epochs: int) -> tuple[float, float, int]:
    """Train and measure a model; return the AUC of clicks and of likes, and its number of dense weights."""
    own, work = config(kind, folder / "rows", epochs), folder / f"{kind}-{seed}"
    data = prepare.run(
        prepare.Request(
            output=folder / "prepare", config=own.ranking, data=own.split_data, features=own.features,
            import_root=folder / "imports", fingerprint="0", **_COMMON,
        ),
        silent,
    )  # fmt: skip
    checkpoint = train.run(
        train.Request(
            output=work / "train", config=own.train, ranking=own.ranking, model=own.model, loss=own.loss,
            num_ranks=1, seed=seed, day=_FIRST_DAY, data=data, **_COMMON,
        ),
        silent,
    )  # fmt: skip
    found = evaluate.run(
        evaluate.Request(
            output=work / "evaluate", config=own.evaluate, ranking=own.ranking, model=own.model,
            sharding=own.train.sharding, num_ranks=1, seed=seed, data=data, checkpoint=checkpoint, **_COMMON,
        ),
        silent,
    )  # fmt: skip
    model = models.build(own.model, Engine.load(data.engine), RankingModel, tables_device="meta")
    clicks, likes = (found.tasks[task] for task in ("click", "like"))
    assert clicks is not None
    assert likes is not None
    assert clicks.auc is not None
    assert likes.auc is not None
    return clicks.auc, likes.auc, sum(weight.numel() for weight in model.head.parameters())


def compared(agreement: float, folder: Path, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the rows of one agreement, and print them."""
    best = made(agreement, folder, arguments)
    print(f"agreement {agreement:g}: attainable AUC of clicks {best[0]:.4f}, of likes {best[1]:.4f}", flush=True)
    rows: list[dict[str, Any]] = []
    first: dict[str, float] = {}
    for kind in MODELS:
        by_seed = np.array([measured(kind, seed, folder, arguments.epochs) for seed in arguments.seeds])
        means, spread = by_seed.mean(axis=0), by_seed.std(axis=0)
        print(
            f"  {kind:<14} clicks {means[0]:.4f} ± {spread[0]:.4f}   likes {means[1]:.4f} ± {spread[1]:.4f}   "
            f"{means[2]:,.0f} dense weights",
            flush=True,
        )
        for figure, value in zip(("auc of clicks", "auc of likes"), means[:2].tolist(), strict=True):
            reference = first.setdefault(figure, value)
            case = f"{kind}, agreement {agreement:g}"
            rows.append(
                {"case": case, "figure": figure, "value": value, "unit": ""}
                | {"reference": reference, "ratio": value / reference}
            )
    return rows


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agreements", type=float, nargs="+", default=[0.0, -0.9], help="default: 0 -0.9")
    parser.add_argument("--days", type=int, default=6, help="the last one is measured on; default: 6")
    parser.add_argument("--rows-per-day", type=int, default=20_000, help="default: 20000")
    parser.add_argument("--signal", type=float, default=1.2, help="how strong tastes are, in logits; default: 1.2")
    parser.add_argument("--epochs", type=int, default=3, help="default: 3")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3], help="of the trainings; default: 0 1 2 3")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for agreement in arguments.agreements:
        with tempfile.TemporaryDirectory() as folder:
            rows += compared(agreement, Path(folder), arguments)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
