"""A profile as a picture: one small plot per column, from the record alone."""

import base64
import html
import io
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from recsys_core.artifacts import write_text
from recsys_core.profile.records import ColumnProfile, Lengths, TableProfile

_COLOUR, _GREY = "#1f5fa8", "#8a8a8a"
_ACROSS = 4
_MAX_LABEL = 18
_NUM_TOP = 8
_SUFFIXES = (".png", ".html")


def refuse_other_suffix(path: Path) -> None:
    """Refuse a path that `save` cannot write.

    Raises:
        ValueError: it does not end in .png or .html.
    """
    if path.suffix not in _SUFFIXES:
        raise ValueError(f"{path}: a plot is written as {' or '.join(_SUFFIXES)}; name the file so")


def save(profile: TableProfile, path: Path) -> None:
    """Write the picture, or a page of its own with the picture and a table, by the suffix of `path`.

    Raises:
        ValueError: another suffix than .png or .html.
    """
    refuse_other_suffix(path)
    picture = io.BytesIO()
    figure(profile).savefig(picture, format="png", dpi=110)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        path.write_bytes(picture.getvalue())
    else:
        write_text(path, _page(profile, picture.getvalue()))


def figure(profile: TableProfile) -> Figure:
    """Return a histogram for numbers, the top values for texts, the lengths of lists."""
    columns = profile.columns
    across = min(_ACROSS, max(1, len(columns)))
    down = -(-len(columns) // across)
    drawn = Figure(figsize=(3.4 * across, 2.5 * down + 0.6), layout="constrained")
    FigureCanvasAgg(drawn)
    drawn.suptitle(f"{profile.source}: {profile.sampled_rows:,} of {profile.rows:,} rows", fontsize=11)
    for place, (name, column) in enumerate(columns.items(), start=1):
        axes = drawn.add_subplot(down, across, place)
        axes.set_title(f"{_short(name, 28)} ({_short(column.type, 22)})", fontsize=9)
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
        _draw(axes, column)
    return drawn


def _draw(axes: Axes, column: ColumnProfile) -> None:
    is_list = column.lengths is not None and column.type.startswith(("list", "large_list", "fixed_size_list"))
    if is_list and column.lengths is not None:
        _lengths(axes, column.lengths)
    elif column.histogram is not None and column.zeros is not None and (column.distinct or 0) > 2:
        edges, counts = column.histogram.edges, column.histogram.counts
        axes.stairs(counts, edges, fill=True, color=_COLOUR)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.yaxis.set_major_formatter(EngFormatter(sep=""))
        axes.set_xlabel("value", fontsize=8)
    elif column.histogram is not None and not column.top:
        axes.stairs(column.histogram.counts, column.histogram.edges, fill=True, color=_COLOUR)
        axes.set_xticks([], [])
        axes.set_xlabel(f"{column.min} to {column.max}", fontsize=7)
    elif column.top:
        shown = column.top[:_NUM_TOP]
        axes.barh(range(len(shown)), [100 * top.share for top in shown], color=_COLOUR)
        axes.set_yticks(range(len(shown)), [_short(str(top.value), _MAX_LABEL) for top in shown])
        axes.invert_yaxis()
        axes.set_xlabel("% of values", fontsize=8)
    else:
        message = "all different" if column.values else "no values"
        axes.text(0.5, 0.5, message, ha="center", va="center", color=_GREY, transform=axes.transAxes)
        axes.set_xticks([], [])
        axes.set_yticks([], [])
    if column.nulls:
        share = f"{column.nulls / column.rows:.1%} null"
        axes.text(1.0, 1.0, share, ha="right", va="top", fontsize=7, color=_GREY, transform=axes.transAxes)


def _lengths(axes: Axes, lengths: Lengths) -> None:
    levels = {"0": lengths.min, **lengths.quantiles, "1": lengths.max}
    axes.plot(list(levels.values()), [float(level) for level in levels], color=_COLOUR, marker="o", markersize=3)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("length of the list", fontsize=8)
    axes.set_ylabel("share up to it", fontsize=8)


def _page(profile: TableProfile, picture: bytes) -> str:
    cells = ("type", "nulls", "distinct", "min", "mean", "max")
    rows = [
        f"<tr><th>{html.escape(name)}</th>"
        + "".join(f"<td>{html.escape(_cell(getattr(column, cell)))}</td>" for cell in cells)
        + f"<td>{html.escape(' '.join(column.tags))}</td></tr>"
        for name, column in profile.columns.items()
    ]
    title = html.escape(profile.source)
    head = "".join(f"<th>{cell}</th>" for cell in ("column", *cells, "tags"))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        "<style>body{font-family:sans-serif}td,th{padding:2px 10px;text-align:left}img{max-width:100%}</style>"
        f"<h1>{title}</h1><p>{profile.rows:,} rows, {profile.files} files</p>"
        f"<table><tr>{head}</tr>{''.join(rows)}</table>"
        f'<img alt="one plot per column" src="data:image/png;base64,{base64.b64encode(picture).decode()}"></html>\n'
    )


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:,.6g}" if isinstance(value, float) else str(value)


def _short(text: str, most: int) -> str:
    # A dollar sign would open a formula.
    text = text.replace("$", r"\$")
    return text if len(text) <= most else f"{text[: most - 1]}…"
