"""The checks: a day's table beside what was agreed and beside the days before, each with a limit and a way out."""

import datetime
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from pydantic import Field, PositiveInt

from recsys_core.artifacts import Frozen, Measurement
from recsys_core.contract.distances import jensen_shannon, population_stability_index
from recsys_core.contract.statistics import ColumnStatistics, PartitionStatistics
from recsys_core.contract.tables import Column

_NUM_BINS = 10
_NUM_CATEGORIES = 50


class _Check(Frozen):
    on_breach: Literal["stop", "warn"] = "warn"


class Schema(_Check):
    """Columns are those of the contract, and of the type that they had the day before."""

    allow_extra: bool = Field(default=False, description="whether a table may have columns that the contract lacks")


class RowCount(_Check):
    """Rows of the day over the median of the last days; null leaves a limit out."""

    minimum_ratio: float | None = Field(default=0.5, ge=0)
    maximum_ratio: float | None = Field(default=2.0, gt=0)


class NullRate(_Check):
    """Share of nulls; a column's own limit is in the contract's file."""

    maximum_increase: float | None = Field(default=0.05, ge=0, le=1, description="over the rate of the last days")


class LabelRate(_Check):
    """Mean of the columns tagged `label`."""

    maximum_change: float | None = Field(default=0.5, ge=0, description="from that of the last days, as a share of it")


class IdOverlap(_Check):
    """Share of the day's distinct users (items) that acted (were acted on) in the last days, too."""

    minimum_known_users: float | None = Field(default=0.05, ge=0, le=1)
    minimum_known_items: float | None = Field(default=0.2, ge=0, le=1)


class Range(_Check):
    """Least and greatest number; a column's own limits are in the contract's file."""

    maximum_excess: float | None = Field(
        default=1.0, ge=0, description="how far beyond those of the last days, as a share of their distance"
    )


class Finite(_Check):
    """NaN and infinities."""

    maximum_share: float | None = Field(default=0.0, ge=0, le=1)


class Drift(_Check):
    """How far a column's distribution is from that of the last days."""

    maximum_psi: float | None = Field(default=0.25, ge=0, description="population stability index, in nats")
    maximum_jensen_shannon: float | None = Field(default=None, ge=0, le=1, description="in bits")


class Empty(_Check):
    """A partition without rows, or a day without interactions."""


class Limits(Frozen):
    """Every check with its limits. The comparisons with the last days need enough of both, see the first three."""

    reference_days: PositiveInt = Field(default=7, description="how many days before a day it is compared with")
    minimum_days: PositiveInt = Field(default=3, description="with fewer days before it, a day is not compared")
    minimum_rows: PositiveInt = Field(
        default=1_000, description="smaller tables are not compared; chance alone would move their figures"
    )
    columns: Schema = Schema()
    row_count: RowCount = RowCount()
    null_rate: NullRate = NullRate()
    label_rate: LabelRate = LabelRate()
    id_overlap: IdOverlap = IdOverlap()
    range: Range = Range()
    finite: Finite = Finite()
    drift: Drift = Drift()
    empty: Empty = Empty()


class Subject(NamedTuple):
    """What is checked: a day's table, `before` it the same table's days with rows, newest last."""

    day: datetime.date
    table: str
    found: PartitionStatistics
    before: Sequence[tuple[datetime.date, PartitionStatistics]]
    agreed: Mapping[str, Column] | None
    tags: Mapping[str, tuple[str, ...]]


def measure(limits: Limits, subject: Subject) -> Iterator[Measurement]:
    """Yield every check that applies, held or not."""
    if not subject.found.rows:
        yield _measured(subject, None, "empty", limits.empty, 0, 1, "has no rows; write the partition again")
        return
    yield from _schema(limits.columns, subject)
    yield from _declared(limits, subject)
    days = subject.before[-limits.reference_days :]
    rows = [found.rows for _, found in days]
    if len(days) < limits.minimum_days or statistics.median(rows) < limits.minimum_rows:
        return
    yield from _row_count(limits.row_count, subject, statistics.median(rows))
    if subject.found.rows < limits.minimum_rows:
        return
    for name, column in subject.found.columns.items():
        reference = [found.columns[name] for _, found in days if name in found.columns]
        if reference:
            yield from _compared(limits, subject, name, column, reference)


def _schema(check: Schema, subject: Subject) -> Iterator[Measurement]:
    wrong: list[tuple[str, str]] = []
    if subject.agreed is not None:
        agreed, there = subject.agreed, subject.found.columns
        wrong += [(name, "is missing; the contract has it") for name in agreed if name not in there]
        if not check.allow_extra:
            wrong += [(name, "is not in the contract; add it there") for name in there if name not in agreed]
        wrong += [
            (name, f"is {there[name].type} where the contract says {agreed[name].type}; cast it or change the contract")
            for name in agreed
            if name in there and there[name].type != agreed[name].type
        ]
    if subject.before:
        day, last = subject.before[-1]
        wrong += [
            (name, f"is {column.type} on {subject.day} and was {last.columns[name].type} on {day}; write both alike")
            for name, column in subject.found.columns.items()
            if name in last.columns and last.columns[name].type != column.type
        ]
    for name, message in wrong:
        yield _measured(subject, name, "columns", check, None, None, message)
    if not wrong:
        message = "has the columns that it should have"
        yield _measured(subject, None, "columns", check, None, None, message, held=True)


