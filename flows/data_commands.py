"""`dayline data`: make a log in the daily layout, from nothing or from published data; see what a table holds."""

import json
from collections.abc import Sequence
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.impressions_command import join_impressions

if TYPE_CHECKING:
    from recsys_core.config import parsing

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="""Make a log in the daily layout: interactions/, users/ and items/, each in folders ds=YYYY-MM-DD of Parquet.
    Or look into any table with `dayline data profile`.

    Train on it with `data: {kind: daily, source: DIR}`. A config can also name a source by its own kind
    (`data: {kind: movielens_100k, source: ml-100k.zip}`); it is then imported by the run.""",
)

app.command("join-impressions")(join_impressions)

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
    as_examples: Annotated[
        bool, typer.Option("--as-examples", help="ready-made examples for data.kind: examples, in place of a log")
    ] = False,
    settings: _Settings = None,
    overwrite: _Overwrite = False,
) -> None:
    """Make up a shop's click log whose structure a model can find.

    Users have tastes that their fields reveal in part, and that drift; items have styles; popularity is a power law;
    new users and new items come every day; fields are missing now and then.

    `dayline data generate --out data/shop`

    `dayline data generate --out data/large --users 2000000 --items 200000 --interactions 5000000 --days 8`

    Other keys: new_users_per_day, new_items_per_day, num_categories, styles_per_category, taste_strength,
    popularity_exponent, drift, drift_days, missing_share. A log of more days begins with the one of fewer.

    With `--as-examples`, the same clicks as rows that are ready to train on, each with what its user had clicked before
    it, rows to be measured on, an item table and a weighted table of negatives, all by day: train/, evaluation/, items/
    and negatives/.

    `dayline data generate --as-examples --out data/u2i`, then `dayline run configs/u2i_examples.yaml`
    """
    given = {
        "kind": "synthetic",
        "num_days": days,
        "num_users": users,
        "num_items": items,
        "interactions_per_day": interactions,
        "seed": seed,
    } | ({"first_day": first_day.date()} if first_day else {})
    if as_examples:
        _write_examples(given, settings, out, overwrite=overwrite)
        return
    _write("generate", given, settings, out, overwrite=overwrite)


def _write_examples(given: dict[str, Any], settings: Sequence[str] | None, out: Path, *, overwrite: bool) -> None:
    from flows import console
    from recsys_core import ingest
    from recsys_core.datasets import _shop_examples

    config = _config("generate", given, settings, ingest.CATALOGUE)
    with console.progress() as sink:
        made = ingest.write_whole(out, lambda root: _shop_examples.write(config, root, sink), overwrite=overwrite)
    typer.echo(
        f"{out}: {made.num_train:,} rows of training and {made.num_evaluation:,} of evaluation on {made.num_days} "
        f"days, {made.num_items:,} items"
    )
    typer.echo("train on it: configs/u2i_examples.yaml says how", err=True)


