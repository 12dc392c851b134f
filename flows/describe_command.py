"""`dayline describe`: what a config's model is made of."""

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table

from flows import config_commands, console

if TYPE_CHECKING:
    from recsys_core.config.description import Description


def describe(
    config: config_commands.Config,
    overrides: config_commands.Overrides = None,
    *,
    mermaid: Annotated[bool, typer.Option("--mermaid", help="print a diagram in Mermaid instead of tables")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print everything as JSON instead of tables")] = False,
) -> None:
    """Print the tables, features and dense parts of a config's model, with parameters, bytes and FLOPs per example.

    No data are read: a table of a vocabulary that is still to be fitted has the rows that are known. FLOPs are those of
    the matrix products forward; training takes about three times as many.

    Example: `dayline describe configs/ctr_cvr_daily.yaml --set model.kind=mmoe`
    """
    if mermaid and as_json:
        raise typer.BadParameter("--mermaid and --json: print one of them")
    loaded = config_commands.load(config, overrides)
    from recsys_core.config import description

    try:
        found = description.describe(loaded)
    except ValueError as error:
        config_commands.refuse(f"{config}: {error}")
    if mermaid:
        typer.echo(description.mermaid(found), nl=False)
    elif as_json:
        totals = {"num_parameters": found.num_parameters, "num_bytes": found.num_bytes, "flops": found.flops}
        typer.echo(json.dumps(found.model_dump(mode="json") | totals, indent=2))
    else:
        for table in _tables(found):
            console.on_stdout(table)


def _tables(found: "Description") -> list[Table]:
    from recsys_core.config.limits import size

    tables = _table("embedding tables", "table", "rows", "width", "type", "parameters", "bytes", "features")
    for one in found.tables:
        sizes = f"{one.num_embeddings:,}", f"{one.embedding_dim}", one.dtype
        tables.add_row(one.name, *sizes, f"{one.num_parameters:,}", size(one.num_bytes), ", ".join(one.features))
    features = _table("features", "feature", "side", "table", "pooling", "width")
    for one in found.features:
        features.add_row(one.name, one.side, one.table or "", one.pooling or "", f"{one.width}")
    entries = "" if found.entries is None else f"; sequences of {found.entries} entries, or as many as are kept"
    parts = _table(f"dense layers{entries}", "part", "kind", "parameters", "bytes", "FLOPs per example")
    for one in found.parts:
        parts.add_row(one.name, one.kind, f"{one.num_parameters:,}", size(one.num_bytes), f"{one.flops:,}")
    parts.add_section()
    dense = sum(part.num_parameters for part in found.parts)
    dense_bytes = sum(part.num_bytes for part in found.parts)
    parts.add_row("all dense", found.model, f"{dense:,}", size(dense_bytes), f"{found.flops:,}")
    parts.add_row("with tables", "", f"{found.num_parameters:,}", size(found.num_bytes), "")
    return [tables, features, parts]


def _table(title: str, *names: str) -> Table:
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
    for name in names:
        right = name in ("rows", "width", "parameters", "bytes", "FLOPs per example")
        made.add_column(name, justify="right" if right else "left")
    return made
