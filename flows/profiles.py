"""What `dayline data profile` prints: a line for the table, and a row for each column."""

from rich import box
from rich.markup import escape
from rich.table import Table

from flows import console
from recsys_core.profile import ColumnProfile, TableProfile

_MAX_TEXT = 24
_NUM_TOP = 3
_UNITS = ("B", "kB", "MB", "GB", "TB")


def show(profile: TableProfile) -> None:
    """Print the profile on stdout."""
    console.on_stdout(_table(profile))


def _table(profile: TableProfile) -> Table:
    read = "" if profile.sampled_rows == profile.rows else f", {profile.sampled_rows:,} of them looked at"
    size = f", {_size(profile.bytes)}" if profile.bytes is not None else ""
    title = f"{profile.source}: {profile.rows:,} rows{read}{size} in {profile.files} files"
    shown = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, title=escape(title), title_justify="left", caption=_notes(profile)
    )
    left = ("column", "type", "most frequent", "length", "tags: why")
    for name in ("column", "type", "null", "distinct", "min", "median", "max", "mean ± std", "zero", *left[2:]):
        shown.add_column(name, justify="left" if name in left else "right", no_wrap=True)
    for name, column in profile.columns.items():
        shown.add_row(*(escape(cell) for cell in _cells(name, column)))
    return shown


def _cells(name: str, column: ColumnProfile) -> tuple[str, ...]:
    approximate = "~" if column.distinct_error else ""
    odd = [f"{count:,} {what}" for what, count in (("NaN", column.nans), ("inf", column.infinities)) if count]
    return (
        name,
        column.type,
        f"{column.nulls / column.rows:.1%}" if column.nulls else "",
        "" if column.distinct is None else f"{approximate}{column.distinct:,}",
        _value(column.min),
        _value(column.quantiles.get("0.5")),
        _value(column.max),
        f"{column.mean:,.4g} ± {column.std:,.4g}" if column.mean is not None and column.std is not None else "",
        ", ".join(filter(None, (f"{column.zeros:,}" if column.zeros else "", *odd))),
        ", ".join(f"{_value(top.value)} {top.share:.1%}" for top in column.top[:_NUM_TOP]),
        f"{column.lengths.min} to {column.lengths.max}, mean {column.lengths.mean:.1f}" if column.lengths else "",
        f"{' '.join(column.tags)}: {column.reason}",
    )


def _notes(profile: TableProfile) -> str:
    lines = []
    for key, rows in profile.partitions.items():
        counts = sorted(rows.values())
        ends = f"{min(rows)} to {max(rows)}"
        lines.append(f"{key}: {len(rows)} partitions, {ends}, {counts[0]:,} to {counts[-1]:,} rows each")
    columns = profile.columns.values()
    if error := max((column.distinct_error for column in columns), default=0.0):
        lines.append(f"~: estimated, standard error {error:.1%}")
    if error := max((column.quantile_error for column in columns), default=0.0):
        lines.append(f"quantiles: within {error:.3%} of the rank")
    if error := max((column.top_error for column in columns), default=0):
        lines.append(f"counts of frequent values: at most {error:,} too low")
    return escape("\n".join(lines))


def _value(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return "" if value is None else str(value).lower()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return f"{value:.5g}"
    text = str(value)
    return text if len(text) <= _MAX_TEXT else f"{text[: _MAX_TEXT - 1]}…"


def _size(num_bytes: float) -> str:
    for unit in _UNITS[:-1]:
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.3g} {_UNITS[-1]}"
