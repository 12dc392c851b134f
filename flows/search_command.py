"""`dayline search`: find better values of a config's keys."""

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from flows import config_commands, kept, running
from flows.stage_commands import AsJson as _AsJson

if TYPE_CHECKING:
    from tasks.search import SearchResult

_Config = Annotated[Path, typer.Argument(help="YAML file, such as configs/demo.yaml", show_default=False)]
_Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", "--edit-config-json", metavar="KEY=VALUE|JSON", help="change a key; repeatable"),
]
_Space = Annotated[
    Path, typer.Option("--space", metavar="FILE.yaml", help="which keys are varied, and how", show_default=False)
]
_Trials = Annotated[int, typer.Option(min=1, help="how many trials are to be ended in all")]
_Day = Annotated[
    datetime | None,
    typer.Option(
        formats=["%Y-%m-%d"], metavar="YYYY-MM-DD", help="of a retrieval model: the day that is run", show_default=False
    ),
]
_Sampler = Annotated[Literal["tpe", "random"], typer.Option(help="how values are chosen: after what did well, or not")]
_Pruner = Annotated[
    Literal["median", "hyperband", "none"], typer.Option(help="when a trial of a ranking model ends early")
]


def search(
    config: _Config,
    space: _Space,
    trials: _Trials = 20,
    day: _Day = None,
    sampler: _Sampler = "tpe",
    pruner: _Pruner = "median",
    overrides: _Overrides = None,
    as_json: _AsJson = False,
) -> None:
    """Search for better values of a config's keys, each trial a run that is a child of the search's in MLflow.

    A ranking model on splits is searched by `train.best_metric` of its validation rows; a trial that does worse than
    others at the same step ends early. A retrieval model is searched by the gate's metric on what `holdout` holds out,
    best with `holdout.part: validation`. What trials share is done once. Run again after a kill, a search goes on, and
    with more `--trials` it is continued.

    `dayline search configs/dlrm_frappe.yaml --space space.yaml --trials 30`, where space.yaml holds

    `train.dense_optimizer.learning_rate: {kind: float, low: 1.0e-4, high: 1.0e-2, log: true}`

    `model.top_hidden: {kind: choice, values: [[400, 400], [256, 128]]}`
    """
    _require(config, overrides, space)
    kept.hand_over(lambda: config_commands.load(config, overrides))
    with running.ready(config, overrides, day and day.date()) as (_, path, changes):
        from flows.search import search as searching

        result = searching(path, str(space), trials, day and day.date(), changes, sampler, pruner)
    _show(result, as_json=as_json)


def _require(config: Path, overrides: list[str] | None, space: Path) -> None:
    """Check the config, the space, and that they go together, before anything is started."""
    from recsys_core.config import space as spaces

    loaded = config_commands.load(config, overrides)
    try:
        spaces.metric_of(loaded)
        spaces.check(config, overrides or [], spaces.read(space))
    except ValueError as error:
        for line in str(error).splitlines():
            typer.echo(f"error: {line}", err=True)
        raise typer.Exit(2) from None


def _show(result: "SearchResult", *, as_json: bool) -> None:
    """Print the trials, the best first, and where the best one's config is."""
    from rich import box
    from rich.table import Table

    from flows import console

    if as_json:
        typer.echo(result.model_dump_json(indent=2))
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption=f"{result.metric}, to {result.direction}")
    keys = list(result.best.params)
    for name in ("trial", result.metric, *keys, "seconds", "state"):
        table.add_column(name, justify="left" if name == "state" else "right", no_wrap=True)
    sign = -1 if result.direction == "maximize" else 1
    ranked = sorted(result.trials, key=lambda one: (one.state != "complete", sign * (one.value or 0.0), one.number))
    for one in ranked:
        table.add_row(
            str(one.number),
            "" if one.value is None else f"{one.value:.4f}",
            *(_shown(one.params.get(key)) for key in keys),
            "" if one.seconds is None else f"{one.seconds:.0f}",
            one.state,
        )
    console.on_stdout(table)
    for key, share in result.importances.items():
        typer.echo(f"{key} explains {share:.0%} of the variation", err=True)
    typer.echo(f"the best config: {result.config}", err=True)


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
