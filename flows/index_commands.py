"""`dayline index` and `dayline hit-rate`: item vectors made searchable, and what they find, of tables of your own."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows import alone

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from recsys_core.artifacts import Index, Request
    from recsys_core.progress import Sink
    from recsys_core.retrieval.hit_rate.of_tables import Measured
    from recsys_core.retrieval.hit_rate.of_tables import Request as HitRateRequest

    R = TypeVar("R", bound=Request)

_Items = Annotated[
    str, typer.Option(metavar="PATH", help="table of the items: file, folder, glob, s3://, odps://", show_default=False)
]
_ItemId = Annotated[str, typer.Option(metavar="COL", help="its column of ids")]
_ItemVector = Annotated[str, typer.Option(metavar="COL", help="its column of vectors: lists, or texts of numbers")]
_Metric = Annotated[str, typer.Option(metavar="ip|l2|cosine", help="by what items are ranked")]
_Separator = Annotated[str, typer.Option(help="between the entries of texts that hold vectors or ids")]
_Nlist = Annotated[int | None, typer.Option(min=1, help="ivf_*: cells; by default as many as suit the items")]
_Nprobe = Annotated[int | None, typer.Option(min=1, help="ivf_*: cells visited for a query")]
_HnswM = Annotated[int | None, typer.Option(min=2, help="hnsw: neighbours of an item in the graph")]
_EfConstruction = Annotated[int | None, typer.Option(min=1, help="hnsw: candidates kept while the graph is built")]
_EfSearch = Annotated[int | None, typer.Option(min=1, help="hnsw: candidates kept while it is searched")]
_PqM = Annotated[int | None, typer.Option(min=1, help="ivf_pq: parts (bytes) of a vector's code")]
_Factory = Annotated[str | None, typer.Option(help="factory: FAISS's string, such as OPQ16,IVF1024,PQ16")]
_TargetRecall = Annotated[
    float | None, typer.Option(help="share of the exact lists that a search returns; it visits the least for that")
]
_Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="any other key of the kind; repeatable")
]
_Seed = Annotated[int, typer.Option(min=0, help="the same seed makes the same bytes")]
_AsJson = Annotated[bool, typer.Option("--json", help="print the result as JSON instead of a line")]


def index(
    *,
    items: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="table of the items: file, folder, glob, s3://, odps://", show_default=False),
    ] = None,
    out: Annotated[Path, typer.Option(help="folder to make; it appears when it is complete", show_default=False)],
    item_id: _ItemId = "item_id",
    item_vector: _ItemVector = "embedding",
    kind: Annotated[str, typer.Option(help="flat, ivf_flat, hnsw, or one of your own package")] = "ivf_flat",
    metric: _Metric = "ip",
    nlist: _Nlist = None,
    nprobe: _Nprobe = None,
    hnsw_m: _HnswM = None,
    ef_construction: _EfConstruction = None,
    ef_search: _EfSearch = None,
    pq_m: _PqM = None,
    factory: _Factory = None,
    target_recall: _TargetRecall = None,
    settings: _Settings = None,
    queries: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="queries by which recall is measured; by default items", show_default=False),
    ] = None,
    query_id: Annotated[str, typer.Option(metavar="COL", help="their column of ids")] = "request_id",
    query_vector: Annotated[str, typer.Option(metavar="COL", help="their column of vectors")] = "embedding",
    recall_k: Annotated[str, typer.Option(metavar="K,K", help="lengths of the exact lists that are compared")] = "50",
    update: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="an index that gets --items, and is not built again", show_default=False),
    ] = None,
    remove: Annotated[
        str | None, typer.Option(metavar="PATH", help="table of items that --update loses", show_default=False)
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="picture of recall by what a search visits", show_default=False)
    ] = None,
    memory_gb: Annotated[
        float | None,
        typer.Option(metavar="GB", help="build on disk, with at most this much memory", show_default=False),
    ] = None,
    separator: _Separator = ",",
    seed: _Seed = 0,
    as_json: _AsJson = False,
) -> None:
    """Build an index over the vectors of a table, any number of items from 1 on.

    `dayline index --items vectors.parquet --item-id id --item-vector emb --out index`

    `dayline index --items 'vectors/*.csv' --kind hnsw --hnsw-m 16 --metric cosine --out index --queries users.parquet
    --target-recall 0.98 --plot recall.png`

    `dayline index --update index --items new.parquet --remove gone.parquet --out index-today`

    The folder has `index.faiss`, which `faiss.read_index` reads, `id_map.parquet`, whose row i is the item of FAISS's
    id i, `recall.json`, what was measured, and a manifest with sizes, reasons and digests. docs/retrieval-tools.md
    says more.
    """
    from recsys_core.artifacts import Index
    from recsys_core.retrieval import index as stage
    from recsys_core.retrieval.own_tables import ItemTable

    given = {"nlist": nlist, "nprobe": nprobe, "hnsw_m": hnsw_m, "ef_construction": ef_construction}
    given |= {"ef_search": ef_search, "pq_m": pq_m, "factory": factory, "target_recall": target_recall}
    columns = {"id_column": item_id, "vector_column": item_vector, "separator": separator}
    table = ItemTable(path=items, **columns) if items else None
    if update is not None:
        _refuse_of_builds(given | {"settings": settings, "queries": queries, "plot": plot, "memory_gb": memory_gb})
        gone = ItemTable(path=remove, **columns) if remove else None
        if not table and not gone:
            alone.refuse("--update: name --items that it gets, or items to --remove")
        with alone.refusing():
            alone.require_ours(out, Index)
            changed = stage.UpdateRequest.of(update, table, gone, out)
        _print_index(_made(changed, stage.update), as_json=as_json)
        return
    if not table:
        alone.refuse("--items: missing; name the table of the items")
    if remove is not None:
        alone.refuse("--remove: goes with --update")
    _refuse_picture(plot)
    config = _index_config("index", kind, given, settings)
    asked = None
    if queries:
        asked = ItemTable(path=queries, id_column=query_id, vector_column=query_vector, separator=separator)
    with alone.refusing():
        alone.require_ours(out, Index)
        request = stage.TableRequest.of(
            table,
            config,
            out,
            metric=_metric(metric),
            seed=seed,
            queries=asked,
            recall_ks=_ks(recall_k, "--recall-k"),
            memory_bytes=None if memory_gb is None else int(memory_gb * 1e9),
        )
    made = _made(request, stage.run_table)
    if plot is not None:
        from recsys_core import plots
        from recsys_core.artifacts import IndexRecall

        plots.recall(IndexRecall.model_validate_json((out / "recall.json").read_text()), made.factory).savefig(plot)
        typer.echo(f"{plot}: the picture", err=True)
    _print_index(made, as_json=as_json)


def hit_rate(
    *,
    queries: Annotated[
        str, typer.Option(metavar="PATH", help="table of requests, each with what it wants", show_default=False)
    ],
    items: _Items,
    request_id: Annotated[str, typer.Option(metavar="COL", help="the requests' column of ids")] = "request_id",
    ground_truth: Annotated[
        str, typer.Option(metavar="COL", help="their column of wanted items: lists, or texts of ids")
    ] = "gt_items",
    query_vector: Annotated[str, typer.Option(metavar="COL", help="their column of vectors")] = "embedding",
    item_id: _ItemId = "item_id",
    item_vector: _ItemVector = "embedding",
    top_k: Annotated[str, typer.Option(metavar="K,K", help="lengths of the lists that are measured")] = "20,50,200",
    metric: _Metric = "ip",
    index: Annotated[
        str, typer.Option(metavar="KIND|DIR", help="a kind of index to build, or a folder of `dayline index`")
    ] = "flat",
    nlist: _Nlist = None,
    nprobe: _Nprobe = None,
    hnsw_m: _HnswM = None,
    ef_construction: _EfConstruction = None,
    ef_search: _EfSearch = None,
    pq_m: _PqM = None,
    factory: _Factory = None,
    target_recall: _TargetRecall = None,
    settings: _Settings = None,
    num_interests: Annotated[
        int, typer.Option(min=1, help="vectors of each request, behind each other in its row")
    ] = 1,
    num_interests_column: Annotated[
        str | None, typer.Option(metavar="COL", help="how many they are, row by row; rows may be padded")
    ] = None,
    seen: Annotated[
        str | None, typer.Option(metavar="COL", help="items of each request that take up no places in its list")
    ] = None,
    separator: _Separator = ",",
    output: Annotated[
        str | None, typer.Option(metavar="PATH", help="table to write the figures to, a row per K")
    ] = None,
    details: Annotated[
        str | None, typer.Option(metavar="PATH", help="table to write each request's list and hits to")
    ] = None,
    num_ranks: Annotated[
        int, typer.Option(min=1, metavar="N", help="processes of an exact search, each with its share of the items")
    ] = 1,
    memory_gb: Annotated[
        float | None,
        typer.Option(
            metavar="GB",
            help="of each such process, at most; vectors that do not fit are searched in a file",
            show_default=False,
        ),
    ] = None,
    seed: _Seed = 0,
    as_json: _AsJson = False,
) -> None:
    """Measure what requests find among items: hit rate, recall and NDCG at every K, by exact search or an index.

    `dayline hit-rate --queries users.parquet --items items.parquet --query-vector emb --item-vector emb --json`

    `dayline hit-rate --queries odps://p/tables/users --items odps://p/tables/items --index ivf_flat --nprobe 64
    --top-k 200 --output odps://p/tables/total --details odps://p/tables/details`

    `dayline hit-rate --queries users.parquet --items items.parquet --num-ranks 4 --memory-gb 3 --json`

    Names that end in `.csv`, `.tsv` or `.orc` are folders of such files, other folders hold Parquet.
    """
    from flows import console
    from recsys_core.retrieval.hit_rate import of_tables
    from recsys_core.retrieval.own_tables import ItemTable, RequestTable
    from recsys_core.writers import Destination

    if num_interests > 1 and num_interests_column is not None:
        alone.refuse("--num-interests and --num-interests-column both say how many they are; give one")
    tables = {name: path for name, path in (("--output", output), ("--details", details)) if path is not None}
    if output is not None and output == details:
        alone.refuse(f"--output and --details are both {output}; name two tables")
    for name, path in tables.items():
        try:
            Destination(path).refuse_others()
        except ValueError as error:
            alone.refuse(f"{name}: {error}")
    given = {"nlist": nlist, "nprobe": nprobe, "hnsw_m": hnsw_m, "ef_construction": ef_construction}
    given |= {"ef_search": ef_search, "pq_m": pq_m, "factory": factory, "target_recall": target_recall}
    folder = Path(index) if "/" in index or Path(index).is_dir() else None
    if folder is not None and (settings or any(value is not None for value in given.values())):
        alone.refuse(f"--index: {folder} is built already, so that no option of a kind has an effect on it")
    chosen = {} if folder else {"index": _index_config("hit-rate", index, given, settings)}
    request = of_tables.Request(
        items=ItemTable(path=items, id_column=item_id, vector_column=item_vector, separator=separator),
        requests=RequestTable(
            path=queries,
            id_column=request_id,
            truth_column=ground_truth,
            vector_column=query_vector,
            seen_column=seen,
            num_interests=num_interests,
            interests_column=num_interests_column,
            separator=separator,
        ),
        ks=_ks(top_k, "--top-k"),
        metric=_metric(metric),
        folder=folder,
        seed=seed,
        output=output,
        details=details,
        **chosen,
    )
    if num_ranks > 1 or memory_gb is not None:
        if index != "flat":
            alone.refuse(
                f"--num-ranks and --memory-gb are of an exact search, and --index is {index}; leave one of them out"
            )
        _print(_by_processes(request, num_ranks, memory_gb), as_json=as_json)
        return
    with alone.refusing(), console.progress() as sink:
        measured = of_tables.run(request, sink)
    _print(measured, as_json=as_json)


def _by_processes(request: "HitRateRequest", num_ranks: int, memory_gb: float | None) -> "Measured":
    """Search exactly in processes that each hold a share of the items, and measure what they have found."""
    from flows import console
    from recsys_core import launch
    from recsys_core.retrieval.hit_rate import of_tables, shares

    with alone.refusing():
        asked = shares.Request.of(
            request.items,
            request.requests,
            num_ranks,
            alone.cache(),
            width=max(request.ks) + 1,
            metric=request.metric,
            memory_bytes=None if memory_gb is None else int(memory_gb * 1e9),
        )
        # A command that was killed finds what its processes have made, and goes on with what is left.
        work = alone.cache() / f"hit-rate-{asked.key[:16]}"
        with alone.working(work), console.progress() as sink:
            asked = asked.model_copy(update={"output": work / "lists"})
            launch.do("hitrate_lists", asked, alone.paced(sink), launch.Local(num_ranks=asked.num_shares))
            return of_tables.run_lists(request, shares.Lists(asked), sink)


def _made(request: "R", work: "Callable[[R, Sink], Index]") -> "Index":
    """Do the work aside, and put what it makes in the place of what is there."""
    from flows import console

    with alone.refusing(), alone.making(request.output) as aside, console.progress() as sink:
        made = work(request.model_copy(update={"output": aside}), alone.paced(sink))
    return made.model_copy(update={"path": request.output})


def _refuse_picture(plot: Path | None) -> None:
    if plot is None:
        return
    from matplotlib.backend_bases import FigureCanvasBase

    known = FigureCanvasBase.get_supported_filetypes()
    if plot.suffix[1:] not in known:
        alone.refuse(f"--plot: {plot} ends in no kind of picture; there are {', '.join(known)}")
    if not plot.absolute().parent.is_dir():
        alone.refuse(f"--plot: {plot.absolute().parent} is no folder")


def _print_index(made: "Index", *, as_json: bool) -> None:
    if as_json:
        typer.echo(made.model_dump_json(indent=2, exclude={"files", "config_hash", "code_version"}))
        return
    how = "".join(f", {name} {value:,}" for name, value in made.search.items())
    how += "" if made.ann_recall is None else f", ANN recall {made.ann_recall:.4f}"
    size = f"{made.num_items:,} items, {made.embedding_dim} dimensions"
    typer.echo(f"{made.path}: {made.factory} by {made.metric} of {size}{how}")


def _refuse_of_builds(given: dict[str, Any]) -> None:
    for name, value in given.items():
        if value is not None:
            option = "--set" if name == "settings" else f"--{name.replace('_', '-')}"
            alone.refuse(f"{option}: is of an index that is built, and --update changes one that is; leave it out")


def _print(measured: "Measured", *, as_json: bool) -> None:
    figures = measured.figures
    if measured.num_unknown:
        typer.echo(
            f"note: {measured.num_unknown:,} of the {figures.num_ground_truth:,} wanted items are not among the items; "
            "they count, and cannot be found",
            err=True,
        )
    if measured.num_empty:
        typer.echo(f"note: {measured.num_empty:,} requests want no item; they count in no figure", err=True)
    if (largest := max(map(int, figures.hit_rate))) > measured.num_items:
        typer.echo(f"note: lists of {largest:,} hold all {measured.num_items:,} items, so that all is found", err=True)
    if as_json:
        typer.echo(json.dumps(figures.model_dump(), indent=2))
        return
    rates = ", ".join(f"@{k} {rate:.4f}" for k, rate in figures.hit_rate.items())
    typer.echo(
        f"hit rate {rates} of {figures.num_queries:,} requests for {figures.num_ground_truth:,} items among "
        f"{measured.num_items:,}, by {measured.layout}"
    )


def _index_config(command: str, kind: str, given: dict[str, Any], settings: list[str] | None) -> Any:
    """Return the kind's config, of the options of the command that are given."""
    from recsys_core import indexes, lookup
    from recsys_core.config import limits, parsing
    from recsys_core.config.overrides import override

    section: dict[str, Any] = {"kind": kind} | {key: value for key, value in given.items() if value is not None}
    applied: dict[tuple[parsing.Key, ...], str] = {}
    for setting in settings or ():
        applied |= override(section, setting)
    try:
        kinds = lookup.component(indexes.CATALOGUE, kind)
        config = parsing.validate(kinds.Config, section, Path(f"dayline {command}"), applied)
        limits.check(config)
    except ValueError as error:
        alone.refuse(str(error))
    return config


def _ks(text: str, option: str) -> tuple[int, ...]:
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) for part in parts):
        alone.refuse(f"{option}: {text!r}; give whole numbers from 1 on with commas between")
    return tuple(sorted({int(part) for part in parts}))


def _metric(text: str) -> Any:
    from typing import get_args

    from recsys_core.indexes import Metric

    if text not in (known := get_args(Metric)):
        alone.refuse(f"--metric: {text!r} is none of {', '.join(known)}")
    return text
