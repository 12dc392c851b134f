"""What the Prefect page of a day shows: the result as a table and in words."""

from collections.abc import Sequence
from typing import Any

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from recsys_core.artifacts import LabelledMetrics, LabelledSlice
from tasks.report import DayResult
from tasks.report_ranking import RankingResult
from tasks.report_ranking_day import RankingDay


def rows(result: DayResult) -> list[dict[str, Any]]:
    """Return one row per K: the model's hit rate by exact and approximate search beside what it must beat."""
    metrics = result.metrics
    return [
        {
            "K": int(k),
            "hit rate": round(rate, 4),
            "approximate": round(metrics.approximate_hit_rate[k], 4),
            "live model": round(metrics.champion_hit_rate[k], 4) if metrics.champion_hit_rate else None,
            "popularity": round(metrics.baselines.popularity[k], 4),
            **{
                name: "no log" if found is None else round(found[k], 4)
                for name, found in metrics.baselines.of_log.items()
            },
            "recall": round(metrics.recall[k], 4),
            "NDCG": round(metrics.ndcg[k], 4),
            "ANN recall": round(metrics.ann_recall[k], 4),
        }
        for k, rate in metrics.hit_rate.items()
    ]


def verdict(result: DayResult | RankingDay) -> str:
    """Return in words what became of the day's model."""
    version = f"version {result.release}" if result.release else "nothing"
    return {
        "live": f"{version} is live",
        "registered": f"{version} is registered, not live",
        "rejected": "rejected by the gate; what was live stays live",
    }[result.decision]


def leave_notes(result: DayResult | RankingDay) -> None:
    """Put the result on the flow run's page."""
    lines = [
        f"## {result.day}: {verdict(result)}",
        *(f"- {reason}" for reason in result.gate.reasons),
        *(f"- data: {warning}" for warning in result.data_warnings),
        "",
        f"- {result.metrics.num_examples:,} examples at {result.metrics.examples_per_second:,.0f}/s",
        f"- {_losses(result)}",
        *(f"- {sentence}" for sentence in absorbed(result)),
        "",
        "| stage | seconds | rows | done before |",
        "|---|---|---|---|",
        *_stages(result),
        "",
        f"MLflow run `{result.mlflow_run_id}`, run `{result.run_id}`",
    ]
    create_markdown_artifact("\n".join(lines), key="day", description=str(result.day))
    if isinstance(result, DayResult):
        create_table_artifact(rows(result), key="hit-rate", description=f"Hit rate by K, {result.day}")
    else:
        create_table_artifact(labelled_rows(result), key="metrics", description=f"Held-out rows, {result.day}")


def labelled_rows(result: RankingDay) -> list[dict[str, Any]]:
    """Return one row per contender, measured on the same held-out rows, and one per slice of them."""
    metrics = result.metrics
    found: dict[str, LabelledMetrics | None] = {"model": metrics, "live model": metrics.champion, **metrics.baselines}
    found |= {f"{name}, {who}": one for name, part in metrics.slices.items() for who, one in _of_slice(part)}
    return [
        {
            "": name,
            "rows": one.num_rows,
            "AUC": _rounded(one.auc),
            "GAUC": _rounded(one.gauc),
            "logloss": _rounded(one.logloss),
            "NE": _rounded(one.normalized_entropy),
            "calibration": _rounded(one.calibration),
            **{kind: _rounded(value) for kind, value in one.others.items()},
        }
        for name, one in found.items()
        if one is not None
    ]


def _of_slice(part: LabelledSlice) -> tuple[tuple[str, LabelledMetrics | None], ...]:
    return ("model", part.metrics), ("live model", part.champion)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _losses(result: DayResult | RankingDay) -> str:
    if isinstance(result, DayResult):
        return f"loss {result.metrics.loss:.4f}, on the next day's rows {result.metrics.held_out_loss:.4f}"
    if (held_out := result.metrics.logloss) is None:
        return f"loss {result.metrics.loss:.4f}"
    return f"loss {result.metrics.loss:.4f}, on the held-out rows {held_out:.4f}"


def absorbed(result: DayResult | RankingDay) -> list[str]:
    """Return in words what came of absorbing the measured rows; nothing, if that was not done."""
    outcome = result.absorbed
    if outcome is None:
        return []
    words = f"absorbed {outcome.day}: {outcome.num_examples:,} examples, loss {outcome.loss:.4f}"
    return [outcome.refused or f"{words}, on the measured rows afterwards {outcome.held_out_loss:.4f}"]


def leave_ranking_notes(result: RankingResult) -> None:
    """Put the result of a ranking run on its flow run's page."""
    figures = result.metrics.figures()
    lines = [
        f"## {result.day}: measured on {result.split}",
        *(
            f"- {name} {value:,.4f}" if isinstance(value, float) else f"- {name} {value:,}"
            for name, value in figures.items()
        ),
        f"- {result.num_examples:,} examples at {result.examples_per_second:,.0f}/s, {result.num_steps:,} steps",
        "",
        "| stage | seconds | rows | done before |",
        "|---|---|---|---|",
        *_stages(result),
        "",
        f"MLflow run `{result.mlflow_run_id}`, run `{result.run_id}`",
    ]
    create_markdown_artifact("\n".join(lines), key="ranking", description=str(result.day))


def _stages(result: DayResult | RankingDay | RankingResult) -> Sequence[str]:
    return [
        f"| {name} | {stage.seconds:.1f} | {stage.rows:,} | {'yes' if stage.cached else ''} |"
        for name, stage in result.stages.items()
    ]
