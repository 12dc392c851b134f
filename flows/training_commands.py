"""`dayline train`, `evaluate` and `export`: from prepared data to a trained state, its figures, and a module."""

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from flows import alone
from flows.config_commands import load
from flows.named_states import State, engine_of
from flows.stage_commands import AsJson, NumRanks, Release, Run, RunRoot, TrackingUri

if TYPE_CHECKING:
    from recsys_core.artifacts import Artifact
    from recsys_core.config import RankingConfig, RunConfig
    from recsys_core.registry.named import Trained

_Config = Annotated[Path, typer.Argument(help="YAML file, such as configs/demo.yaml", show_default=False)]
_Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", "--edit-config-json", metavar="KEY=VALUE|JSON", help="change a key; repeatable"),
]
_Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="the folder to make", show_default=False)]
_Data = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="prepared data: a run's, or its folder preprocess or prepare", show_default=False),
]
_Checkpoint = Annotated[
    str | None,
    typer.Option(
        metavar="DIR|STEP",
        help="a training's folder or a state in it, also a copy; or a step of --run or --release",
        show_default=False,
    ),
]
_Step = Annotated[int | None, typer.Option(metavar="N", help="a kept state; by default the best", show_default=False)]
_Features = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", help="the fitted features, of a checkpoint that has none beside it", show_default=False
    ),
]
_OfConfig = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="what was trained with; by default the run's", show_default=False),
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(train)
    app.command()(evaluate)
    app.command()(export)


