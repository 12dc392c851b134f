"""What the commands of `dayline data` share: options, and records checked from what was said on the command line."""

import json
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from recsys_core.config import parsing

Out = Annotated[Path, typer.Option(help="folder to make; it appears when it is complete", show_default=False)]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="replace the folder if it exists")]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", "--edit-config-json", metavar="KEY=VALUE|JSON", help="any other key of the kind's config; repeatable"
    ),
]


def component(command: str, given: dict[str, Any], settings: Sequence[str] | None, catalogue: str) -> Any:
    """Return the `Config` of the kind that is `given`, changed by what is set."""
    from recsys_core import lookup

    return checked(command, lookup.component(catalogue, given["kind"]).Config, given, settings)


def checked(command: str, record: Any, given: dict[str, Any], settings: Sequence[str] | None) -> Any:
    """Return a `record` of what is given and set, whose sizes are within reason."""
    from recsys_core.config import limits

    config = validated(record, command, given, apply(given, settings))
    try:
        limits.check(config)
    except ValueError as error:
        raise ValueError(f"dayline data {command}: {error}") from None
    return config


def apply(given: dict[str, Any], settings: Sequence[str] | None) -> "dict[tuple[parsing.Key, ...], str]":
    """Change `given` by what is set on the command line; return by which option each key was."""
    from recsys_core.config.overrides import override

    applied: dict[tuple[parsing.Key, ...], str] = {}
    for setting in settings or ():
        applied |= override(given, setting)
    return applied


def validated(record: Any, command: str, given: dict[str, Any], applied: "dict[tuple[parsing.Key, ...], str]") -> Any:
    """Return a `record` of what is given; errors name the option by which a key was set."""
    from recsys_core.config import parsing

    return parsing.validate(record, given, Path(f"dayline data {command}"), applied)


def write(
    command: str,
    given: dict[str, Any],
    settings: Sequence[str] | None,
    out: Path,
    *,
    overwrite: bool,
    day: date | None = None,
) -> None:
    """Write a log in the daily layout, and print what it holds."""
    from flows import console
    from recsys_core import ingest

    config = component(command, given, settings, ingest.CATALOGUE)
    with console.progress() as sink:
        if day is None:
            counts = ingest.import_log(config, out, sink, overwrite=overwrite)
        else:
            counts = ingest.import_day(config, out, sink, day)
    typer.echo(
        f"{out}: {counts.num_interactions:,} interactions on {counts.num_days} days from {counts.first_day} "
        f"to {counts.last_day}, {counts.num_users:,} rows of users, {counts.num_items:,} of items"
    )
    typer.echo(f"train on it: --set data.kind=daily --set data.source={out}", err=True)


def write_labelled(
    command: str, given: dict[str, Any], settings: Sequence[str] | None, out: Path, *, overwrite: bool, as_json: bool
) -> None:
    """Write labelled rows in splits, and print how many."""
    from flows import console
    from recsys_core import ingest
    from recsys_core.ranking import prepare

    config = component(command, given, settings, prepare.CATALOGUE)
    with console.progress() as sink:
        counts = ingest.import_log(config, out, sink, overwrite=overwrite, catalogue=prepare.CATALOGUE)
    echo_rows(out, counts, as_json=as_json)


def echo_rows(out: Path, counts: dict[str, int], *, as_json: bool = False) -> None:
    """Print the rows of each folder."""
    if as_json:
        typer.echo(json.dumps(counts, indent=2))
    else:
        typer.echo(f"{out}: {', '.join(f'{rows:,} rows of {name}' for name, rows in counts.items())}")