def _declared(limits: Limits, subject: Subject) -> Iterator[Measurement]:
    """Check what needs no other day: the contract's own limits, and numbers that are none."""
    for name, column in subject.found.columns.items():
        agreed = (subject.agreed or {}).get(name)
        if agreed is not None and agreed.maximum_null_rate is not None and column.rows:
            rate, most = column.nulls / column.rows, agreed.maximum_null_rate
            message = f"is null in {rate:.2%} of the rows, the contract allows {most:.2%}; mend its source"
            yield _measured(subject, name, "null_rate", limits.null_rate, rate, most, message, held=rate <= most)
        if agreed is not None and agreed.minimum is not None and column.minimum is not None:
            message = f"has {column.minimum:g}, below the contract's minimum of {agreed.minimum:g}; mend its source"
            held = column.minimum >= agreed.minimum
            yield _measured(subject, name, "range", limits.range, column.minimum, agreed.minimum, message, held=held)
        if agreed is not None and agreed.maximum is not None and column.maximum is not None:
            message = f"has {column.maximum:g}, above the contract's maximum of {agreed.maximum:g}; mend its source"
            held = column.maximum <= agreed.maximum
            yield _measured(subject, name, "range", limits.range, column.maximum, agreed.maximum, message, held=held)
        most = limits.finite.maximum_share
        if most is not None and column.texts is None and column.values + column.bad:
            share = column.bad / (column.values + column.bad)
            message = f"is NaN or infinite in {share:.2%} of its values, at most {most:.2%} is allowed; make them null"
            yield _measured(subject, name, "finite", limits.finite, share, most, message, held=share <= most)


def _row_count(check: RowCount, subject: Subject, median: float) -> Iterator[Measurement]:
    ratio = subject.found.rows / median
    message = f"has {subject.found.rows:,} rows, {ratio:.2f} times the last days' median of {median:,.0f}"
    if check.minimum_ratio is not None:
        least = check.minimum_ratio
        way = f"{message}, at least {least:g} are wanted; is the partition complete?"
        yield _measured(subject, None, "row_count", check, ratio, least, way, held=ratio >= least)
    if check.maximum_ratio is not None:
        most = check.maximum_ratio
        way = f"{message}, at most {most:g} are allowed; is anything in it twice?"
        yield _measured(subject, None, "row_count", check, ratio, most, way, held=ratio <= most)


def _compared(
    limits: Limits, subject: Subject, name: str, column: ColumnStatistics, reference: list[ColumnStatistics]
) -> Iterator[Measurement]:
    tags = subject.tags.get(name, ())
    rows, values = sum(past.rows for past in reference), sum(past.values for past in reference)
    if limits.null_rate.maximum_increase is not None:
        rate, past, most = column.nulls / column.rows, sum(p.nulls for p in reference) / rows, limits.null_rate
        message = f"is null in {rate:.2%} of the rows, {past:.2%} in the last days; mend its source, or raise the limit"
        limit = past + limits.null_rate.maximum_increase
        yield _measured(subject, name, "null_rate", most, rate, limit, message, held=rate <= limit)
    change = limits.label_rate.maximum_change
    if "label" in tags and change is not None and column.mean is not None and values:
        past = sum((p.mean or 0.0) * p.values for p in reference) / values
        moved = abs(column.mean - past) / abs(past) if past else float(column.mean != past)
        message = f"is {column.mean:.4g} on average, {past:.4g} in the last days; are its events joined as before?"
        yield _measured(subject, name, "label_rate", limits.label_rate, moved, change, message, held=moved <= change)
    if "id" in tags:
        yield from _id_overlap(limits.id_overlap, subject, name, column, reference)
    if column.is_time or {"id", "time"} & set(tags) or not values or not column.values:
        return
    yield from _range(limits.range, subject, name, column, reference)
    expected, actual = bins(reference, column)
    for measure_of, word, most in (
        (population_stability_index, "population stability index", limits.drift.maximum_psi),
        (jensen_shannon, "Jensen-Shannon divergence", limits.drift.maximum_jensen_shannon),
    ):
        if most is not None:
            figure = measure_of(expected, actual)
            message = f"has drifted from the last days: {word} {figure:.3f}; look at both with `dayline data profile`"
            yield _measured(subject, name, "drift", limits.drift, figure, most, message, held=figure <= most)


