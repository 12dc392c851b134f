"""`dayline check-serving`: the same rows by every way that they are answered, compared bit by bit."""

from pathlib import Path
from typing import Annotated

import typer

from flows import serve_command


def check_serving(
    release: serve_command.Release,
    url: Annotated[str | None, typer.Option(help="a service of it, such as http://127.0.0.1:8080")] = None,
    token_file: Annotated[Path | None, typer.Option(help="a file with the service's token")] = None,
    tracking_uri: serve_command.TrackingUri = None,
    run_root: serve_command.RunRoot = Path("runs"),
    cache: serve_command.Cache = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the report as JSON instead of lines")] = False,
) -> None:
    """Compare the ways in which the rows are answered that a release keeps, bit by bit.

    The ways: as batch prediction measured them, all of them together, each alone, and by a service. The exit code is 1
    where bits differ.

    `dayline check-serving --release shop@champion --url http://127.0.0.1:8080`
    """
    token = serve_command.token(token_file)
    from recsys_core.serving.service import check, source

    try:
        wanted = source(release)
    except ValueError as error:
        raise serve_command.refused(str(error)) from None
    report = check.check(serve_command.at_hand(wanted, tracking_uri, run_root, cache), url, token)
    if as_json:
        typer.echo(report.model_dump_json(indent=2))
    else:
        for name, ways in report.ways.items():
            for way, one in ways.items():
                differs = "" if one.identical == report.num_rows else f", by at most {one.max_difference:.3g}"
                typer.echo(
                    f"{report.release}, {name}, {way}: {one.identical} of {report.num_rows} rows the same{differs}"
                )
    if not report.is_same:
        raise typer.Exit(1)
