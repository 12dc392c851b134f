"""`dayline data join-impressions`: what was served, and what was clicked of it, as labelled rows by day."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from recsys_core.serving.impressions import Report


def join_impressions(
    *,
    log: Annotated[str, typer.Option(metavar="PATH", help="the folder of `dayline serve --log`", show_default=False)],
    clicks: Annotated[
        str,
        typer.Option(metavar="PATH", help="table of clicks; {day} where it is parted by day", show_default=False),
    ],
    out: Annotated[
        Path, typer.Option(help="folder of the table; days that are not there yet are added", show_default=False)
    ],
    items: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="item table, whose fields rows get; {day} becomes the day"),
    ] = None,
    items_id: Annotated[str, typer.Option(metavar="COL", help="its column of ids")] = "item_id",
    key: Annotated[
        str, typer.Option(metavar="COL", help="what both logs have: request_id, or a column of the requests' user")
    ] = "request_id",
    click_key: Annotated[
        str | None, typer.Option(metavar="COL", help="what it is called among the clicks; by default the same")
    ] = None,
    click_item: Annotated[str, typer.Option(metavar="COL", help="the clicks' column of items")] = "item_id",
    click_time: Annotated[str, typer.Option(metavar="COL", help="the clicks' column of times")] = "timestamp",
    window_minutes: Annotated[
        float, typer.Option(min=1 / 60, max=10_080, help="how long after it was shown an item can be clicked")
    ] = 30,
    path: Annotated[
        list[str] | None,
        typer.Option(help="/recommend, /recommend_and_rank or /rank; repeatable; by default the first two"),
    ] = None,
    shown: Annotated[
        int | None, typer.Option(min=1, help="how many items of a list were shown; by default all of them")
    ] = None,
    label: Annotated[str, typer.Option(metavar="COL", help="what the rows' label is called")] = "click",
    types: Annotated[
        list[str] | None,
        typer.Option("--type", metavar="COL=TYPE", help="type of a column, such as price=float64; repeatable"),
    ] = None,
    leave_out: Annotated[
        str | None, typer.Option(metavar="A,B", help="columns of requests that rows do not have", show_default=False)
    ] = None,
    first: Annotated[
        datetime | None,
        typer.Option("--from", formats=["%Y-%m-%d"], metavar="YYYY-MM-DD", help="by default the log's first day"),
    ] = None,
    last: Annotated[
        datetime | None,
        typer.Option("--to", formats=["%Y-%m-%d"], metavar="YYYY-MM-DD", help="by default the last complete day"),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="join days again that are there")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print what became of the days as JSON")] = False,
) -> None:
    """Join the log of a service to later clicks: a labelled row for each item that was shown, with its position.

    `dayline data join-impressions --log logs/shop --clicks 'clicks/ds={day}' --out data/impressions`

    `dayline data join-impressions --log logs/shop --clicks clicks.parquet --key user_id --window-minutes 60
    --items items.parquet --out data/impressions`

    A click belongs to the newest list before it that had the item, and that has the click's key. A day is complete
    when its last clicks are there; those that are not are named and left for later. Days that are there stay, so it
    can run every night, and goes on after it was stopped. Train on the table with `data.kind: labelled_days`.
    """
    from pydantic import ValidationError

    from flows import console
    from recsys_core.serving import impressions

    given = {"paths": tuple(path)} if path else {}
    try:
        options = impressions.Options(
            key=key,
            click_key=click_key,
            click_item=click_item,
            click_time=click_time,
            window_seconds=max(1, round(window_minutes * 60)),
            shown=shown,
            label=label,
            types=dict(_pair(text) for text in types or ()),
            leave_out=tuple(filter(None, (leave_out or "").split(","))),
            **given,
        )
    except ValidationError as error:
        raise ValueError(error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")) from None
    request = impressions.Request(
        log=log,
        clicks=clicks,
        out=out,
        now=datetime.now(UTC),
        items=items,
        items_id=items_id,
        options=options,
        first_day=first and first.date(),
        last_day=last and last.date(),
        overwrite=overwrite,
    )
    with console.progress() as sink:
        report = impressions.run(request, sink)
    if as_json:
        typer.echo(report.model_dump_json(indent=2))
    else:
        _print(report, out)


def _pair(text: str) -> tuple[str, str]:
    name, equals, kind = text.partition("=")
    if not equals or not name:
        raise typer.BadParameter(f"--type: {text!r}; give COL=TYPE, as in price=float64")
    return name, kind


def _print(report: "Report", out: Path) -> None:
    for day in report.days:
        if day.state == "waiting":
            typer.echo(f"{day.day}: waits, {day.reason}")
            continue
        assert day.counts is not None
        counts, state = day.counts, "" if day.state == "joined" else " (as joined before)"
        dropped = "".join(f", {rows:,} {name.replace('_', ' ')}" for name, rows in counts.dropped.items() if rows)
        clicks = ", ".join(f"{rows:,} {name.replace('_', ' ')}" for name, rows in counts.clicks.items() if rows)
        typer.echo(
            f"{day.day}: {counts.rows:,} rows of {counts.impressions:,} shown items{dropped}; {counts.positives:,} "
            f"clicked; clicks: {clicks or 'none'}{state}"
        )
        if day.reason is not None:
            typer.echo(f"note: {day.day}: {day.reason}", err=True)
        if counts.unknown_items:
            typer.echo(
                f"note: {day.day}: {counts.unknown_items:,} rows are of items that the item table does not have",
                err=True,
            )
    typer.echo(f"train on it: --set data.kind=labelled_days --set data.source={out}", err=True)
