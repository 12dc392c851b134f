"""`dayline replay`: a log of requests asked again of a release."""

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows import alone, serve_command

if TYPE_CHECKING:
    from recsys_core.serving.service.replay import Report


def replay(  # noqa: PLR0917 - options
    log: Annotated[str, typer.Argument(help="the log's folder, a part of it such as date=2024-01-31, or a file")],
    release: serve_command.Release = None,
    run: serve_command.Run = None,
    rank_release: serve_command.RankRelease = None,
    tracking_uri: serve_command.TrackingUri = None,
    run_root: serve_command.RunRoot = Path("runs"),
    cache: serve_command.Cache = None,
    most: Annotated[
        int | None, typer.Option("--requests", min=1, help="the largest number of logged requests to replay")
    ] = None,
    identical: Annotated[bool, typer.Option("--identical", help="exit code 1 unless every answer is the same")] = False,
    minimum_overlap: Annotated[
        float | None, typer.Option(min=0, max=1, help="exit code 1 below this mean share of items that come again")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the report as JSON instead of a line")] = False,
) -> None:
    """Ask a release for what a log of `dayline serve --log` holds, and say how its answers differ.

    `dayline replay logs/shop --release shop@previous`

    `dayline replay logs/shop/date=2024-01-31 --release shop@7 --minimum-overlap 0.5 --json`
    """
    from recsys_core.serving.service import Limits
    from recsys_core.serving.service import replay as replaying
    from recsys_core.serving.service.live import Live

    with alone.refusing():
        sources = serve_command.chosen(release, run, rank_release)
        rows = replaying.read(log, most)
        first = next(rows, None)
        if first is None:
            raise ValueError(f"{log}: no requests in it")
        live = Live(Limits(max_k=replaying.ANY_K), [*sources])
        live.put({place: serve_command.at_hand(one, tracking_uri, run_root, cache) for place, one in sources.items()})
    assert live.current is not None
    report = replaying.replay(live.current, itertools.chain([first], rows))
    total = report.total
    typer.echo(report.model_dump_json(indent=2) if as_json else _line(report.release, total))
    if report.example is not None and not as_json:
        typer.echo(f"such as {report.example}", err=True)
    same = total.identical == total.num_requests
    if (identical and not same) or (minimum_overlap is not None and (total.overlap or 0.0) < minimum_overlap):
        raise typer.Exit(1)


def _line(release: str, total: "Report") -> str:
    parts = [f"{total.num_requests:,} requests asked of {release}", f"{total.identical:,} answered the same"]
    parts += [
        f"{count:,} {name}" for name, count in (("refused", total.refused), ("of other paths", total.missing)) if count
    ]
    if total.overlap is not None and total.first is not None:
        parts.append(f"{total.overlap:.1%} of the items come again, {total.first:.1%} of the first ones stay first")
    if total.logged_seconds:
        logged = ", ".join(f"{name} {seconds * 1e3:.1f} ms" for name, seconds in total.logged_seconds.items())
        parts.append(f"{total.replayed_seconds * 1e3:.1f} ms each (logged: {logged})")
    return "; ".join(parts)