@app.command("generate-ctr")
def generate_ctr(
    *,
    out: _Out,
    days: Annotated[
        int | None, typer.Option(min=1, help="days of impressions, in folders ds=YYYY-MM-DD", show_default=False)
    ] = None,
    rows_per_day: Annotated[
        int | None, typer.Option(min=1, help="impressions of each day; by default 40000", show_default=False)
    ] = None,
    files: Annotated[int | None, typer.Option(min=1, help="files of splits; by default 10", show_default=False)] = None,
    rows: Annotated[int | None, typer.Option(min=1, help="rows of each; by default 2047", show_default=False)] = None,
    max_length: Annotated[
        int | None, typer.Option(min=1, help="their longest sequence; by default 2000", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(help="the same seed makes the same rows")] = 0,
    settings: _Settings = None,
    overwrite: _Overwrite = False,
    as_json: Annotated[bool, typer.Option("--json", help="print what was made as JSON")] = False,
) -> None:
    """Make up labelled rows: a shop's impressions by day, or splits with long sequences.

    With `--days`, impressions and whether they were clicked, in Parquet by day: users, items and their fields, with
    planted click probabilities that drift, and new users and items every day. Printed is the best AUC that is
    attainable on each day, that of the true probabilities; `_attainable.json` in the folder has it too.

    `dayline data generate-ctr --out data/ctr --days 12 --rows-per-day 40000`, then `dayline backfill
    configs/ctr_daily.yaml --from 2024-01-04 --to 2024-01-10`

    Other keys: first_day, num_users, new_users_per_day, num_items, new_items_per_day, signal, id_effects, drift_days,
    and `--set shuffled_days=[2024-01-06]`, whose labels are shuffled.

    `--set position_by_item=0.9 --set position_effect=0.4` plants a position bias: where an item stands follows from the
    item, and is no merit of it. `_truth` in the folder has the click probability of each row at the first position.

    Without it, ORC files below train/ and test/, in the shape of the rows that RecIS's CTR example is trained on: 8
    dense numbers, one to be bucketised, three ids, a sequence of integers and one of texts. Labels follow from them in
    part (`--set signal=0`: not at all, as there).

    `dayline data generate-ctr --out data/deepctr`, then `dayline run configs/recis_deepctr.yaml --set data.kind=splits
    --set data.source=data/deepctr`; without that, the config makes the same rows itself.

    Other keys: num_test_files, num_texts.
    """
    by_day = {"num_days": days, "rows_per_day": rows_per_day}
    of_splits = {"num_files": files, "rows_per_file": rows, "max_length": max_length}
    if days is None and rows_per_day is not None:
        raise typer.BadParameter("--rows-per-day: goes with --days")
    if days is not None and any(value is not None for value in of_splits.values()):
        raise typer.BadParameter("--files, --rows and --max-length are of splits; with --days say --rows-per-day")
    given = {key: value for key, value in (of_splits if days is None else by_day).items() if value is not None}
    given["seed"] = seed
    if days is None:
        _write_splits(given, settings, out, overwrite=overwrite, as_json=as_json)
    else:
        _write_impressions(given, settings, out, overwrite=overwrite, as_json=as_json)


def _write_splits(
    given: dict[str, Any], settings: Sequence[str] | None, out: Path, *, overwrite: bool, as_json: bool
) -> None:
    from flows import console
    from recsys_core import ingest
    from recsys_core.ranking import prepare

    given |= {"kind": "deepctr", "day": "2025-09-01"}
    config = _config("generate-ctr", given, settings, prepare.CATALOGUE)
    with console.progress() as sink:
        counts = ingest.import_log(config, out, sink, overwrite=overwrite, catalogue=prepare.CATALOGUE)
    if as_json:
        typer.echo(json.dumps(counts, indent=2))
    else:
        typer.echo(f"{out}: {', '.join(f'{rows:,} rows of {split}' for split, rows in counts.items())}")


def _write_impressions(
    given: dict[str, Any], settings: Sequence[str] | None, out: Path, *, overwrite: bool, as_json: bool
) -> None:
    from flows import console
    from recsys_core import ingest
    from recsys_core.datasets.labelled import _impressions

    config = _checked("generate-ctr", _impressions.Config, given, settings)
    with console.progress() as sink:
        made = ingest.write_whole(out, lambda root: _impressions.write(config, root, sink), overwrite=overwrite)
    if as_json:
        typer.echo(json.dumps([day.model_dump(mode="json") for day in made], indent=2))
        return
    for day in made:
        best = "not defined" if day.auc is None else f"{day.auc:.4f}"
        typer.echo(f"{day.day}: {day.num_rows:,} rows, {day.num_clicks:,} clicks, best attainable AUC {best}")
    typer.echo(f"train on it: --set data.kind=labelled_days --set data.source={out}", err=True)


@app.command("import")
def import_(
    kind: Annotated[
        str,
        typer.Argument(
            help="interactions, sequences, lightgcn, recbole, movielens-100k, movielens-1m, taobao-ad or tables",
            show_default=False,
        ),
    ],
    source: Annotated[
        str, typer.Argument(help="file, folder, zip, or http(s) URL of a zip; of tables a mapping", show_default=False)
    ],
    out: _Out,
    day: Annotated[
        datetime | None,
        typer.Option(
            formats=["%Y-%m-%d"], metavar="YYYY-MM-DD", help="of tables: replace this day alone", show_default=False
        ),
    ] = None,
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
    """
    from recsys_core.config import reading

    read = source
    if source.startswith("{"):
        message = f"{reading.visible(source)} is no mapping {{interactions: PATH, users: PATH, items: PATH}}"
        read = reading.value(source, message, lines=False)
    given = {"kind": kind.replace("-", "_"), "source": read}
    given |= {"checksum": checksum} if checksum else {}
    _write("import", given, settings, out, overwrite=overwrite, day=day and day.date())


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
    applied = _applied(given, settings)
    options = _validated(profiling.Config, "profile", given, applied).csv
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


def _config(command: str, given: dict[str, Any], settings: Sequence[str] | None, catalogue: str) -> Any:
    from recsys_core import lookup

    return _checked(command, lookup.component(catalogue, given["kind"]).Config, given, settings)


def _checked(command: str, record: Any, given: dict[str, Any], settings: Sequence[str] | None) -> Any:
    from recsys_core.config import limits

    config = _validated(record, command, given, _applied(given, settings))
    try:
        limits.check(config)
    except ValueError as error:
        raise ValueError(f"dayline data {command}: {error}") from None
    return config


def _applied(given: dict[str, Any], settings: Sequence[str] | None) -> "dict[tuple[parsing.Key, ...], str]":
    """Change `given` by what is set on the command line; return by which option each key was."""
    from recsys_core.config.overrides import override

    applied: dict[tuple[parsing.Key, ...], str] = {}
    for setting in settings or ():
        applied |= override(given, setting)
    return applied


def _validated(record: Any, command: str, given: dict[str, Any], applied: "dict[tuple[parsing.Key, ...], str]") -> Any:
    from recsys_core.config import parsing

    return parsing.validate(record, given, Path(f"dayline data {command}"), applied)


def _write(
    command: str,
    given: dict[str, Any],
    settings: Sequence[str] | None,
    out: Path,
    *,
    overwrite: bool,
    day: date | None = None,
) -> None:
    from flows import console
    from recsys_core import ingest

    config = _config(command, given, settings, ingest.CATALOGUE)
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
