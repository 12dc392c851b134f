"""`dayline features`: what a config's features are, and what they make of rows."""

import datetime
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from flows.config_commands import load

if TYPE_CHECKING:
    import pyarrow as pa
    from rich.table import Table

    from recsys_core import uri
    from recsys_core.config import RankingConfig, RunConfig
    from recsys_core.features import Description, Engine, Example, Side
    from recsys_core.readers import CsvOptions

app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown", help="See what the features of a config are.")

_FIT_ROWS = 10_000
_MAX_TEXT = 48
_UNITS = ("B", "kB", "MB", "GB", "TB")
_Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", "--edit-config-json", metavar="KEY=VALUE|JSON", help="change a key; repeatable"),
]


class _Found(NamedTuple):
    """Where each side's rows come from, and the engine that was fitted on them, if a run has left one."""

    engine: "Engine | None"
    places: "dict[Side, uri.Source]"


@app.command()
def show(
    config: Annotated[Path, typer.Argument(help="YAML file, such as configs/demo.yaml", show_default=False)],
    *,
    data: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="table to take examples from; by default the last run's", show_default=False),
    ] = None,
    names: Annotated[
        list[str] | None,
        typer.Option("--feature", metavar="NAME", help="only this feature; repeatable", show_default=False),
    ] = None,
    rows: Annotated[int, typer.Option(min=0, max=1_000, help="how many rows are shown before and after")] = 10,
    overrides: _Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object instead of tables")] = False,
) -> None:
    """Print each feature's columns, kind, table and size, and what it makes of some rows.

    `dayline features show configs/demo.yaml`

    `dayline features show configs/dlrm_frappe.yaml --feature user --rows 3`

    `dayline features show configs/demo.yaml --data data/shop/items --json | jq '.examples.price'`

    The rows are those of `--data`, of the newest run of the config, or of its source if that is laid out as tables. The
    features are as that run fitted them; without one they learn from the first 10,000 rows, for these examples only.
    A feature whose columns are not there has no example; one that refuses a value makes the exit code 1.
    """
    loaded = load(config, overrides)
    from recsys_core.features import Engine, unknown

    engine = Engine.build(loaded.features)
    for name in names or ():
        if name not in (known := [one.name for one in engine.describe()]):
            raise ValueError(f"--feature {name}: {unknown('feature', name, known)}")
    found = _find(loaded, engine)
    engine = found.engine or engine
    described = [one for one in engine.describe() if not names or one.name in names]
    examples: dict[str, Example] = {}
    if rows:
        places: dict[Side, uri.Source] = found.places if data is None else {"query": data, "item": data}
        tables: dict[Side, pa.Table] = {
            side: _first_rows(place, engine, side, getattr(loaded.data, "csv", None)) for side, place in places.items()
        }
        if any(one.fitted is False for one in described):
            given = {side: [tables[side]] for side in tables}
            engine.fit(given.get("query", []), given.get("item", []), partly=True)
            learnt_from = ", ".join(
                dict.fromkeys(f"{table.num_rows:,} rows of {_named(places[s])}" for s, table in tables.items())
            )
            typer.echo(f"for these examples the features learnt from the first {learnt_from}", err=True)
        for side, table in tables.items():
            examples |= engine.examples(table.slice(0, rows), side)
    examples = {one.name: examples[one.name] for one in described if one.name in examples}
    if as_json:
        values = {
            "features": [one.model_dump(mode="json") for one in described],
            "examples": {name: one.model_dump(mode="json") for name, one in examples.items()},
        }
        typer.echo(json.dumps(values, indent=2, ensure_ascii=False))
    else:
        _print(described, examples)
        if rows and not examples:
            typer.echo("no rows to show: give --data PATH, or run the config once", err=True)
    if refused := [name for name, one in examples.items() if one.refused is not None]:
        typer.echo(f"error: {examples[refused[0]].refused}", err=True)
        raise typer.Exit(1)


