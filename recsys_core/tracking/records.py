"""The pipeline's records in the form that MLflow keeps: params, metrics, tags and dataset inputs."""

import json
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recsys_core.artifacts import (
    Checkpoint,
    Dataset,
    Difference,
    Evaluation,
    HeldOut,
    LabelledData,
    LabelledLog,
    LabelledMetrics,
    RankingEvaluation,
    TrainingData,
    digest_of,
)
from recsys_core.redaction import redact, redacted

_MAX_VALUE = 6_000  # characters of a param that MLflow keeps


def name_of(text: str) -> str:
    """Return `text` as a name that MLflow takes: other characters than letters, digits and `_-. /` become `_`."""
    return re.sub(r"[^\w\-. /]", "_", text)


def params(config: Mapping[str, Any]) -> dict[str, str]:
    """Return nested JSON values as text by dotted key (`features.query.0.kind`); lists of plain values stay whole.

    Text beyond MLflow's limit is cut; its length and digest take the place of the rest, so that runs still compare.
    """
    flat: dict[str, str] = {}
    for key, value in redacted(config).items():
        if isinstance(value, list) and any(isinstance(entry, dict) for entry in value):
            below = params({str(position): entry for position, entry in enumerate(value)})
        else:
            below = params(value) if isinstance(value, dict) else {}
        if below:
            flat |= {f"{name_of(key)}.{rest}": text for rest, text in below.items()}
            continue
        text = value if isinstance(value, str) else json.dumps(value)
        if len(text) > _MAX_VALUE:
            rest = f"… ({len(text)} characters, digest {digest_of(text)})"
            text = text[: _MAX_VALUE - len(rest)] + rest
        flat[name_of(key)] = text
    return flat


def metrics(data: TrainingData, checkpoint: Checkpoint, held_out: HeldOut, evaluation: Evaluation) -> dict[str, float]:
    """Return the numbers by which days are compared, named like `exact/hit_rate_at_50`."""
    found: dict[str, float] = {
        "num_examples": data.num_rows,
        "num_items": evaluation.num_items,
        "num_queries": evaluation.num_queries,
        "num_ground_truth": evaluation.num_ground_truth,
        "loss": checkpoint.loss,
        "held_out_loss": held_out.loss,
        "examples_per_second": checkpoint.examples_per_second,
    }
    found |= _by_k("held_out/sampled_recall", held_out.sampled_recall)
    for contender in (
        "exact",
        "approximate",
        "popularity",
        "recent_popularity",
        "item_item",
        "markov",
        "ease",
        "champion",
    ):
        ranking = getattr(evaluation, contender)
        for metric in type(ranking).model_fields if ranking else ():
            found |= _by_k(f"{contender}/{metric}", getattr(ranking, metric))
    found |= _by_k("ann_recall", evaluation.ann_recall)
    found |= {f"hit_rate_by_popularity/{name}": rate for name, rate in evaluation.hit_rate_by_popularity.items()}
    found |= differences("difference", evaluation.differences)
    for name, part in evaluation.slices.items():
        found[f"slices/{name}/num_queries"] = part.num_queries
        found |= differences(f"slices/{name}/difference", part.differences)
        for metric in ("hit_rate", "recall", "ndcg", "mrr") if part.exact else ():
            found |= _by_k(f"slices/{name}/{metric}", getattr(part.exact, metric))
    return {name_of(name): float(value) for name, value in found.items()}


def differences(name: str, found: Mapping[str, Difference]) -> dict[str, float]:
    """Return differences to the champion as metrics: `NAME/auc`, and its interval, `NAME_low/auc`, `NAME_high/auc`."""
    figures = {
        f"{name}{end}/{metric.replace('@', '_at_')}": value
        for metric, difference in found.items()
        for end, value in (("", difference.value), ("_low", difference.low), ("_high", difference.high))
    }
    return {key: value for key, value in figures.items() if value is not None}


