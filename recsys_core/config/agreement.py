"""What no section can check alone: that features, model and training go together, before any data is read."""

from collections.abc import Iterator, Sequence

from recsys_core.artifacts import ComponentConfig
from recsys_core.config import limits
from recsys_core.features import Config as Features
from recsys_core.features import Engine
from recsys_core.gate import COLD_ITEMS, NEW_USERS
from recsys_core.gate import Config as Gate
from recsys_core.gate import RankingConfig as RankingGate
from recsys_core.indexes import Config as Index
from recsys_core.launch import Config as Launch
from recsys_core.loading import embedding_files
from recsys_core.metrics.ranking import all_of, always
from recsys_core.models import bst, dien, dmin, multi_tower_din, sim
from recsys_core.models.blocks.sections import Behaviours, Ordered
from recsys_core.ranking import Config as Ranking
from recsys_core.retrieval.preprocess import Config as Preprocess
from recsys_core.retrieval.requests import HitRateConfig as HitRate
from recsys_core.sections.optim import refuse_unfit
from recsys_core.training.config import Config as Train

_WIDTH = 4  # FBGEMM's kernels read rows four numbers at a time.


def check(features: Features, model: ComponentConfig, train: Train, launch: Launch) -> None:
    """Look at the files that tables start from, and for the tables that `train` names; see `building` for the rest.

    Raises:
        ValueError: a table is not there, is of a width that cannot be trained, is larger than the ranks or cannot be
            trained on `train.sharding.device`, or the file that it starts from does not serve it; or sequences that are
            read together are of no group, or longer than the model's places.
    """
    engine = Engine.build(features)
    embedding_files.check(engine)
    for where, behaviours, max_length in _behaviours(model):
        _check_side_by_side(f"{where}.sequences", behaviours.sequences, engine)
        if max_length is not None:
            _check_lengths(f"{where}.sequences", behaviours.sequences, max_length, engine)
    for table in engine.tables:
        if table.embedding_dim % _WIDTH:
            raise ValueError(
                f"features: table {table.name!r} has embedding_dim {table.embedding_dim}, and the kernels that train "
                f"tables take multiples of {_WIDTH}; make it {-(-table.embedding_dim // _WIDTH) * _WIDTH}"
            )
    limits.check_tables(engine.tables, launch.world_size)
    dtypes = {table.name: table.dtype for table in engine.tables}
    refuse_unfit(train.sparse_optimizer, dtypes, train.sharding.device)


def check_measured(gate: Gate, hitrate: HitRate, index: Index) -> None:
    """Check that the gate's figures are among those that are measured, and that the index has what is to be swept.

    Raises:
        ValueError: names the keys.
    """
    if gate.k not in hitrate.ks:
        raise ValueError(
            f"gate.k: {gate.k} is none of hitrate.ks {list(hitrate.ks)}, so it would not be measured; set it to one of "
            "them, or add it to hitrate.ks"
        )
    if hitrate.sweep and index.parameter is None:
        raise ValueError(
            f"hitrate.sweep: index.kind {index.kind} has nothing to sweep; remove it, or use another kind of index"
        )


def check_loss(loss: ComponentConfig, model: ComponentConfig, sampler: ComponentConfig | None) -> None:
    """Check that a loss fits the model's similarity, and has a sampler where it has negatives drawn, and only there.

    Raises:
        ValueError: says what to do.
    """
    wanted, found = getattr(loss, "similarity", None), getattr(model, "similarity", None)
    if wanted is not None and found is not None and wanted != found:
        raise ValueError(
            f"model.similarity: {found}, and loss.kind {loss.kind} is of {wanted}; set model.similarity: {wanted}, or "
            "use loss.kind: sampled_softmax"
        )
    over_catalogue = getattr(loss, "over_catalogue", False)
    if over_catalogue and sampler is not None:
        raise ValueError(
            f"sampler: loss.kind {loss.kind} compares queries with all items, so that nothing is drawn; remove it"
        )
    if not over_catalogue and sampler is None:
        raise ValueError(
            f"sampler: missing, and loss.kind {loss.kind} compares queries with items that are drawn; say how, such as "
            "sampler: {kind: weighted}, or use loss.kind: full_cross_entropy"
        )


def check_order(features: Features, model: ComponentConfig, preprocess: Preprocess) -> None:
    """Check that a model that reads sequences in their order gets some, and that no other one gets whole ones.

    Raises:
        ValueError: says what the model needs.
    """
    whole = preprocess.examples == "sequences"
    if not isinstance(model, Ordered):
        if whole and "." not in model.kind:
            raise ValueError(
                f"preprocess.examples: sequences, and model.kind {model.kind} has no states behind their entries to "
                "train; set preprocess.examples: interactions, or use a model that has, such as sasrec"
            )
        return
    engine = Engine.build(features)
    names = [feature.name for feature in engine.sparse_features("query") if feature.pooling == "none"]
    if not names:
        raise ValueError(
            f"features.query: no sequence that is not pooled, and model.kind {model.kind} reads one in its order; give "
            "it one of kind sequence with pooling: none, or use model.kind: two_tower"
        )
    _check_side_by_side("features.query", names, engine)
    _check_lengths("features.query", names, model.max_length, engine)
    history = preprocess.history
    if whole and history.mode == "others":
        raise ValueError(
            f"preprocess.history.mode: {history.mode} knows what came after an interaction, and preprocess.examples: "
            "sequences has each found with what came before it; use mode: before or preceding, or interactions"
        )
    for feature in engine.features["query"]:
        name, kept = feature.config.name, getattr(feature.config, "max_length", None) or model.max_length
        if whole and name in names and kept < history.max_length:
            raise ValueError(
                f"preprocess.history.max_length: {history.max_length}, and feature {name!r} keeps {kept} of these "
                "entries, so that targets would be found with others than theirs; set both alike"
            )