def _find(config: "RunConfig | RankingConfig", engine: "Engine") -> _Found:
    """Look for the newest run with these features; without one, for tables in the config's source."""
    from recsys_core import uri
    from recsys_core.artifacts import MANIFEST, LabelledData, TrainingData
    from recsys_core.config import RankingConfig
    from recsys_core.datasets.labelled import labelled_days
    from recsys_core.features import Engine

    root = config.run_root / config.name
    manifests = [*root.glob(f"*/*/preprocess/{MANIFEST}"), *root.glob(f"*/*/prepare/{MANIFEST}")]
    for manifest in sorted(manifests, key=lambda path: path.stat().st_mtime, reverse=True):
        record = TrainingData if manifest.parent.name == TrainingData.stage else LabelledData
        made: Any = record.load(manifest.parent)
        fitted = Engine.load(made.engine)
        if fitted.config == engine.portable_config():
            if isinstance(made, LabelledData):
                rows = made.folders("train")
                return _Found(fitted, {"query": rows, "item": rows})
            return _Found(fitted, {"query": made.examples, "item": made.items})
    if isinstance(config, RankingConfig) and config.is_daily:
        days = labelled_days.days(config.days, datetime.date.min, datetime.date.max)
        newest = next((part.path for part in reversed(days.values())), None)
        return _Found(None, {} if newest is None else {"query": newest, "item": newest})
    source = uri.local(str(getattr(config.data, "source", "")))
    if (source / "users").is_dir() and (source / "items").is_dir():
        return _Found(None, {"query": source / "users", "item": source / "items"})
    if (source / "train").is_dir():
        return _Found(None, {"query": source / "train", "item": source / "train"})
    return _Found(None, {})


def _named(place: "uri.Source") -> str:
    return ", ".join(map(str, place)) if isinstance(place, tuple) else str(place)


def _first_rows(place: "uri.Source", engine: "Engine", side: "Side", options: "CsvOptions | None") -> "pa.Table":
    import pyarrow as pa

    from recsys_core import readers

    reader = readers.build(readers.infer(place, options))
    columns = [column for column in engine.training_columns(side) if column in reader.schema.names]
    if not columns:
        return pa.table({})
    return readers.read_all(reader, columns, _FIT_ROWS)


def _print(described: "list[Description]", examples: "dict[str, Example]") -> None:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    from flows import console

    num_bytes = sum(one.num_bytes or 0 for one in described)
    caption = f"weights of the tables: {_size(num_bytes)}, in float32 and without what optimizers keep"
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption=caption)
    right = ("rows", "known", "dim", "bytes")
    for name in ("side", "feature", "kind", "columns", "default", "table", *right, "fitted", ""):
        shown.add_column(name, justify="right" if name in right else "left", no_wrap=True)
    for one in described:
        shown.add_row(*(escape(cell) for cell in _cells(one)))
    console.on_stdout(shown)
    for name, one in examples.items():
        typer.echo(f"{name}: no column {', '.join(one.missing)}" if one.missing else f"{name}:")
        if one.before:
            console.on_stdout(_example(one))


def _cells(one: "Description") -> tuple[str, ...]:
    kind = one.kind if one.output in (None, one.kind) else f"{one.kind} → {one.output}"
    if one.table is None and one.pooling is not None:
        kind += ", sequence"
    encoding = "encoded upstream" if one.encoded_upstream else one.encoding
    return (
        one.side,
        one.name,
        f"{kind}, {encoding}" if encoding else kind,
        ", ".join(one.columns),
        "" if one.default is None else _text(one.default),
        one.table or "",
        "" if one.cardinality is None else f"{one.cardinality:,}",
        "" if one.known is None else f"{one.known:,}",
        str(one.dim) if one.dim else "",
        "" if one.table is None else "shared" if one.num_bytes is None else _size(one.num_bytes),
        {True: "fitted", False: "to be fitted", None: ""}[one.fitted],
        f"same as {one.same_as}" if one.same_as else "",
    )


def _example(one: "Example") -> "Table":
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in (*one.before, "→"):
        shown.add_column(escape(column), no_wrap=True)
    num_rows = max((len(values) for values in one.before.values()), default=0)
    for row in range(num_rows):
        after = _text(one.after[row]) if one.after else ""
        shown.add_row(*(escape(_text(values[row])) for values in one.before.values()), escape(after))
    return shown


def _text(value: Any) -> str:
    """Return a value as JSON; long ones are cut."""
    text = f"{value:.6g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _MAX_TEXT else f"{text[: _MAX_TEXT - 1]}…"


def _size(num_bytes: float) -> str:
    for unit in _UNITS[:-1]:
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.3g} {_UNITS[-1]}"
