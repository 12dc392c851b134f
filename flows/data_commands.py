"""`dayline data`: make a log in the daily layout, from nothing or from published data."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="""Make a log in the daily layout: interactions/, users/ and items/, each in folders ds=YYYY-MM-DD of Parquet.

    Train on it with `data: {kind: daily, source: DIR}`. A config can also name a source by its own kind
    (`data: {kind: movielens_100k, source: ml-100k.zip}`); it is then imported by the run.""",
)

_Out = Annotated[Path, typer.Option(help="folder to make; it appears when it is complete", show_default=False)]
_Overwrite = Annotated[bool, typer.Option("--overwrite", help="replace the folder if it exists")]
_Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", "--edit-config-json", metavar="KEY=VALUE|JSON", help="any other key of the kind's config; repeatable"
    ),
]


@app.command()
def generate(
    *,
    out: _Out,
    days: Annotated[int, typer.Option(help="how many days")] = 20,
    first_day: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d"], metavar="YYYY-MM-DD", help="by default 2024-01-01", show_default=False),
    ] = None,
    users: Annotated[int, typer.Option(help="users on the first day; some more register every day")] = 20_000,
    items: Annotated[int, typer.Option(help="items on the first day; some more come every day")] = 5_000,
    interactions: Annotated[int, typer.Option(help="clicks a day, about")] = 30_000,
    seed: Annotated[int, typer.Option(help="the same seed makes the same bytes")] = 0,
    settings: _Settings = None,
    overwrite: _Overwrite = False,
) -> None:
    """Make up a shop's click log whose structure a model can find.

    Users have tastes that their fields tell in part, and that drift; items have styles; popularity is a power law;
    somebody and something is new every day; fields are missing now and then.

    `dayline data generate --out data/shop`

    `dayline data generate --out data/large --users 2000000 --items 200000 --interactions 5000000 --days 8`

    Other keys: new_users_per_day, new_items_per_day, num_categories, styles_per_category, taste_strength,
    popularity_exponent, drift, drift_days, missing_share. A log of more days begins with the one of fewer.
    """
    given = {
        "kind": "synthetic",
        "num_days": days,
        "num_users": users,
        "num_items": items,
        "interactions_per_day": interactions,
        "seed": seed,
    } | ({"first_day": first_day.date()} if first_day else {})
    _write("generate", given, settings, out, overwrite=overwrite)


@app.command("import")
def import_(
    kind: Annotated[str, typer.Argument(help="movielens-100k, movielens-1m or taobao-ad", show_default=False)],
    source: Annotated[str, typer.Argument(help="zip, folder, or http(s) URL of a zip", show_default=False)],
    out: _Out,
    checksum: Annotated[
        str | None, typer.Option(metavar="sha256:HEX", help="refuse an archive that has another; a URL needs one")
    ] = None,
    settings: _Settings = None,
    overwrite: _Overwrite = False,
) -> None:
    """Bring published data into the daily layout.

    `dayline data import movielens-100k ml-100k.zip --out data/ml-100k`

    `dayline data import movielens-1m https://files.grouplens.org/datasets/movielens/ml-1m.zip --checksum md5:… --out
    data/ml-1m`

    `dayline data import taobao-ad raw/ --out data/taobao --set clicks_only=false`

    **movielens-100k**, **movielens-1m**: the published archive, or its tables as Parquet. Every rating is an
    interaction; `--set min_rating=4` keeps the better ones.

    **taobao-ad**: raw_sample, ad_feature and user_profile (.csv, .csv.gz or .csv.tar.gz), or the clicks as Parquet.
    """
    given = {"kind": kind.replace("-", "_"), "source": source} | ({"checksum": checksum} if checksum else {})
    _write("import", given, settings, out, overwrite=overwrite)


def _write(command: str, given: dict[str, Any], settings: Sequence[str] | None, out: Path, *, overwrite: bool) -> None:
    from flows import console
    from recsys_core import ingest, lookup
    from recsys_core.config import parsing
    from recsys_core.config.overrides import override

    applied: dict[tuple[parsing.Key, ...], str] = {}
    for setting in settings or ():
        applied |= override(given, setting)
    record = lookup.component(ingest.CATALOGUE, given["kind"]).Config
    config = parsing.validate(record, given, Path(f"dayline data {command}"), applied)
    with console.progress() as sink:
        counts = ingest.import_log(config, out, sink, overwrite=overwrite)
    typer.echo(
        f"{out}: {counts.num_interactions:,} interactions on {counts.num_days} days from {counts.first_day} "
        f"to {counts.last_day}, {counts.num_users:,} rows of users, {counts.num_items:,} of items"
    )
    typer.echo(f"train on it: --set data.kind=daily --set data.source={out}", err=True)
