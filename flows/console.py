"""What a person at a terminal sees: bars that move and a table on stderr and stdout, and one line for an error."""

import contextlib
import datetime
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from recsys_core.progress import Event, Sink

if TYPE_CHECKING:
    from tasks.report import DayResult
    from tasks.report_ranking import RankingResult
    from tasks.report_ranking_day import RankingDay

_LINE_SECONDS = 10.0


@contextlib.contextmanager
def progress() -> Iterator[Sink]:
    """Show the stages' events on stderr: a bar for each on a terminal, lines otherwise."""
    # What stands in brackets is a type, such as timestamp[ms], or part of a file's name.
    console = Console(stderr=True, highlight=False, markup=False)
    if not console.is_terminal:
        yield _Lines(console)
        return
    columns = (
        TextColumn("{task.description:>14}"),
        BarColumn(),
        TextColumn("{task.fields[count]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=console) as bars:
        yield _Bars(bars)


def table(results: "Sequence[DayResult | RankingDay | RankingResult]") -> None:
    """Print one row per run on stdout."""
    from tasks.report import DayResult
    from tasks.report_ranking_day import RankingDay

    if days := [result for result in results if isinstance(result, DayResult)]:
        days_table(days)
    if ranked := [result for result in results if isinstance(result, RankingDay)]:
        ranking_days_table(ranked)
    for result in results:
        if not isinstance(result, DayResult | RankingDay):
            ranking_table(result)


def ranking_days_table(results: Sequence["RankingDay"]) -> None:
    """Print one row per day on stdout: the model's AUC beside what it must beat, on the same held-out rows."""
    baselines = list(results[0].metrics.baselines)
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption="AUC of the held-out rows, and other figures of them")
    figures = ("AUC", "live model", *(name.replace("_", " ") for name in baselines), "logloss", "NE", "calibration")
    for name in ("day", "rows", "examples/s", "loss", *figures, "gate"):
        shown.add_column(name, justify="left" if name in ("day", "gate") else "right", no_wrap=True)
    shown.add_column("release", no_wrap=True)
    for result in results:
        metrics = result.metrics
        aucs = [metrics.auc, metrics.champion.auc if metrics.champion else None]
        aucs += [metrics.baselines[name].auc for name in baselines]
        shown.add_row(
            str(result.day),
            f"{metrics.num_examples:,}",
            f"{metrics.examples_per_second:,.0f}",
            f"{metrics.loss:.4f}",
            *(_figure(auc) for auc in aucs),
            *(_figure(value) for value in (metrics.logloss, metrics.normalized_entropy, metrics.calibration)),
            *_outcome(result),
        )
    on_stdout(shown)


def _outcome(result: "DayResult | RankingDay") -> tuple[str, str]:
    release = f"v{result.release} {result.decision}" if result.release else "none"
    return "passed" if result.gate.passed else "rejected", release


def ranking_table(result: "RankingResult") -> None:
    """Print a ranking run's figures on stdout."""
    found = result.metrics
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption=f"on the {found.num_rows:,} rows of {result.split}")
    figures = {
        "day": str(result.day),
        "train rows": f"{result.num_examples:,}",
        "examples/s": f"{result.examples_per_second:,.0f}",
        "loss": f"{result.loss:.4f}",
        "AUC": _figure(found.auc),
        "GAUC": _figure(found.gauc),
        "accuracy": _figure(found.accuracy),
        "logloss": _figure(found.logloss),
        "NE": _figure(found.normalized_entropy),
        "calibration": _figure(found.calibration),
        **{kind.replace("_", " "): _figure(value) for kind, value in found.others.items()},
    }
    for name in figures:
        shown.add_column(name, justify="left" if name == "day" else "right", no_wrap=True)
    shown.add_row(*figures.values())
    on_stdout(shown)


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def days_table(results: Sequence["DayResult"], k: str | None = None) -> None:
    """Print one row per day on stdout; the hit rates are those of `k`, by default the middle one that was measured."""
    ks = list(results[0].metrics.hit_rate)
    k = k or ks[len(ks) // 2]
    shown = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, caption=f"hit rate@{k}; the model's by exact search and by the index"
    )
    baselines = ["popularity", *results[0].metrics.baselines.of_log]
    for name in ("day", "rows", "examples/s", "loss", "exact", "approximate", *baselines, "gate"):
        shown.add_column(name, justify="left" if name in ("day", "gate") else "right", no_wrap=True)
    shown.add_column("release", no_wrap=True)
    for result in results:
        metrics = result.metrics
        rates = (
            metrics.hit_rate[k],
            metrics.approximate_hit_rate[k],
            metrics.baselines.popularity[k],
            *(found and found[k] for found in metrics.baselines.of_log.values()),
        )
        shown.add_row(
            str(result.day),
            f"{metrics.num_examples:,}",
            f"{metrics.examples_per_second:,.0f}",
            f"{metrics.loss:.3f}",
            *("no log" if rate is None else f"{rate:.4f}" for rate in rates),
            *_outcome(result),
        )
    on_stdout(shown)


