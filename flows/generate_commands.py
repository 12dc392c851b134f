"""`dayline data generate` and `generate-ctr`: logs and labelled rows whose structure is planted."""

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from flows import data_settings


def generate(
    *,
    out: data_settings.Out,
    shape: Annotated[
        Literal["shop", "criteo"], typer.Option(help="a shop's click log, or the text of Criteo's logs")
    ] = "shop",
    days: Annotated[
        int | None,
        typer.Option(help="how many days; of a shop 20, of criteo files day_0, day_1, …", show_default=False),
    ] = None,
    first_day: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d"], metavar="YYYY-MM-DD", help="by default 2024-01-01", show_default=False),
    ] = None,
    users: Annotated[
        int | None, typer.Option(help="users on the first day, by default 20000; some more register every day")
    ] = None,
    items: Annotated[
        int | None, typer.Option(help="items on the first day, by default 5000; some more come every day")
    ] = None,
    interactions: Annotated[int | None, typer.Option(help="clicks a day, about; by default 30000")] = None,
    rows: Annotated[int | None, typer.Option(help="of criteo: all rows, by default 1000000")] = None,
    seed: Annotated[int, typer.Option(help="the same seed makes the same bytes")] = 0,
    as_examples: Annotated[
        bool, typer.Option("--as-examples", help="ready-made examples for data.kind: examples, in place of a log")
    ] = False,
    settings: data_settings.Settings = None,
    overwrite: data_settings.Overwrite = False,
    as_json: Annotated[bool, typer.Option("--json", help="of criteo: print what was made as JSON")] = False,
) -> None:
    """Make up a shop's click log whose structure a model can find, or a log in the shape of Criteo's.

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

    With `--shape criteo`, labelled rows as the published text has them: the columns, distinct values and missing shares
    of the Kaggle challenge, and clicks by planted probabilities, whose AUC is printed: no model can expect more.
    Other keys: signal, gzip.

    `dayline data generate --shape criteo --rows 45840617 --out data/criteo-raw`, then `dayline run
    configs/dlrm_criteo_kaggle.yaml --set data.source=data/criteo-raw`
    """
    of_shop: dict[str, Any] = {"num_users": users, "num_items": items, "interactions_per_day": interactions}
    of_shop["first_day"] = first_day and first_day.date()
    if shape == "criteo":
        if as_examples or any(value is not None for value in of_shop.values()):
            raise typer.BadParameter("--first-day, --users, --items, --interactions and --as-examples are of a shop")
        given = {key: value for key, value in {"num_days": days, "num_rows": rows}.items() if value is not None}
        _write_criteo(given | {"seed": seed}, settings, out, overwrite=overwrite, as_json=as_json)
        return
    if rows is not None or as_json:
        raise typer.BadParameter("--rows and --json are of --shape criteo")
    of_shop |= {"num_days": days}
    given = {"kind": "synthetic", "seed": seed} | {key: value for key, value in of_shop.items() if value is not None}
    if as_examples:
        _write_examples(given, settings, out, overwrite=overwrite)
        return
    data_settings.write("generate", given, settings, out, overwrite=overwrite)


def _write_criteo(
    given: dict[str, Any], settings: Sequence[str] | None, out: Path, *, overwrite: bool, as_json: bool
) -> None:
    from flows import console
    from recsys_core import ingest
    from recsys_core.datasets.labelled import _criteo_made

    config = data_settings.checked("generate", _criteo_made.Config, given, settings)
    with console.progress() as sink:
        made = ingest.write_whole(out, lambda root: _criteo_made.write(config, root, sink), overwrite=overwrite)
    if as_json:
        typer.echo(made.model_dump_json(indent=2))
        return
    typer.echo(
        f"{out}: {made.num_rows:,} rows, {made.num_clicks:,} clicks, best attainable AUC {made.auc:.4f}, logloss "
        f"{made.logloss:.4f}"
    )
    typer.echo(f"train on it: dayline run configs/dlrm_criteo_kaggle.yaml --set data.source={out}", err=True)


def _write_examples(given: dict[str, Any], settings: Sequence[str] | None, out: Path, *, overwrite: bool) -> None:
    from flows import console
    from recsys_core import ingest
    from recsys_core.datasets import _shop_examples

    config = data_settings.component("generate", given, settings, ingest.CATALOGUE)
    with console.progress() as sink:
        made = ingest.write_whole(out, lambda root: _shop_examples.write(config, root, sink), overwrite=overwrite)
    typer.echo(
        f"{out}: {made.num_train:,} rows of training and {made.num_evaluation:,} of evaluation on {made.num_days} "
        f"days, {made.num_items:,} items"
    )
    typer.echo("train on it: configs/u2i_examples.yaml says how", err=True)


def generate_ctr(
    *,
    out: data_settings.Out,
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
    settings: data_settings.Settings = None,
    overwrite: data_settings.Overwrite = False,
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
        given |= {"kind": "deepctr", "day": "2025-09-01"}
        data_settings.write_labelled("generate-ctr", given, settings, out, overwrite=overwrite, as_json=as_json)
    else:
        _write_impressions(given, settings, out, overwrite=overwrite, as_json=as_json)


def _write_impressions(
    given: dict[str, Any], settings: Sequence[str] | None, out: Path, *, overwrite: bool, as_json: bool
) -> None:
    from flows import console
    from recsys_core import ingest
    from recsys_core.datasets.labelled import _impressions

    config = data_settings.checked("generate-ctr", _impressions.Config, given, settings)
    with console.progress() as sink:
        made = ingest.write_whole(out, lambda root: _impressions.write(config, root, sink), overwrite=overwrite)
    if as_json:
        typer.echo(json.dumps([day.model_dump(mode="json") for day in made], indent=2))
        return
    for day in made:
        best = "not defined" if day.auc is None else f"{day.auc:.4f}"
        typer.echo(f"{day.day}: {day.num_rows:,} rows, {day.num_clicks:,} clicks, best attainable AUC {best}")
    typer.echo(f"train on it: --set data.kind=labelled_days --set data.source={out}", err=True)
