"""`dayline data`: make a log in the daily layout, from nothing or from published data; see what a table holds."""

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from flows import data_settings
from flows.generate_commands import generate, generate_ctr
from flows.impressions_command import join_impressions

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="""Make a log in the daily layout: interactions/, users/ and items/, each in folders ds=YYYY-MM-DD of Parquet.
    Or look into any table with `dayline data profile`.

    Train on it with `data: {kind: daily, source: DIR}`. A config can also name a source by its own kind
    (`data: {kind: movielens_100k, source: ml-100k.zip}`); it is then imported by the run.""",
)

app.command("generate")(generate)
app.command("generate-ctr")(generate_ctr)
app.command("join-impressions")(join_impressions)


@app.command("import")
def import_(
    kind: Annotated[
        str,
        typer.Argument(
            help="interactions, sequences, lightgcn, recbole, movielens-100k, movielens-1m, taobao-ad, criteo or "
            "tables",
            show_default=False,
        ),
    ],
    source: Annotated[
        str, typer.Argument(help="file, folder, zip, or http(s) URL of a zip; of tables a mapping", show_default=False)
    ],
    out: data_settings.Out,
    day: Annotated[
        datetime | None,
        typer.Option(
            formats=["%Y-%m-%d"], metavar="YYYY-MM-DD", help="of tables: replace this day alone", show_default=False
        ),
    ] = None,
    checksum: Annotated[
        str | None, typer.Option(metavar="sha256:HEX", help="refuse an archive that has another; a URL needs one")
    ] = None,
    by_day: Annotated[
        bool, typer.Option("--by-day", help="of criteo: folders ds=YYYY-MM-DD for data.kind: labelled_days, no splits")
    ] = False,
    settings: data_settings.Settings = None,
    overwrite: data_settings.Overwrite = False,
) -> None:
    """Bring published data into the daily layout, or labelled rows into splits.

    `dayline data import movielens-100k ml-100k.zip --out data/ml-100k`

    `dayline data import movielens-1m https://files.grouplens.org/datasets/movielens/ml-1m.zip --checksum md5:… --out
    data/ml-1m`

    `dayline data import taobao-ad raw/ --out data/taobao --set clicks_only=false`

    `dayline data import interactions ratings.csv --out data/mine --set header=true`

    **interactions**: text or CSV with a line for each, `user item [rating] timestamp` or `user item`; `--set
    columns=[user_id,item_id,-,timestamp]` says what else its fields are, `--set delimiter=';'` what is between them.

    **sequences**: text with a line for each user, `user item item …`, in the order in which they were taken.

    **lightgcn**: a folder with train.txt and test.txt, each with a line `user item item …` for each user.

    **recbole**: NAME.inter with NAME.user and NAME.item, or their folder (atomic files).

    **movielens-100k**, **movielens-1m**: the published archive, or its tables as Parquet. Every rating is an
    interaction; `--set min_rating=4` keeps the better ones.

    **taobao-ad**: raw_sample, ad_feature and user_profile (.csv, .csv.gz or .csv.tar.gz), or the clicks as Parquet.

    **tables**: `'{interactions: odps://shop/tables/clicks, users: odps://…, items: …}'`, or any other paths. With
    `--day` only that day's partitions are read, and the rest of the log stays as it is.

    **criteo**: a folder with train.txt, or with day_0, day_1, …, each gzipped or not. Labelled rows, encoded: `--set
    split=dlrm` (or mindspore, bars_x1, bars_x4), `--set min_count=8`, or `--set ids=hash --set num_embeddings=1000000`.
    Run again after a kill, it goes on where it was.

    `dayline data import criteo raw/ --out data/criteo`, then `dayline run configs/dlrm_criteo_kaggle.yaml --set
    data.kind=splits --set data.source=data/criteo`
    """
    from recsys_core.config import reading

    read = source
    if source.startswith("{"):
        message = f"{reading.visible(source)} is no mapping {{interactions: PATH, users: PATH, items: PATH}}"
        read = reading.value(source, message, lines=False)
    given = {"kind": kind.replace("-", "_"), "source": read}
    given |= {"checksum": checksum} if checksum else {}
    if given["kind"] == "criteo":
        if day is not None or checksum is not None:
            raise typer.BadParameter("--day and --checksum are of other kinds than criteo")
        _import_criteo(given, settings, out, overwrite=overwrite, by_day=by_day)
        return
    if by_day:
        raise typer.BadParameter("--by-day is of criteo")
    data_settings.write("import", given, settings, out, overwrite=overwrite, day=day and day.date())