def on_stdout(shown: Table) -> None:
    """Print a table whole: a narrow terminal breaks its lines, and a pipe has no width."""
    width = Measurement.get(Console(width=1_000), Console(width=1_000).options, shown).maximum
    Console(highlight=False, width=max(width, Console().width)).print(shown)


class _Lines:
    """Plain lines: a stage's beginning, its end, and now and then between."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._next: dict[str, float] = {}

    def __call__(self, event: Event) -> None:
        now = time.monotonic()
        if now >= self._next.get(event.stage, now) or _ended(event) or _is_notice(event):
            self._next[event.stage] = now + _LINE_SECONDS
            self._console.print(_line(event), soft_wrap=True)


class _Bars:
    """A bar for each stage that is being done, and a line for each that has been."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._open: dict[str, TaskID] = {}

    def __call__(self, event: Event) -> None:
        if _ended(event) or _is_notice(event):
            if event.stage in self._open:
                self._bars.remove_task(self._open.pop(event.stage))
            self._bars.console.print(_line(event))
            return
        if event.stage not in self._open:
            self._open[event.stage] = self._bars.add_task(event.stage, total=None, count="", note="")
        shown = {"count": _count(event)} | ({"note": note} if (note := _note(event)) else {})
        self._bars.update(self._open[event.stage], completed=event.done, total=event.total, **shown)  # pyright: ignore[reportArgumentType] - rich's own fields


def _line(event: Event) -> str:
    return f"{event.stage}: {', '.join(filter(None, (_count(event), _line_note(event))))}"


def _ended(event: Event) -> bool:
    return event.message is not None and event.message.startswith(("done", "failed", "stopped"))


def _is_notice(event: Event) -> bool:
    return event.message is not None and event.message.startswith(("warning", "waiting", "plan"))


def _count(event: Event) -> str:
    if not event.done and not event.total:
        return ""
    total = f"/{event.total:,}" if event.total is not None and event.total != event.done else ""
    speed = event.metrics.get("examples_per_second") or event.metrics.get("rows_per_second")
    return f"{event.done:,}{total} {event.unit}" + (f" ({speed:,.0f}/s)" if speed else "")


def _line_note(event: Event) -> str:
    """Return a line's note, and how long the rest takes; on a terminal the bar shows that."""
    left = event.seconds_left
    return ", ".join(filter(None, (_note(event), f"{datetime.timedelta(seconds=round(left))} left" if left else "")))


def _note(event: Event) -> str:
    metrics = event.metrics
    parts = [
        f"loss {metrics['loss']:.3f}" if "loss" in metrics else "",
        f"waits {metrics['data_wait_share']:.0%}" if "data_wait_share" in metrics else "",
        f"{metrics['memory_bytes'] / 1e9:.1f} GB" if "memory_bytes" in metrics else "",
        event.message,
    ]
    return ", ".join(filter(None, parts))
