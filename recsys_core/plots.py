"""Pictures of a day and of a backfill, one function each, from the records alone.

A colour means the same in every picture, and lines differ in their markers too, for colour-blind readers.
"""

import itertools
from collections.abc import Mapping, Sequence

import pyarrow.parquet as pq
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from recsys_core.artifacts import (
    Checkpoint,
    Evaluation,
    IndexRecall,
    LabelledMetrics,
    RankingEvaluation,
    RetrievalMetrics,
)

_SIZE_INCHES = (8.0, 4.5)
_GREY = "#8a8a8a"
# By Evaluation's field: label, colour, marker.
_CONTENDERS = {
    "exact": ("two-tower, exact search", "#1f5fa8", "o"),
    "approximate": ("two-tower, approximate search", "#4fa3d9", "s"),
    "champion": ("live model, exact search", "#d9822b", "D"),
    "item_item": ("item-item baseline", "#3d9970", "^"),
    "ease": ("EASE", "#b5651d", "X"),
    "markov": ("Markov baseline", "#8e5ea2", "P"),
    "recent_popularity": ("popularity of the last days", "#5a5a5a", "<"),
    "popularity": ("popularity of the whole log", _GREY, "v"),
}
_SHADES = ("#9ecae1", "#4fa3d9", "#1f5fa8", "#0b2f5c")


def loss_curve(checkpoint: Checkpoint, loss_name: str) -> Figure:
    """Training loss, and examples per second, against examples seen."""
    curve = pq.read_table(checkpoint.path / "curve.parquet")
    examples, loss, speed = (curve[name].to_numpy() for name in ("examples", "loss", "examples_per_second"))
    start = "random weights" if checkpoint.warm_started_from is None else "the last release"
    figure, axes = _figure(
        f"Training loss, {checkpoint.day}",
        f"{checkpoint.num_steps:,} steps of {checkpoint.num_ranks} rank(s) from {start}, end at {checkpoint.loss:.3f}",
    )
    axes.plot(examples, loss, color=_CONTENDERS["exact"][1], marker=None if len(examples) > 30 else "o", label="loss")
    axes.set(xlabel="examples seen", ylabel=loss_name)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    right = axes.twinx()
    right.plot(examples, speed, color=_GREY, linewidth=0.8, alpha=0.7, label="examples/s (right)")
    right.set_ylabel("examples per second", color=_GREY)
    right.set_ylim(bottom=0)
    right.yaxis.set_major_formatter(EngFormatter(sep=""))
    right.tick_params(axis="y", colors=_GREY)
    right.spines[["top", "left"]].set_visible(False)
    lines = [*axes.get_lines(), *right.get_lines()]
    axes.legend(lines, [str(line.get_label()) for line in lines], loc="center right")
    return figure


def hit_rate_by_k(evaluation: Evaluation) -> Figure:
    """Hit rate against K: exact, approximate, the live model, and the baselines."""
    figure, axes = _figure(f"Hit rate by K on {evaluation.ground_truth_day}", _protocol(evaluation))
    rankings = _rankings(evaluation)
    ks = _ks(rankings["exact"].hit_rate)
    for name, ranking in rankings.items():
        label, colour, marker = _CONTENDERS[name]
        style = "--" if name == "approximate" else "-"
        rates = [ranking.hit_rate[str(k)] for k in ks]
        axes.plot(range(len(ks)), rates, style, color=colour, marker=marker, label=label)
        if name in ("exact", "popularity"):
            for position, rate in enumerate(rates):
                shift = (0, 8) if name == "exact" else (0, -15)
                axes.annotate(
                    f"{rate:.3f}",
                    (position, rate),
                    shift,
                    textcoords="offset points",
                    ha="center",
                    color=colour,
                    fontsize=9,
                )
    axes.set_xticks(range(len(ks)), [str(k) for k in ks])
    axes.set(xlabel="K (items recommended)", ylabel="hit rate (hits ÷ ground-truth items)")
    _share(axes, at_least=max(rankings["exact"].hit_rate.values()))
    axes.margins(x=0.08)
    axes.legend(loc="upper left")
    return figure


def hit_rate_by_popularity(evaluation: Evaluation) -> Figure:
    """Hit rate of ground-truth items that are rare, common, … in the training log."""
    buckets = evaluation.hit_rate_by_popularity
    figure, axes = _figure(f"Hit rate by popularity of the item, {evaluation.ground_truth_day}", _protocol(evaluation))
    bars = axes.bar(range(len(buckets)), list(buckets.values()), color=_CONTENDERS["exact"][1], width=0.7)
    axes.bar_label(bars, labels=[f"{rate:.3f}" for rate in buckets.values()], padding=3, fontsize=9)
    axes.set_xticks(range(len(buckets)), list(buckets))
    axes.set(xlabel="interactions of the item in the training log", ylabel="hit rate (hits ÷ ground-truth items)")
    _share(axes, at_least=max(buckets.values(), default=0.0))
    return figure