def check_metrics(metrics: Sequence[ComponentConfig], ranking: Ranking) -> None:
    """Check that each of the `metrics` beside those of every evaluation is one of a task.

    Raises:
        ValueError: names one that is not.
    """
    fit = {kind for task in ranking.named.values() for kind in all_of(metrics, values=task.predicts != "probability")}
    for metric in metrics:
        if metric.kind not in fit:
            predicted = ", ".join(dict.fromkeys(task.predicts for task in ranking.named.values()))
            raise ValueError(
                f"evaluate.metrics: {metric.kind} is not measured of tasks that predict: {predicted}; remove it"
            )


def check_best(metric: str, ranking: Ranking) -> None:
    """Check that the first task, by which the best state is chosen, is measured by `metric`.

    Raises:
        ValueError: it is not.
    """
    predicts = next(iter(ranking.named.values())).predicts
    if metric not in (fit := all_of(values=predicts != "probability")):
        raise ValueError(
            f"train.best_metric: {metric} is not measured of a task that predicts: {predicts}; set it to one of "
            f"{', '.join(kind for kind in fit if kind != 'calibration')}"
        )


def check_gate(gate: RankingGate, ranking: Ranking, metrics: Sequence[ComponentConfig]) -> None:
    """Check that what a gate of ranking needs is named; `metrics` are measured beside those of every evaluation.

    Raises:
        ValueError: a key that needs the column of the group or of the item, where there is none, a metric that is not
            measured, or a task that is none of `ranking`.
    """
    if gate.task is not None and gate.task not in ranking.tasks:
        known = f"ranking.tasks has {', '.join(ranking.tasks)}" if ranking.tasks else "ranking has one label"
        raise ValueError(f"gate.task: {gate.task!r} is no task ({known}); name one of them, or leave it out")
    task = gate.task or next(iter(ranking.named))
    predicts = ranking.named[task].predicts
    if gate.metric not in (*always(), *all_of(metrics), *all_of(metrics, values=True)):
        raise ValueError(
            f"gate.metric: {gate.metric} is not measured; add {{kind: {gate.metric}}} to evaluate.metrics, or name "
            "another metric"
        )
    if gate.metric not in (fit := all_of(metrics, values=predicts != "probability")):
        raise ValueError(
            f"gate.metric: {gate.metric} is not measured of a task that predicts: {predicts}; name one of "
            f"{', '.join(kind for kind in fit if kind != 'calibration')}"
        )
    needs = {
        "ranking.group": {
            "gate.metric: gauc": gate.metric == "gauc",
            "gate.slices.new_users": NEW_USERS in gate.slices,
        },
        "ranking.item": {
            "gate.baseline: item_rate": gate.baseline == "item_rate",
            "gate.slices.cold_items": COLD_ITEMS in gate.slices,
        },
    }
    columns = {"ranking.group": ranking.group, "ranking.item": ranking.item}
    for key, asking in needs.items():
        for name, asks in asking.items():
            if asks and columns[key] is None:
                raise ValueError(f"{name} needs to know rows' {key.partition('.')[2]}s; name their column in {key}")


def _behaviours(model: ComponentConfig) -> Iterator[tuple[str, Behaviours, int | None]]:
    """Yield the model's sets of sequences: their key, the section, and how many elements are read, null: all."""
    if isinstance(model, multi_tower_din.Config):
        yield from ((f"model.attention[{number}]", part, None) for number, part in enumerate(model.attention))
    elif isinstance(model, bst.Config | dien.Config | dmin.Config | sim.Config):
        yield "model.behaviours", model.behaviours, model.max_length


def _check_side_by_side(where: str, names: Sequence[str], engine: Engine) -> None:
    """Check that sequences which are read side by side are of one group: else no one compares their lengths."""
    groups = {
        feature.config.name: (side, feature.config.group)
        for side, features in engine.features.items()
        for feature in features
    }
    first, *others = (name for name in names if name in groups)
    for other in others:
        if groups[other] != groups[first] or groups[first][1] is None:
            raise ValueError(
                f"{where}: {first!r} and {other!r} stand entry by entry for the same "
                "behaviours, which is checked of the features of one group and one side; give both the same group "
                "(features, group: NAME), or attend to each on its own"
            )


def _check_lengths(where: str, names: Sequence[str], max_length: int, engine: Engine) -> None:
    """Check that no sequence has more elements than the model has places: the feature says which of them are kept."""
    kept = {f.config.name: getattr(f.config, "max_length", None) for own in engine.features.values() for f in own}
    for name in names:
        most = kept.get(name, max_length)
        if most is None or most > max_length:
            raise ValueError(
                f"{where}: {name!r} has up to {most or 'any number of'} elements, and model.max_length is "
                f"{max_length}; give the feature max_length: {max_length}, which keeps the last ones, or raise that of "
                "the model"
            )