def train(
    config: _Config,
    *,
    data: Annotated[
        Path, typer.Option(metavar="DIR", help="prepared data, or a run that has some", show_default=False)
    ],
    out: _Out,
    continue_from: Annotated[
        Path | None, typer.Option(metavar="DIR", help="a training to continue, or a run of it", show_default=False)
    ] = None,
    overrides: _Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Train a model on prepared data, as a run does, and leave the training's folder at `--out`.

    `dayline train configs/demo.yaml --data runs/shop/DAY/RUN_ID --out trained/shop --set train.num_epochs=5`

    A training that was killed, or asked to stop, goes on from its last checkpoint when the command is run again.
    """
    loaded = load(config, overrides)
    with alone.refusing():
        from recsys_core.artifacts import Checkpoint
        from recsys_core.config import RankingConfig
        from recsys_core.registry import named

        alone.require_ours(out, Checkpoint)
        found = named.find(folder=data).data()
        base = named.find(folder=continue_from).trained() if continue_from is not None else None
        fields = _training(loaded, found, base)
        stage = "rank_train" if isinstance(loaded, RankingConfig) else "train"
        with alone.making(out) as output:
            request = _train_request(stage)(output=output, **_common(loaded.hash), **fields)
            done = alone.perform(stage, Checkpoint, request, loaded.launch)
    made: Checkpoint = done.artifact
    alone.summary(
        f"{out}: {made.num_steps:,} steps, loss {made.loss:.4f}, {made.examples_per_second:,.0f} examples/s, "
        f"{done.seconds:.1f} s",
        {
            "output": str(out),
            "num_rows": made.num_rows,
            "num_steps": made.num_steps,
            "loss": made.loss,
            "kept": [one.model_dump() for one in made.kept],
            "examples_per_second": made.examples_per_second,
            "seconds": round(done.seconds, 3),
            "digest": made.digest,
        },
        as_json=as_json,
    )


def evaluate(
    *,
    data: _Data = None,
    source: Annotated[
        str | None,
        typer.Option("--input", metavar="PATH", help="a table of labelled rows, for ranking", show_default=False),
    ] = None,
    checkpoint: _Checkpoint = None,
    model: Annotated[
        Path | None, typer.Option(metavar="DIR", help="an exported model, or a released bundle", show_default=False)
    ] = None,
    release: Release = None,
    run: Run = None,
    step: _Step = None,
    config: _OfConfig = None,
    overrides: _Overrides = None,
    split: Annotated[
        Literal["train", "valid", "test"] | None, typer.Option(help="of ranking's data", show_default=False)
    ] = None,
    features: _Features = None,
    num_ranks: NumRanks = 1,
    run_root: RunRoot = Path("runs"),
    tracking_uri: TrackingUri = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="a folder to keep the evaluation in", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure a checkpoint, or an exported model, on prepared data or (ranking) on any table of labelled rows.

    Of retrieval: loss and recall among sampled negatives. Of ranking: AUC and the others of every evaluation.

    `dayline evaluate --run runs/shop/DAY/RUN_ID --data runs/shop/LATER_DAY/RUN_ID --json`

    `dayline evaluate --model exported/ctr --config configs/ctr_daily.yaml --input data/ctr/ds=2024-01-11`

    With `--release` or `--run` it is the trained state that is measured; with `--model` what was exported of it.
    """
    with alone.refusing():
        from recsys_core.artifacts import HeldOut, RankingEvaluation
        from recsys_core.config import RankingConfig
        from recsys_core.launch import Local

        if (data is None) == (source is None):
            raise ValueError("name what is measured on by one of --data and --input")
        named_by = State(checkpoint, release, run, step, features, config, tracking_uri, run_root)
        found, state = named_by.measured(model)
        loaded = load(named_by.config_of(found), overrides)
        is_ranking = isinstance(loaded, RankingConfig)
        fields = _evaluation(loaded, state, data, source, split, num_ranks)
        stage, record = ("rank_evaluate", RankingEvaluation) if is_ranking else ("evaluate", HeldOut)
        with ExitStack() as inside:
            if out is None:
                output = Path(inside.enter_context(tempfile.TemporaryDirectory()), "evaluate")
            else:
                alone.require_ours(out, HeldOut, RankingEvaluation)
                output = inside.enter_context(alone.making(out))
            request = _evaluate_request(stage)(output=output, **_common(loaded.hash), **fields)
            done = alone.perform(stage, record, request, Local(num_ranks=num_ranks))
    figures = _figures(done.artifact)
    shown = ", ".join(f"{name} {value:.4f}" for name, value in figures.items())
    alone.summary(
        f"{found.title}: {shown}, on {done.artifact.num_rows:,} rows in {done.seconds:.1f} s",
        {
            "model": found.title,
            "num_rows": done.artifact.num_rows,
            "metrics": figures,
            "seconds": round(done.seconds, 3),
            "output": out and str(out),
        },
        as_json=as_json,
    )


def export(
    *,
    out: _Out,
    checkpoint: _Checkpoint = None,
    release: Release = None,
    run: Run = None,
    step: _Step = None,
    form: Annotated[Literal["torchscript", "pt2"], typer.Option("--format", help="of the module")] = "torchscript",
    table_dtype: Annotated[
        Literal["trained", "float16", "int8", "int4"],
        typer.Option(help="of the tables; what it costs is measured on --data"),
    ] = "trained",
    data: _Data = None,
    config: _OfConfig = None,
    features: _Features = None,
    parity_rows: Annotated[int, typer.Option(min=1, help="real rows that it is compared on")] = 1_000,
    run_root: RunRoot = Path("runs"),
    tracking_uri: TrackingUri = None,
    as_json: AsJson = False,
) -> None:
    """Export a checkpoint as a module (two towers, or a ranker) with its features, a signature and a parity check.

    `dayline export --checkpoint runs/shop/DAY/RUN_ID/train --out exported/shop`

    `dayline export --run runs/ctr/DAY/RUN_ID --step 1200 --format pt2 --out exported/ctr`

    No data are needed: a training keeps the rows that the module is compared on. Of a finished training it is the best
    state, of another one the newest; `--step` names another that was kept. The same state gives the same bytes.
    """
    with alone.refusing():
        from recsys_core.artifacts import ExportedModel, ExportedRanker
        from recsys_core.launch import Local
        from recsys_core.registry import named

        alone.require_ours(out, ExportedModel, ExportedRanker)
        named_by = State(checkpoint, release, run, step, features, config, tracking_uri, run_root)
        found, trained = named_by.trained()
        is_ranking = trained.product == "ranking"
        fields: dict[str, Any] = {
            "config": {"parity_rows": parity_rows, "format": form, "table_dtype": table_dtype},
            "model": trained.model,
            "checkpoint": trained.checkpoint,
            "data": named.find(folder=data).data() if data is not None else None,
            **engine_of(trained),
        }
        if is_ranking:
            fields["predicts"] = trained.predicts
        if is_ranking and table_dtype != "trained":
            loaded = load(named_by.config_of(found), None)
            fields["ranking"] = getattr(loaded, "ranking", None)
        stage, record = ("rank_export", ExportedRanker) if is_ranking else ("export", ExportedModel)
        with alone.making(out) as output:
            request = _export_request(stage)(output=output, **_common(""), **fields)
            done = alone.perform(stage, record, request, Local())
    made = done.artifact
    cost = "" if made.cost is None else f", {made.cost.metric} {made.cost.trained:.4f} → {made.cost.exported:.4f}"
    alone.summary(
        f"{out}: {made.format} of {found.title}, step {trained.checkpoint.num_steps}, differs by at most "
        f"{made.parity_max_abs_difference:.2g} on {made.num_rows:,} rows{cost}",
        {
            "output": str(out),
            "checkpoint": str(trained.checkpoint.state),
            "format": made.format,
            "table_dtype": made.table_dtype,
            "parity_max_abs_difference": made.parity_max_abs_difference,
            "cost": made.cost and made.cost.model_dump(),
            "num_bytes": sum(file.num_bytes for file in made.files),
            "digest": made.digest,
            "seconds": round(done.seconds, 3),
        },
        as_json=as_json,
    )


def _common(config_hash: str) -> dict[str, str]:
    from recsys_core.artifacts import code_version

    return {"config_hash": config_hash, "code_version": code_version()}


def _train_request(stage: str) -> Any:
    from recsys_core.ranking import requests as ranking
    from recsys_core.retrieval import requests as retrieval

    return ranking.TrainRequest if stage == "rank_train" else retrieval.TrainRequest


def _evaluate_request(stage: str) -> Any:
    from recsys_core.ranking import requests as ranking
    from recsys_core.retrieval import requests as retrieval

    return ranking.EvaluateRequest if stage == "rank_evaluate" else retrieval.EvaluateRequest


def _export_request(stage: str) -> Any:
    from recsys_core.ranking import requests as ranking
    from recsys_core.retrieval import requests as retrieval

    return ranking.ExportRequest if stage == "rank_export" else retrieval.ExportRequest


def _training(loaded: "RunConfig | RankingConfig", data: "Artifact", base: "Trained | None") -> dict[str, Any]:
    """Return the fields of the training's request."""
    from recsys_core.artifacts import LabelledData, TrainingData
    from recsys_core.config import RankingConfig
    from recsys_core.features import Engine
    from recsys_core.loading import embedding_files
    from recsys_core.ranking import prepare

    is_ranking = isinstance(loaded, RankingConfig)
    if not isinstance(data, LabelledData if is_ranking else TrainingData):
        needed = "ranking (stage prepare)" if is_ranking else "retrieval (stage preprocess)"
        raise ValueError(f"{data.path}: data of the other product; {loaded.name} needs that of {needed}")  # noqa: TRY004
    assert isinstance(data, LabelledData | TrainingData), "looked at above"
    engine = Engine.build(loaded.features)
    if Engine.load(data.engine).config != engine.portable_config():
        raise ValueError(f"{data.path}: prepared with other features than the config has; prepare it with these")
    fields: dict[str, Any] = {
        "config": loaded.train,
        "model": loaded.model,
        "loss": loaded.loss,
        "num_ranks": loaded.launch.world_size,
        "seed": loaded.seed,
        "data": data,
        "base": base and base.checkpoint,
        "base_engine": base and base.features,
        "pretrained": embedding_files.fingerprints(engine),
    }
    if isinstance(loaded, RankingConfig):
        assert isinstance(data, LabelledData), "looked at above"
        prepare.require_splits(data, "train", validates=loaded.train.evaluates)
        day = data.day if loaded.is_daily else loaded.split_data.day
        return fields | {"ranking": loaded.ranking, "day": day}
    return fields | {"sampler": loaded.sampler}


def _evaluation(
    loaded: "RunConfig | RankingConfig",
    state: dict[str, Any],
    data: Path | None,
    source: str | None,
    split: str | None,
    num_ranks: int,
) -> dict[str, Any]:
    """Return the fields of the evaluation's request."""
    from recsys_core import readers
    from recsys_core.artifacts import digest_of
    from recsys_core.config import RankingConfig
    from recsys_core.registry import named

    fields: dict[str, Any] = {
        "model": loaded.model,
        "sharding": loaded.train.sharding,
        "num_ranks": num_ranks,
        "seed": loaded.seed,
        "data": named.find(folder=data).data() if data is not None else None,
        **state,
    }
    if not isinstance(loaded, RankingConfig):
        if source is not None or split is not None:
            raise ValueError("--input and --split are of ranking; a retrieval model is measured on --data")
        return fields | {"config": loaded.evaluate, "sampler": loaded.sampler, "loss": loaded.loss}
    if source is not None and split is not None:
        raise ValueError("--split is of --data; leave it out, or name prepared data")
    if source is not None:
        fields |= {"source": source, "source_digest": digest_of(readers.fingerprint(source)), "csv": loaded.predict.csv}
    config = loaded.evaluate if split is None else loaded.evaluate.model_copy(update={"split": split})
    return fields | {"config": config, "ranking": loaded.ranking}


def _figures(made: Any) -> dict[str, float]:
    from recsys_core.artifacts import HeldOut

    if isinstance(made, HeldOut):
        return {"loss": made.loss, **{f"sampled_recall@{k}": rate for k, rate in made.sampled_recall.items()}}
    return made.metrics.figures()
