"""`dayline check-serving`: the same rows by every way that they are answered, compared bit by bit."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows import alone, serve_command

if TYPE_CHECKING:
    from recsys_core.registry.named import Trained
    from recsys_core.serving.service import Folder, Registered
    from recsys_core.serving.service.check import Way


def check_serving(  # noqa: PLR0917 - options
    release: serve_command.Release = None,
    run: serve_command.Run = None,
    url: Annotated[str | None, typer.Option(help="a service of it, such as http://127.0.0.1:8080")] = None,
    token_file: Annotated[Path | None, typer.Option(help="a file with the service's token")] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="the training it is of; by default the release's", show_default=False),
    ] = None,
    tracking_uri: serve_command.TrackingUri = None,
    run_root: serve_command.RunRoot = Path("runs"),
    cache: serve_command.Cache = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the report as JSON instead of lines")] = False,
) -> None:
    """Compare the ways in which the rows are answered that a release keeps, bit by bit.

    The ways: the model in training form out of its checkpoint (eager), as batch prediction measured them, all of them
    together, each alone, and by a service. The exit code is 1 where bits differ.

    `dayline check-serving --release shop@champion --url http://127.0.0.1:8080`
    """
    token = serve_command.token(token_file)
    from recsys_core.serving.service import check

    with alone.refusing():
        wanted = serve_command.chosen(release, run)["release"]
        trained = _trained(wanted, checkpoint, tracking_uri, run_root)
        report = check.check(serve_command.at_hand(wanted, tracking_uri, run_root, cache), url, token, trained)
    if as_json:
        typer.echo(report.model_dump_json(indent=2))
    else:
        for name, ways in report.ways.items():
            for way, one in ways.items():
                same = f"{one.identical} of {report.num_rows} rows the same{_differs(one, report.num_rows)}"
                typer.echo(f"{report.release}, {name}, {way}: {same}")
        for way, reason in report.left_out.items():
            typer.echo(f"{way}: not compared ({reason})", err=True)
    if not report.is_same:
        raise typer.Exit(1)


def _differs(way: "Way", num_rows: int) -> str:
    if way.identical == num_rows:
        return ""
    said = f", the others by at most {way.max_difference:.2g}"
    if way.tolerance is None:
        return f"{said} (its tables are smaller than those of the checkpoint)"
    return f"{said} ({way.tolerance:.2g} is rounding)" if way.tolerance else said


def _trained(
    source: "Registered | Folder", checkpoint: Path | None, tracking_uri: str | None, run_root: Path
) -> "Trained | str":
    """Return what the release was exported from, or why that is not at hand.

    Raises:
        ValueError: it is named, and not there.
    """
    from recsys_core.artifacts import MANIFEST, Release
    from recsys_core.registry import named
    from recsys_core.serving.service import Registered

    if checkpoint is not None:
        return named.find(folder=checkpoint).trained()
    release = None
    if isinstance(source, Registered):
        release = source.text
    elif (source.path / MANIFEST).is_file():
        record = Release.load(source.path)
        release = f"{record.model_name}@{record.version}"
        run_root = source.path.parents[3]
    if release is None:
        return "the folder of a bundle has no training beside it; name one with --checkpoint"
    try:
        return named.find(release=release, uri=tracking_uri, run_root=run_root).trained()
    except ValueError as error:
        return str(error)
