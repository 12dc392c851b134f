"""`dayline release`: which versions there are, which one is live, and how to go back."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.config_commands import NO_RELEASES, is_daily, load

if TYPE_CHECKING:
    from recsys_core.config import RankingConfig, RunConfig
    from recsys_core.registry import ReleaseInfo

app = typer.Typer(no_args_is_help=True, help="List the releases of a model, and go back to an earlier one.")

_Config = Annotated[Path, typer.Argument(help="YAML file of the model, such as configs/demo.yaml", show_default=False)]
_Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", "--edit-config-json", metavar="KEY=VALUE|JSON", help="change a key; repeatable"),
]
_AsJson = Annotated[bool, typer.Option("--json", help="print JSON instead of a table")]


@app.command("list")
def list_(config: _Config, overrides: _Overrides = None, as_json: _AsJson = False) -> None:
    """Print every release, the newest first.

    Example: `dayline release list configs/demo.yaml`
    """
    loaded = _daily(config, overrides, exit_code=0)
    from recsys_core import registry, tracking

    database = tracking.database(loaded.tracking, loaded.run_root)
    releases = registry.listed(database, loaded.name) if database is not None else None
    if releases is None:
        releases = registry.releases(_checked(loaded), loaded.name)
    if as_json:
        typer.echo(json.dumps([release.model_dump(mode="json") for release in releases], indent=2))
    elif releases:
        _table(releases)
    else:
        typer.echo(f"{loaded.name}: nothing was published yet", err=True)


@app.command()
def rollback(
    config: _Config,
    version: Annotated[int | None, typer.Option(help="make this one live; by default the one before")] = None,
    overrides: _Overrides = None,
    as_json: _AsJson = False,
) -> None:
    """Make the release before the live one live again. The next run does not continue the one that is left.

    Examples: `dayline release rollback configs/demo.yaml`, `dayline release rollback configs/demo.yaml --version 3`
    """
    loaded = _daily(config, overrides, exit_code=2)
    from recsys_core import registry

    live = registry.rollback(_checked(loaded), loaded.name, version)
    if as_json:
        typer.echo(live.model_dump_json(indent=2))
    else:
        typer.echo(f"{loaded.name}: version {live.version} of {live.day} is live")


def _daily(config: Path, overrides: list[str] | None, *, exit_code: int) -> "RunConfig | RankingConfig":
    """Load a config whose model has releases, or end with `exit_code` if there can be none."""
    loaded = load(config, overrides)
    if not is_daily(loaded):
        typer.echo(f"{'error: ' if exit_code else ''}{config}: {NO_RELEASES}; MLflow has its runs", err=True)
        raise typer.Exit(exit_code)
    return loaded


def _checked(loaded: "RunConfig | RankingConfig") -> str:
    """Return where the releases are, once MLflow has answered there."""
    from recsys_core import tracking

    tracking.check(loaded.tracking, loaded.run_root)
    return tracking.location(loaded.tracking, loaded.run_root)


def _table(releases: "list[ReleaseInfo]") -> None:
    from rich import box
    from rich.table import Table

    from flows import console

    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("version", "day", "state", "metrics", "run", "MLflow run"):
        shown.add_column(column, no_wrap=column != "metrics")
    for release in releases:
        states = {
            "live": release.live,
            "previous": release.previous,
            "rolled back": release.rolled_back,
            "not checked": not release.checked,
        }
        metrics = ", ".join(f"{name} {value:.3f}" for name, value in release.metrics.items())
        state = ", ".join(name for name, holds in states.items() if holds)
        shown.add_row(str(release.version), str(release.day), state, metrics, release.run_id, release.mlflow_run_id)
    console.on_stdout(shown)
