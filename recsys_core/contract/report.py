"""The outcome of a check for people: Markdown for a page, a picture for MLflow."""

import datetime
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import pyarrow.parquet as pq

from recsys_core.artifacts import DataCheck, Measurement

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOUR, _BREACH, _GREY = "#1f5fa8", "#d9822b", "#8a8a8a"
_MAX_BARS = 24


class Group(NamedTuple):
    """The breaches of one check of one column: the newest stands for all."""

    newest: Measurement
    num_days: int


def grouped(breaches: Sequence[Measurement]) -> list[Group]:
    """Return one entry per check, table and column; those that stop come first, then the newest."""
    groups: dict[tuple[str, str, str | None], list[Measurement]] = {}
    for breach in breaches:
        groups.setdefault((breach.check, breach.table, breach.column), []).append(breach)
    found = [
        Group(max(group, key=lambda breach: breach.day), len({breach.day for breach in group}))
        for group in groups.values()
    ]
    return sorted(found, key=lambda group: (not group.newest.stops, -group.newest.day.toordinal()))


def sentences(check: DataCheck) -> list[str]:
    """Return what did not hold, in words."""
    return [
        group.newest.message + (f" (and on {group.num_days - 1} days before)" if group.num_days > 1 else "")
        for group in grouped(check.breaches)
    ]


def summary(day: datetime.date, first: datetime.date, found: Sequence[Measurement]) -> str:
    """Return the report as Markdown: what did not hold, then the figures of the last day."""
    breaches = [measurement for measurement in found if not measurement.held]
    lines = [
        f"## Data of {first} to {day}: {len(found):,} checks, {len(breaches):,} did not hold",
        "",
        *(
            f"- **{'stop' if group.newest.stops else 'warning'}**: {_cell(group.newest.message)}"
            + (f" (and on {group.num_days - 1} days before)" if group.num_days > 1 else "")
            for group in grouped(breaches)
        ),
        "",
        "| table | column | check | figure | limit | held |",
        "|---|---|---|---|---|---|",
        *(
            f"| {_cell(m.table)} | {_cell(m.column or '')} | {m.check} | {_number(m.figure)} | {_number(m.limit)} "
            f"| {'yes' if m.held else 'NO'} |"
            for m in found
            if m.day == day
        ),
    ]
    return "\n".join(lines) + "\n"


def figure(check: DataCheck) -> "Figure":
    """Draw the drift of the last day's columns against its limit, and how many checks failed on each day."""
    # Only where something is drawn: it takes most of a second to import.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = pq.read_table(check.measurements).to_pylist()
    drawn = Figure(figsize=(9.0, 5.0), layout="constrained")
    FigureCanvasAgg(drawn)
    drawn.suptitle(f"Data of {check.day}: {len(rows):,} checks, {len(check.breaches):,} did not hold", fontsize=12)
    left, right = drawn.subplots(1, 2)
    last = [row for row in rows if row["day"] == check.day and row["check"] == "drift"]
    last = sorted(last, key=lambda row: row["figure"])[-_MAX_BARS:]
    if last:
        colours = [_COLOUR if row["held"] else _BREACH for row in last]
        left.barh([f"{row['table']}.{row['column']}" for row in last], [row["figure"] for row in last], color=colours)
        left.axvline(last[-1]["limit"], color=_GREY, linestyle=":", label="limit")
        left.legend(loc="lower right")
    else:
        left.text(0.5, 0.5, "too few days to compare", ha="center", va="center", color=_GREY, transform=left.transAxes)
    left.set(title="drift of the last day's columns", xlabel="distance from the days before")
    days = sorted({row["day"] for row in rows})
    failed = [sum(not row["held"] for row in rows if row["day"] == day) for day in days]
    right.bar(range(len(days)), failed, color=_BREACH)
    ticks = sorted({0, len(days) // 2, len(days) - 1})
    right.set_xticks(ticks, [str(days[tick]) for tick in ticks])
    right.set(title="checks that did not hold", ylim=(0, max(failed, default=0) + 1))
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    return drawn


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