def ann_recall(evaluation: Evaluation, parameter: str) -> Figure:
    """Overlap with exact search against what the index visits; `parameter` is its name (`nprobe`, `ef_search`)."""
    sweep = sorted((int(value), recalls) for value, recalls in evaluation.ann_recall_by_nprobe.items())
    figure, axes = _figure(f"ANN recall against {parameter}, {evaluation.ground_truth_day}", _protocol(evaluation))
    ks = _ks(evaluation.ann_recall)
    for k, shade, marker in zip(ks, _spread(len(ks)), "osD^v" * len(ks), strict=False):
        recalls = [recall[str(k)] for _, recall in sweep]
        axes.plot([value for value, _ in sweep], recalls, color=shade, marker=marker, label=f"K = {k}")
    axes.axhline(1.0, color=_GREY, linewidth=0.8, linestyle=":")
    axes.set_xscale("log", base=2)
    axes.set_xticks([value for value, _ in sweep], [str(value) for value, _ in sweep])
    axes.minorticks_off()
    axes.set(xlabel=f"{parameter} (more is slower)", ylabel="ANN recall@K (overlap with exact top K)")
    _share(axes, at_least=1.0)
    axes.legend(loc="lower right")
    return figure


def recall(measured: IndexRecall, layout: str) -> Figure:
    """ANN recall against how much a search visits, as it was measured at each K, and what was chosen."""
    named = "queries" if measured.parameter is None else measured.parameter
    figure, axes = _figure(f"ANN recall of {layout}", measured.reason)
    values = [point.value or 1 for point in measured.points]
    for k, shade, marker in zip(measured.ks, _spread(len(measured.ks)), "sD^v" * len(measured.ks), strict=False):
        axes.plot(
            values, [point.by_k[str(k)] for point in measured.points], color=shade, marker=marker, label=f"K = {k}"
        )
    if measured.value is not None:
        axes.plot([measured.value], [measured.ann_recall], "o", color=_CONTENDERS["exact"][1], label="chosen")
        axes.set_xscale("log", base=2)
        axes.set_xticks(values, [str(value) for value in values])
        axes.minorticks_off()
    axes.axhline(1.0, color=_GREY, linewidth=0.8, linestyle=":")
    axes.set(xlabel=f"{named} (more is slower)", ylabel="ANN recall (overlap with exact top K)")
    _share(axes, at_least=1.0)
    axes.legend(loc="lower right")
    return figure


def roc(evaluation: RankingEvaluation) -> Figure:
    """True against false positive rate; the area below is the AUC."""
    figure, axes = _figure(f"ROC curve of {evaluation.split}", _measured(evaluation))
    points = pq.read_table(evaluation.path / "roc.parquet")
    axes.plot(points["false_positives"], points["true_positives"], color=_CONTENDERS["exact"][1], label="model")
    axes.plot([0, 1], [0, 1], ":", color=_GREY, label="chance")
    axes.set(
        xlabel="negatives above the threshold", ylabel="positives above the threshold", xlim=(0, 1), ylim=(0, 1.02)
    )
    axes.legend(loc="lower right")
    return figure


def calibration(evaluation: RankingEvaluation) -> Figure:
    """Share of positives (or mean label) against mean prediction, in bins of equally many rows."""
    figure, axes = _figure(f"Calibration on {evaluation.split}", _measured(evaluation))
    points = pq.read_table(evaluation.path / "calibration.parquet")
    axes.plot(points["predicted"], points["observed"], color=_CONTENDERS["exact"][1], marker="o", label="model")
    if evaluation.metrics.logloss is None:
        most = max(points["predicted"].to_numpy().max(), points["observed"].to_numpy().max())
        axes.plot([0, most], [0, most], ":", color=_GREY, label="as predicted")
        axes.set(xlabel="mean predicted value", ylabel="mean label")
    else:
        axes.plot([0, 1], [0, 1], ":", color=_GREY, label="as predicted")
        axes.set(xlabel="mean predicted probability", ylabel="share of positives", xlim=(0, 1), ylim=(0, 1.02))
    axes.legend(loc="upper left")
    return figure


