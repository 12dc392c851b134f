"""`dayline checkpoint`: which there are, what is in one, how two differ, and ways from and to other programs' files."""

import json
from pathlib import Path
from typing import Annotated

import typer

from flows.config_commands import load

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode="markdown", help="List, show, compare and convert checkpoints."
)

_Checkpoint = Annotated[
    Path, typer.Argument(help="a training's folder, runs/NAME/DAY/RUN_ID/train, or a checkpoint in it")
]
_AsJson = Annotated[bool, typer.Option("--json", help="print JSON instead of a table")]


@app.command("list")
def list_(
    place: Annotated[Path, typer.Argument(help="a config, or the folder that the runs are written to")],
    as_json: _AsJson = False,
) -> None:
    """Print every finished training's checkpoint, the newest day last, and below it the other states it has kept.

    Examples: `dayline checkpoint list configs/demo.yaml`, `dayline checkpoint list runs`
    """
    from recsys_core.artifacts import MANIFEST, Checkpoint
    from recsys_core.checkpoint import files

    root = place if place.is_dir() else (loaded := load(place, None)).run_root / loaded.name
    manifests = sorted(root.rglob(f"train/{MANIFEST}"))
    found = sorted((Checkpoint.load(path.parent) for path in manifests), key=lambda made: (made.day, made.path))
    rows: list[dict[str, object]] = []
    for made in found:
        of_training: dict[str, object] = {
            "day": str(made.day),
            "steps": made.num_steps,
            "loss": round(made.loss, 4),
            "ranks": made.num_ranks,
            "bytes": files.num_bytes(made.state),
            "start": "warm" if made.warm_started_from else "random",
            "state": None,
            "path": str(made.path),
        }
        states = [f"step {one.step}, {one.metric} {one.value:.6g}" for one in made.kept]
        rows.append(of_training | {"state": states[0] if states else None})
        for one, state in zip(made.kept[1:], states[1:], strict=True):
            where = made.path / one.folder
            own: dict[str, object] = {"bytes": files.num_bytes(where), "state": state, "path": str(where)}
            rows.append(dict.fromkeys(of_training) | own)
    _print(rows, f"{root}: no finished training", as_json=as_json)


@app.command()
def show(checkpoint: _Checkpoint, as_json: _AsJson = False) -> None:
    """Print a checkpoint's tensors: key, shape, type and bytes; the step that it stands at, and the best ones kept.

    Example: `dayline checkpoint show runs/shop/2024-01-15/RUN_ID/train --json | jq '.[].key'`
    """
    from recsys_core import checkpoint as checkpoints
    from recsys_core.checkpoint import files
    from recsys_core.sections.checkpoint import locate

    directory = locate(checkpoint)
    position, records = checkpoints.position(directory), files.describe(directory)
    _print([record.model_dump(mode="json") for record in records], f"{directory}: no tensors", as_json=as_json)
    total = sum(record.num_bytes for record in records)
    typer.echo(f"{directory}: step {position.step}, {len(records)} tensors, {total:,} bytes", err=True)
    if position.kept:
        best = ", ".join(f"{one.step} ({one.value:.6g})" for one in position.kept)
        typer.echo(f"best steps until then, by train.best_metric: {best}", err=True)


@app.command()
def diff(first: _Checkpoint, second: _Checkpoint, as_json: _AsJson = False) -> None:
    """Print the tensors in which two checkpoints differ, and by how much. Exit code 1 if there are any.

    Example: `dayline checkpoint diff runs/shop/2024-01-15/A/train runs/shop/2024-01-15/B/train`
    """
    from recsys_core.checkpoint import files
    from recsys_core.sections.checkpoint import locate

    found = list(files.diff(locate(first), locate(second)))
    _print([one.model_dump(mode="json") for one in found], "no difference", as_json=as_json)
    if found:
        raise typer.Exit(1)


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="a checkpoint, or a state dict: .pt, .pth, .safetensors")],
    target: Annotated[Path, typer.Argument(help="a file to write, or, from a state dict, a folder to make")],
) -> None:
    """Write a checkpoint's weights to a file, or make a checkpoint of a file's, to fine-tune from.

    From a checkpoint that keeps a moving average of the weights, it takes that, as evaluation and export do. Of a
    `.pt` file only tensors are read; what else it may hold is refused and not run.

    Examples: `dayline checkpoint convert runs/shop/2024-01-15/RUN_ID/train model.safetensors`,
    `dayline checkpoint convert pretrained.pt checkpoints/pretrained`
    """
    from recsys_core import checkpoint as checkpoints
    from recsys_core.checkpoint import files
    from recsys_core.sections.checkpoint import locate

    if source.is_dir():
        directory = locate(source)
        weights = files.empty_state(directory, "model")
        checkpoints.load_weights(directory, dict(weights), alone=True)
        files.write_state_dict(target, weights)
    else:
        if target.exists():
            raise ValueError(f"{target} exists; name a folder that does not")
        weights = files.read_state_dict(source)
        checkpoints.save_alone(target, {"model": weights})
    typer.echo(f"{target}: {len(weights)} tensors")


def _print(rows: list[dict[str, object]], nothing: str, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    if not rows:
        typer.echo(nothing, err=True)
        return
    from rich import box
    from rich.table import Table

    from flows import console

    columns = [name for name in rows[0] if any(row[name] is not None for row in rows)]
    shown = Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        shown.add_row(*("" if (value := row[name]) is None else str(value) for name in columns))
    console.on_stdout(shown)
