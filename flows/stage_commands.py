"""`dayline embed` and `dayline predict`: any table through an exported model, to any table."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from flows import alone

if TYPE_CHECKING:
    from recsys_core.artifacts import ExportedModel, ExportedRanker
    from recsys_core.registry.named import Named

ALL_COLUMNS = "ALL_COLUMNS"

Release = Annotated[
    str | None,
    typer.Option(metavar="NAME[@ALIAS]", help="a release, such as shop@champion or shop@3", show_default=False),
]
Run = Annotated[Path | None, typer.Option(metavar="DIR", help="a run, runs/NAME/DAY/RUN_ID", show_default=False)]
_Model = Annotated[
    Path | None, typer.Option(metavar="DIR", help="an exported model, or a released bundle", show_default=False)
]
TrackingUri = Annotated[
    str | None,
    typer.Option(
        metavar="URI",
        help="MLflow, for --release; by default MLFLOW_TRACKING_URI, or mlflow.db in --run-root",
        show_default=False,
    ),
]
RunRoot = Annotated[Path, typer.Option(metavar="DIR", help="the folder of all runs, for --release")]
NumRanks = Annotated[int, typer.Option(min=1, metavar="N", help="processes that share the work")]
AsJson = Annotated[bool, typer.Option("--json", help="print one JSON object in place of the summary line")]
_Input = Annotated[
    str, typer.Option("--input", metavar="PATH", help="a table: files, folders, globs, s3://, odps://, …")
]
_Output = Annotated[str, typer.Option("--output", metavar="PATH", help="a folder to make, s3://…, or odps://…")]
_Reserved = Annotated[
    str, typer.Option(metavar="a,b|ALL_COLUMNS", help="columns of the table that are written beside the model's")
]
_OutputColumns = Annotated[
    str | None,
    typer.Option(
        metavar="NAME[=AS],…",
        help="columns of the model that are written, and what they are called then; by default all",
        show_default=False,
    ),
]
_BatchSize = Annotated[int, typer.Option(min=1, metavar="N", help="rows that a process computes at once")]
_DistinctBy = Annotated[
    str | None,
    typer.Option(metavar="COLUMN", help="write one row for each value of this column", show_default=False),
]
_Keep = Annotated[Literal["first", "last"], typer.Option(help="which row that is, with --distinct-by")]
_Csv = Annotated[
    str | None,
    typer.Option(metavar="JSON", help="""how CSV is read, as '{"delimiter": ";"}'""", show_default=False),
]
_Format = Annotated[
    Literal["parquet", "csv", "orc"] | None,
    typer.Option("--format", help="of the files; by default as --output ends, or Parquet", show_default=False),
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(embed)
    app.command()(predict)


def embed(
    *,
    side: Annotated[Literal["query", "item"], typer.Option(help="the tower that is run", show_default=False)],
    source: _Input,
    output: _Output,
    model: _Model = None,
    release: Release = None,
    run: Run = None,
    reserved_columns: _Reserved = ALL_COLUMNS,
    output_columns: _OutputColumns = None,
    batch_size: _BatchSize = 8_192,
    distinct_by: _DistinctBy = None,
    keep: _Keep = "first",
    file_format: _Format = None,
    csv: _Csv = None,
    num_ranks: NumRanks = 1,
    run_root: RunRoot = Path("runs"),
    tracking_uri: TrackingUri = None,
    as_json: AsJson = False,
) -> None:
    """Write a vector, `embedding`, for each row of a table, in the table's order.

    `dayline embed --release shop@champion --side item --input data/shop/items --output vectors/items`

    `dayline embed --model runs/shop/DAY/RUN_ID/export --side query --input 's3://log/ds=2024-01-07/*.parquet'
    --output vectors/users --reserved-columns user_id --output-columns embedding=user_tower_emb --distinct-by user_id`

    Run it again after it was killed, and it goes on with what is left. A rerun replaces what the command wrote before;
    anything else at the output is refused.
    """
    asked = {
        "side": side,
        "source": source,
        "table": output,
        "reserved_columns": reserved_columns,
        "output_columns": output_columns,
        "batch_size": batch_size,
        "distinct_by": distinct_by,
        "keep": keep,
        "format": file_format,
        "csv": csv,
    }
    with alone.refusing():
        found = _named(model, release, run, tracking_uri, run_root)
        _apply("embed", found, found.towers(), asked, num_ranks, as_json=as_json)


def predict(
    *,
    source: _Input,
    output: _Output,
    model: _Model = None,
    release: Release = None,
    run: Run = None,
    reserved_columns: _Reserved = ALL_COLUMNS,
    output_columns: _OutputColumns = None,
    batch_size: _BatchSize = 8_192,
    distinct_by: _DistinctBy = None,
    keep: _Keep = "first",
    file_format: _Format = None,
    csv: _Csv = None,
    num_ranks: NumRanks = 1,
    run_root: RunRoot = Path("runs"),
    tracking_uri: TrackingUri = None,
    as_json: AsJson = False,
) -> None:
    """Write a ranking model's `score` (the logit) and `probability` for each row of a table, in the table's order.

    Of several tasks each has its own, `score_NAME` and `probability_NAME`.

    `dayline predict --release ctr@champion --input data/ctr/ds=2024-01-11 --output scores/2024-01-11`

    `dayline predict --run runs/frappe/DAY/RUN_ID --input rows.csv --output 'odps://project/tables/scores/ds=2024-01-11'
    --reserved-columns user_id,item_id --output-columns probability`

    Run it again after it was killed, and it goes on with what is left. A rerun replaces what the command wrote before;
    anything else at the output is refused.
    """
    asked = {
        "source": source,
        "table": output,
        "reserved_columns": reserved_columns,
        "output_columns": output_columns,
        "batch_size": batch_size,
        "distinct_by": distinct_by,
        "keep": keep,
        "format": file_format,
        "csv": csv,
    }
    with alone.refusing():
        found = _named(model, release, run, tracking_uri, run_root)
        _apply("predict", found, found.ranker(), asked, num_ranks, as_json=as_json)


def _named(model: Path | None, release: str | None, run: Path | None, uri: str | None, run_root: Path) -> "Named":
    from recsys_core.registry import named

    if sum(one is not None for one in (model, release, run)) != 1:
        raise ValueError("name the model by one of --model, --release and --run")
    return named.find(folder=model, release=release, run=run, uri=uri, run_root=run_root)


def _apply(
    stage: Literal["embed", "predict"],
    found: "Named",
    model: "ExportedModel | ExportedRanker",
    asked: dict[str, Any],
    num_ranks: int,
    *,
    as_json: bool,
) -> None:
    """Run the stage over the table that is asked for, and print what came of it."""
    from recsys_core import readers
    from recsys_core.artifacts import TableRows, code_version, digest_of
    from recsys_core.exported.requests import TableRequest
    from recsys_core.launch import Local
    from recsys_core.writers import Destination

    reserved, columns = asked["reserved_columns"], asked["output_columns"]
    request: dict[str, Any] = asked | {
        "reserved_columns": None if reserved == ALL_COLUMNS else _names("--reserved-columns", reserved),
        "output_columns": None if columns is None else _renamed(columns),
        "format": asked["format"] or _format(asked["table"]),
        "csv": readers.CsvOptions() if asked["csv"] is None else _options(asked["csv"]),
    }
    destination = Destination(asked["table"])
    destination.refuse_others()
    # What names nothing is refused before a process is started.
    readers.infer(asked["source"], request["csv"])
    work = destination.work(alone.cache())
    with alone.working(work):
        made = TableRequest(
            output=work / stage,
            config_hash=digest_of([]),
            code_version=code_version(),
            stage=stage,
            model=model,
            **request,
        )
        done = alone.perform(f"{stage}_table", TableRows, made, Local(num_ranks=num_ranks))
    written: TableRows = done.artifact
    alone.summary(
        f"{written.table}: {written.num_rows:,} rows in {done.seconds:.1f} s ({done.rows_per_second:,}/s), "
        f"{', '.join(written.columns)}, by {found.title}",
        {
            "output": written.table,
            "num_rows": written.num_rows,
            "columns": written.columns,
            "model": found.title,
            "model_digest": written.model_digest,
            "seconds": round(done.seconds, 3),
            "rows_per_second": done.rows_per_second,
        },
        as_json=as_json,
    )


def _format(path: str) -> str:
    return next((kind for kind in ("csv", "orc") if path.rstrip("/").endswith(f".{kind}")), "parquet")


def _names(option: str, text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",")) if text else ()
    if not all(names) or len({*names}) < len(names):
        raise ValueError(f"{option} {text!r}: name each column once, with commas between them")
    return names


def _renamed(text: str) -> dict[str, str]:
    """Return what `a,b=c` means: the model's columns, each with what it is to be called."""
    pairs = [
        (name.strip(), new.strip() or name.strip()) for name, _, new in (one.partition("=") for one in text.split(","))
    ]
    _names("--output-columns", ",".join(name for name, _ in pairs))
    _names("--output-columns", ",".join(new for _, new in pairs))
    return dict(pairs)


def _options(text: str) -> Any:
    from recsys_core import integrity, readers

    try:
        given = json.loads(text)
    except ValueError as error:
        raise ValueError(f"--csv {text!r}: not JSON ({error})") from None
    if not isinstance(given, dict):
        raise ValueError(f"--csv {text!r}: not a JSON object of options")  # noqa: TRY004
    return integrity.validated(readers.CsvOptions, given, "--csv")