def ranking_metrics(data: LabelledData, checkpoint: Checkpoint, evaluation: RankingEvaluation) -> dict[str, float]:
    """Return the numbers by which a ranking model's days are compared, named like `auc` and `champion/auc`."""
    found: dict[str, float] = {f"{split.name}_rows": split.num_rows for split in data.splits}
    found |= {"loss": checkpoint.loss, "examples_per_second": checkpoint.examples_per_second}
    found |= _labelled("", evaluation.metrics)
    for name, metrics in evaluation.tasks.items():
        found |= _labelled(f"tasks/{name}/", metrics)
    found |= _labelled("champion/", evaluation.champion)
    for name, metrics in evaluation.baselines.items():
        found |= _labelled(f"{name}/", metrics)
    found |= differences("difference", evaluation.differences)
    for name, part in evaluation.slices.items():
        found |= _labelled(f"slices/{name}/", part.metrics)
        found |= differences(f"slices/{name}/difference", part.differences)
    return {name_of(name): float(value) for name, value in found.items()}


def _labelled(prefix: str, metrics: LabelledMetrics | None) -> dict[str, float]:
    return {f"{prefix}{name}": value for name, value in (metrics.figures() if metrics else {}).items()}


def dataset_input(artifact: Dataset | TrainingData | LabelledLog | LabelledData, source: str) -> dict[str, str]:
    """Return the fields of MLflow's record of what a run was made from: digest, schema, row counts and context."""
    import pyarrow.dataset

    if isinstance(artifact, LabelledLog):
        columns = artifact.columns
        profile = {
            "num_rows": artifact.num_rows,
            "num_positives": sum(day.num_positives for day in artifact.days),
            "num_days": len(artifact.days),
            "first_day": str(artifact.days[0].day),
            "last_day": str(artifact.days[-1].day),
        }
    elif isinstance(artifact, LabelledData):
        columns = artifact.columns
        counts = {
            split.name: {"num_rows": split.num_rows, "num_positives": split.num_positives} for split in artifact.splits
        }
        profile = artifact.model_dump(mode="json", include={"day", "learned"}) | counts
    elif isinstance(artifact, Dataset):
        columns = {
            f"{table}.{name}": kind for table, fields in artifact.columns.items() for name, kind in fields.items()
        }
        profile = {
            "num_rows": artifact.num_rows,
            "num_interactions": sum(day.num_interactions for day in artifact.days),
            "num_days": len(artifact.days),
            "first_day": str(artifact.days[0].day),
            "last_day": str(artifact.days[-1].day),
        }
    else:
        schema = pyarrow.dataset.dataset(artifact.examples).schema
        columns = {field.name: str(field.type) for field in schema}
        fields = {"num_rows", "num_items", "num_queries", "num_ground_truth", "first_day", "day", "ground_truth_day"}
        profile = artifact.model_dump(mode="json", include=fields)
    return {
        "name": artifact.stage,
        "digest": artifact.digest,
        "source_type": source.partition("://")[0] if "://" in source else "local",
        "source": json.dumps({"uri": redact(source)}),
        "schema": json.dumps({"mlflow_colspec": [{"name": name, "type": kind} for name, kind in columns.items()]}),
        "profile": json.dumps(profile),
        "context": "log" if isinstance(artifact, Dataset | LabelledLog) else "training",
    }


def revision() -> dict[str, str]:
    """Return the tags of the git checkout that this code runs from; nothing if it does not run from one."""
    module = Path(__file__)
    if _git("ls-files", "--error-unmatch", module.name) is None:
        return {}
    sha = _git("rev-parse", "HEAD") or ""
    dirty = "true" if _git("status", "--porcelain") else "false"
    return {"git.sha": sha, "git.dirty": dirty, "mlflow.source.git.commit": sha}


def _by_k(name: str, values: Mapping[str, float]) -> dict[str, float]:
    return {f"{name}_at_{k}": value for k, value in values.items()}


def _git(*arguments: str) -> str | None:
    """Run git beside this file; None if there is no git, or if it says no."""
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