def differences(evaluation: Evaluation | RankingEvaluation, metric: str) -> Figure:
    """How far the model is from the live one by each metric, and by `metric` (`auc`, `hit_rate@50`) on each slice.

    A share of the live model's figure, with the interval of the paired bootstrap; hollow where there is none.
    """
    assert evaluation.champion is not None, "there are differences to a champion only"
    found = [(name, name, evaluation.champion, difference) for name, difference in evaluation.differences.items()]
    found += [
        (f"{metric} of {name}", metric, part.champion, part.differences[metric])
        for name, part in evaluation.slices.items()
        if part.champion is not None and metric in part.differences
    ]
    figure, axes = _figure("Difference to the live model", "on the same rows, with intervals by paired bootstrap")
    colour = _CONTENDERS["champion"][1]
    for row, (_, name, champion, difference) in enumerate(found):
        if not (base := abs(_figure_of(champion, name) or 0)):
            continue
        fill = "white"
        if difference.low is not None and difference.high is not None:
            axes.plot([100 * difference.low / base, 100 * difference.high / base], [row, row], color=colour)
            fill = colour
        axes.plot([100 * difference.value / base], [row], "D", color=colour, markerfacecolor=fill)
    axes.axvline(0, color=_GREY, linestyle=":")
    axes.set_yticks(range(len(found)), [label for label, *_ in found], fontsize=8)
    axes.set_ylim(len(found) - 0.5, -0.5)
    axes.set(xlabel="% of the live model's figure", ylabel="metric")
    return figure


def _figure_of(metrics: RetrievalMetrics | LabelledMetrics, name: str) -> float | None:
    """Return the figure that `name` stands for, such as `auc` or `hit_rate@50`."""
    if isinstance(metrics, LabelledMetrics):
        return metrics.figures().get(name)
    metric, _, k = name.partition("@")
    return getattr(metrics, metric)[k]


def _measured(evaluation: RankingEvaluation) -> str:
    found = evaluation.metrics
    if found.logloss is None:
        errors = ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in found.others.items() if value)
        return f"{found.num_rows:,} rows; {errors}"
    auc = "no AUC" if found.auc is None else f"AUC {found.auc:.4f}"
    return f"{found.num_rows:,} rows, {found.num_positives:,} positive; {auc}, logloss {found.logloss:.4f}"


def _figure(title: str, subtitle: str) -> tuple[Figure, Axes]:
    """Return an empty picture, without pyplot: its global state is no friend of threads, and keeps figures alive."""
    figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    figure.suptitle(title, x=0.02, ha="left", fontsize=14, fontweight="bold")
    axes.set_title(subtitle, loc="left", fontsize=9, color="#555555")
    axes.grid(axis="y", color="#e3e3e3", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def search_history(values: Sequence[tuple[int, float, bool]], metric: str, direction: str) -> Figure:
    """Each trial's value, as (number, value, whether it ran to its end), and the best until then."""
    figure, axes = _figure(f"Search by {metric}", f"{len(values)} trials, to {direction}")
    better = max if direction == "maximize" else min
    whole = [(number, value) for number, value, is_whole in values if is_whole]
    pruned = [(number, value) for number, value, is_whole in values if not is_whole]
    best = list(itertools.accumulate((value for _, value in whole), better))
    axes.plot([number for number, _ in whole], best, color=_CONTENDERS["exact"][1], label="best until then")
    for label, points, colour, marker in (
        ("trial", whole, _CONTENDERS["approximate"][1], "o"),
        ("ended early", pruned, _GREY, "x"),
    ):
        axes.scatter(
            [number for number, _ in points], [value for _, value in points], c=colour, marker=marker, label=label
        )
    axes.set(xlabel="trial", ylabel=metric)
    axes.legend(loc="best")
    return figure


def search_importances(importances: Mapping[str, float], metric: str) -> Figure:
    """How much of the metric's variation over the trials each key explains, the most important first."""
    figure, axes = _figure("What the searched keys matter", f"share of the variation of {metric} that each explains")
    keys = sorted(importances, key=lambda key: importances[key])
    bars = axes.barh(range(len(keys)), [importances[key] for key in keys], color=_CONTENDERS["exact"][1])
    axes.bar_label(bars, labels=[f"{importances[key]:.0%}" for key in keys], padding=3, fontsize=9)
    axes.set_yticks(range(len(keys)), keys)
    axes.set(xlabel="share", xlim=(0, 1.1))
    return figure


def _rankings(evaluation: Evaluation) -> dict[str, RetrievalMetrics]:
    found = {name: getattr(evaluation, name) for name in _CONTENDERS}
    return {name: ranking for name, ranking in found.items() if ranking is not None}


def _protocol(evaluation: Evaluation) -> str:
    return (
        f"{evaluation.num_queries:,} queries, {evaluation.num_ground_truth:,} ground-truth items, "
        f"{evaluation.num_items:,} items ranked"
    )


def _ks(by_k: Mapping[str, float]) -> list[int]:
    return sorted(int(k) for k in by_k)


def _share(axes: Axes, *, at_least: float) -> None:
    """Let the axis of a share start at zero, with room above the highest value."""
    axes.set_ylim(0, max(at_least, 0.001) * 1.15 if at_least < 1 else 1.05)


def _spread(number: int) -> list[str]:
    """Return shades from light to dark, the darkest last."""
    return [_SHADES[min(len(_SHADES) - 1, round(i * (len(_SHADES) - 1) / max(1, number - 1)))] for i in range(number)]