def _import_criteo(
    given: dict[str, Any], settings: list[str] | None, out: Path, *, overwrite: bool, by_day: bool
) -> None:
    from flows import console
    from recsys_core import ingest
    from recsys_core.datasets.labelled import criteo

    config = data_settings.checked("import", criteo.Config, given, settings)
    write = criteo.write_days if by_day else criteo.write
    with console.progress() as sink:
        counts = ingest.write_whole(out, lambda root: write(config, root, sink), overwrite=overwrite)
    data_settings.echo_rows(out, counts)
    kind = "labelled_days" if by_day else "splits"
    typer.echo(
        f"train on it: --set data.kind={kind} --set data.source={out}; {out / criteo.SIZES} has the tables' sizes",
        err=True,
    )


@app.command()
def profile(
    path: Annotated[str, typer.Argument(help="file, folder, glob, or several with commas between", show_default=False)],
    *,
    columns: Annotated[str | None, typer.Option(metavar="A,B", help="only these columns", show_default=False)] = None,
    sample: Annotated[
        int | None, typer.Option(min=1, metavar="ROWS", help="read about so many rows", show_default=False)
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="how many of the most frequent values")] = 10,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="picture of every column, .png or .html", show_default=False)
    ] = None,
    schema: Annotated[
        Path | None,
        typer.Option(metavar="FILE.yaml", help="write types and tags, for contract.file", show_default=False),
    ] = None,
    table: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="of the table in the schema; by default the folder's", show_default=False),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="csv.KEY=VALUE", help="how CSV files are written, such as csv.delimiter=';'"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object instead of a table")] = False,
) -> None:
    """Say what a table holds: of each column its type, nulls, distinct values, ends, quantiles, top values and lengths.

    `dayline data profile data/shop/interactions`

    `dayline data profile 'logs/ds=2024-01-*/*.parquet' --columns price,label --plot profile.html`

    `dayline data profile data/shop/users --schema configs/shop_contract.yaml`

    It reads the table once. Counts are exact; `distinct` is exact up to 65,536 and then a HyperLogLog estimate
    (standard error 0.8 %), quantiles and top values come with the largest error they can have. `user`, `item`, `label`
    and the like are suggestions, with a reason: see docs/data-contract.md.
    """
    from flows import console, profiles
    from recsys_core import profile as profiling
    from recsys_core.contract import tables
    from recsys_core.profile import plot as plots

    if plot is not None:
        plots.refuse_other_suffix(plot)
    wanted = [name.strip() for name in columns.split(",")] if columns else None
    given: dict[str, Any] = {}
    applied = data_settings.apply(given, settings)
    options = data_settings.validated(profiling.Config, "profile", given, applied).csv
    with console.progress() as sink:
        found = profiling.run(path, sink, columns=wanted, sample_rows=sample, num_top=top, csv=options)
    if plot is not None:
        plots.save(found, plot)
        typer.echo(f"{plot}: the picture", err=True)
    if schema is not None:
        name = table or profiling.table_name(path)
        tables.write(schema, name, found)
        typer.echo(f"{schema}: table {name}; check it, then --set contract.file={schema}", err=True)
    if as_json:
        typer.echo(found.model_dump_json(indent=2))
    else:
        profiles.show(found)