def _id_overlap(
    check: IdOverlap, subject: Subject, name: str, column: ColumnStatistics, reference: list[ColumnStatistics]
) -> Iterator[Measurement]:
    user = "user" in subject.tags[name]
    least = check.minimum_known_users if user else check.minimum_known_items
    if least is None or column.ids is None:
        return
    known = known_share(column, reference)
    whose = "users" if user else "items"
    message = f"{known:.2%} of the day's {whose} were there in the last days; are its ids made as before?"
    yield _measured(subject, name, "id_overlap", check, known, least, message, held=known >= least)


def _range(
    check: Range, subject: Subject, name: str, column: ColumnStatistics, reference: list[ColumnStatistics]
) -> Iterator[Measurement]:
    ends = [(p.minimum, p.maximum) for p in reference if p.minimum is not None and p.maximum is not None]
    if check.maximum_excess is None or not ends or column.minimum is None or column.maximum is None:
        return
    least, most = min(low for low, _ in ends), max(high for _, high in ends)
    beyond = max(least - column.minimum, column.maximum - most, 0.0)
    width = most - least
    excess = beyond / width if width else beyond / max(abs(most), 1.0)
    message = (
        f"runs from {column.minimum:g} to {column.maximum:g}, in the last days from {least:g} to {most:g}; "
        "has its unit changed?"
    )
    held = excess <= check.maximum_excess
    yield _measured(subject, name, "range", check, excess, check.maximum_excess, message, held=held)


def known_share(column: ColumnStatistics, reference: Sequence[ColumnStatistics]) -> float:
    """Return which share of a day's distinct ids occurs in `reference`, by the ids that all days have sampled."""
    assert column.ids is not None
    samples = [past.ids for past in reference if past.ids is not None]
    highest = np.uint64(min(sample.highest for sample in (column.ids, *samples)))
    hashes = column.ids.values()
    hashes = hashes[hashes <= highest]
    if not len(hashes):
        return 0.0
    return float(np.isin(hashes, np.concatenate([sample.values() for sample in samples])).mean()) if samples else 0.0


def bins(reference: Sequence[ColumnStatistics], column: ColumnStatistics) -> tuple[np.ndarray, np.ndarray]:
    """Return counts [K] of `reference`, all days together, and of `column`; nulls and the like are a bin of their own.

    Numbers of up to ten values have one bin each and one for others, more have bins between the reference's deciles.
    Texts have one each for the reference's 50 most frequent, and one for all others.
    """
    missing = [sum(past.nulls + past.bad for past in reference), column.nulls + column.bad]
    if column.texts is not None:
        pooled: dict[str, int] = {}
        for past in reference:
            for text, count in (past.texts or {}).items():
                pooled[text] = pooled.get(text, 0) + count
        names = sorted(pooled, key=lambda text: (-pooled[text], text))[:_NUM_CATEGORIES]
        counted = [np.array([pooled[name] for name in names]), np.array([column.texts.get(name, 0) for name in names])]
        totals = [sum(past.values for past in reference), column.values]
        both = [np.append(counts, total - counts.sum()) for counts, total in zip(counted, totals, strict=True)]
    else:
        points = [np.concatenate([np.array(past.points) for past in reference]), np.array(column.points)]
        counts = [np.concatenate([np.array(past.counts) for past in reference]), np.array(column.counts)]
        both = [
            _binned(points[0], counts[0], points[0], counts[0]),
            _binned(points[0], counts[0], points[1], counts[1]),
        ]
    return np.append(both[0], missing[0]), np.append(both[1], missing[1])


def _binned(points: np.ndarray, counts: np.ndarray, values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Count `values` in the bins that the reference's `points` and their `counts` give."""
    distinct = np.unique(points)
    if len(distinct) <= _NUM_BINS:
        place = np.searchsorted(distinct, values)
        other = (place == len(distinct)) | (distinct[np.minimum(place, len(distinct) - 1)] != values)
        return np.bincount(np.where(other, len(distinct), place), weights=weights, minlength=len(distinct) + 1)
    order = np.argsort(points, kind="stable")
    below = np.cumsum(counts[order])
    levels = np.arange(1, _NUM_BINS) * below[-1] / _NUM_BINS
    edges = np.unique(points[order][np.searchsorted(below, levels)])
    return np.bincount(np.searchsorted(edges, values), weights=weights, minlength=len(edges) + 1)


def _measured(
    subject: Subject,
    column: str | None,
    name: str,
    check: _Check,
    figure: float | None,
    limit: float | None,
    message: str,
    *,
    held: bool = False,
) -> Measurement:
    place = f"{subject.table}.{column}" if column else subject.table
    remedy = f"; contract.{name} has the limit" if figure is not None and not held else ""
    return Measurement(
        day=subject.day,
        table=subject.table,
        column=column,
        check=name,
        figure=figure,
        limit=limit,
        held=held,
        stops=check.on_breach == "stop",
        message=f"{subject.day} {place} {message}" + (f" (limit {limit:.4g}{remedy})" if limit is not None else ""),
    )
