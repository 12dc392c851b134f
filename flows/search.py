"""The search for better values of a config's keys. Each trial is a run, and the study that chooses them is Optuna's."""

import json
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from prefect import flow
from prefect.runtime import flow_run

from flows import liveness
from recsys_core import config as configs
from recsys_core import launch, plots
from recsys_core.artifacts import digest_of, write_text
from recsys_core.config import RankingConfig, space
from recsys_core.progress import Event
from tasks.check_data import check_data
from tasks.embed import embed
from tasks.export import export
from tasks.hidden import reveal
from tasks.hit_rate import hit_rate
from tasks.index import index
from tasks.ingest import ingest
from tasks.perform import RankingRun, Run, listener, listening
from tasks.prepare import prepare
from tasks.preprocess import preprocess
from tasks.search import Search, SearchResult, TrialResult, adopt, begun
from tasks.start_run import start_ranking_run, start_run
from tasks.train import train
from tasks.train_ranker import train_ranker

_STUDY, _BEST = "study.db", "best.yaml"
_ID_DIGITS = 12
_LEAST_FOR_IMPORTANCE = 8
_ENDED = (TrialState.COMPLETE, TrialState.PRUNED)
_SAMPLERS: dict[str, Callable[[int], optuna.samplers.BaseSampler]] = {
    "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed),
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
}
_PRUNERS: dict[str, Callable[[], optuna.pruners.BasePruner]] = {
    "median": lambda: optuna.pruners.MedianPruner(n_startup_trials=4),
    "hyperband": optuna.pruners.HyperbandPruner,
    "none": optuna.pruners.NopPruner,
}
_PRUNED, _REFUSED = "pruned_at_step", "refused"


@flow(name="search", flow_run_name=lambda: Path(flow_run.parameters["config"]).stem, on_running=[liveness.begin])
def search(
    config: str,
    space_file: str,
    num_trials: int,
    day: date | None = None,
    overrides: Sequence[str] = (),
    sampler: str = "tpe",
    pruner: str = "median",
) -> SearchResult:
    """Try values of the keys in a space, each trial a run that is a child of the search's in MLflow.

    A search that was killed goes on: trials that have ended count, and one that was under way is run again, whose
    training goes on from its checkpoint.

    Args:
        config: path of the YAML file.
        space_file: path of the space's, see `config.space`.
        num_trials: how many trials are to be ended in all.
        day: of a retrieval model, the last day to train on.
        overrides: assignments such as `train.batch_size=512`, applied to the file's values.
        sampler: `tpe` (Bergstra et al. 2011) or `random`.
        pruner: `median`, `hyperband` or `none`: when a trial of a ranking model ends early.
    """
    changes = reveal(overrides)
    loaded, wanted = configs.load(Path(config), changes), space.read(Path(space_file))
    space.check(Path(config), changes, wanted)
    metric, direction = space.metric_of(loaded)
    at = loaded.split_data.day if isinstance(loaded, RankingConfig) else day
    if at is None:
        raise ValueError("day: a search of a retrieval model is of one day; name it")
    asked = {"space": wanted.model_dump(mode="json"), "sampler": sampler, "pruner": pruner, "metric": metric}
    search_id = digest_of([loaded.hash, str(at), asked])[:_ID_DIGITS]
    with begun(loaded, at, search_id, {"config": loaded.model_dump(mode="json"), **asked}) as own, launch.keeping():
        study = optuna.create_study(
            storage=f"sqlite:///{own.directory.absolute() / _STUDY}",
            study_name="search",
            sampler=_SAMPLERS[sampler](loaded.seed),
            pruner=_PRUNERS[pruner](),
            direction=direction,
            load_if_exists=True,
        )
        _take_up(study)
        while len(_ended(study)) < num_trials:
            _say(study, num_trials, metric)
            one = study.ask()
            found = [space.change(key, _suggested(one, key, values)) for key, values in wanted.root.items()]
            _run(study, one, [*overrides, *found], config, None if isinstance(loaded, RankingConfig) else at, own)
        _say(study, num_trials, metric)
        return _result(study, own, loaded.name, metric, config, changes)


def _run(
    study: optuna.Study, one: optuna.Trial, changes: list[str], config: str, day: date | None, own: Search
) -> None:
    """Run a trial; the study keeps what came of it, also that its values do not go together."""
    started = time.monotonic()
    try:
        if day is None:
            value = _ranking_trial(one, config, changes, own)
        else:
            value = _retrieval_trial(one, config, day, changes, own)
        state = TrialState.COMPLETE
    except optuna.TrialPruned:
        value, state = None, TrialState.PRUNED
    except ValueError as error:
        one.set_user_attr(_REFUSED, str(error))
        listener()(Event(stage="search", message=f"trial {one.number} is refused: {error}"))
        value, state = None, TrialState.FAIL
    one.set_user_attr("seconds", round(time.monotonic() - started, 1))
    study.tell(one, value, state)


def _ranking_trial(one: optuna.Trial, config: str, changes: list[str], own: Search) -> float:
    """Train once, and return the best value on the validation rows.

    Raises:
        TrialPruned: the values so far are worse than those of other trials.
    """
    with start_ranking_run(config, None, changes) as run:
        _adopt(run, one, own)
        metric, outer = f"valid_{space.metric_of(run.config)[0]}", listener()

        def receive(event: Event) -> None:
            outer(event)
            if metric in event.metrics and event.step is not None and _PRUNED not in one.user_attrs:
                one.report(event.metrics[metric], event.step)
                if one.should_prune():
                    one.set_user_attr(_PRUNED, event.step)
                    run.tracker.log_tags({_PRUNED: str(event.step)})
                    raise optuna.TrialPruned

        data = prepare(run)
        with listening(receive):
            return train_ranker(run, data).kept[0].value


def _retrieval_trial(one: optuna.Trial, config: str, day: date, changes: list[str], own: Search) -> float:
    """Train one day, and return the gate's metric by exact search; nothing is published."""
    with start_run(config, day, changes) as run:
        _adopt(run, one, own)
        dataset = ingest(run)
        check_data(run, dataset)
        data = preprocess(run, dataset)
        embeddings = embed(run, data, export(run, data, train(run, data)))
        evaluation = hit_rate(run, dataset, data, embeddings, index(run, embeddings), None)
        return getattr(evaluation.exact, run.config.gate.metric)[str(run.config.gate.k)]


def _adopt(run: Run | RankingRun, one: optuna.Trial, own: Search) -> None:
    adopt(run, own.tracker, one.number)
    one.set_user_attr("run_id", run.run_id)
    one.set_user_attr("mlflow_run_id", run.tracker.mlflow_run_id)


def _take_up(study: optuna.Study) -> None:
    """Put what was under way when an earlier process ended first in line again."""
    for one in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(one.number, state=TrialState.FAIL)
        study.enqueue_trial(one.params)


def _ended(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that count: all but those that a kill has cut off."""
    return [one for one in study.get_trials() if one.state in _ENDED or _REFUSED in one.user_attrs]


def _suggested(one: optuna.Trial, key: str, values: space.Values) -> Any:
    if isinstance(values, space.Choice):
        return json.loads(one.suggest_categorical(key, [json.dumps(value) for value in values.values]))
    if isinstance(values, space.Float):
        return one.suggest_float(key, values.low, values.high, step=values.step, log=values.log)
    return one.suggest_int(key, values.low, values.high, step=values.step or 1, log=values.log)


def _params(one: FrozenTrial) -> dict[str, Any]:
    return {key: json.loads(value) if isinstance(value, str) else value for key, value in one.params.items()}


def _say(study: optuna.Study, num_trials: int, metric: str) -> None:
    ended = _ended(study)
    best = _best(study)
    message = None if best is None else f"best {metric} {best.value:.4f}, of trial {best.number}"
    listener()(Event(stage="search", done=len(ended), total=num_trials, unit="trials", message=message))


def _best(study: optuna.Study) -> FrozenTrial | None:
    return study.best_trial if study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)) else None


def _result(study: optuna.Study, own: Search, name: str, metric: str, config: str, changes: list[str]) -> SearchResult:
    ended, best = _ended(study), _best(study)
    if best is None:
        reasons = dict.fromkeys(one.user_attrs[_REFUSED] for one in ended if _REFUSED in one.user_attrs)
        raise ValueError(f"no trial has ended with a value; {'; '.join(reasons) or 'all were pruned'}")
    found = [space.change(key, value) for key, value in _params(best).items()]
    file = own.directory / _BEST
    write_text(file, configs.show(configs.load(Path(config), [*changes, *found])))
    trials = [_trial(one) for one in ended]
    own.tracker.log_metrics({"best": _trial(best).value or 0.0, "trials": len(trials)})
    own.tracker.log_file(file)
    direction = "maximize" if study.direction == optuna.study.StudyDirection.MAXIMIZE else "minimize"
    values = [(one.number, one.value, one.state == "complete") for one in trials if one.value is not None]
    own.tracker.log_figure(plots.search_history(values, metric, direction), "search_history")
    importances = _importances(study)
    if importances:
        own.tracker.log_figure(plots.search_importances(importances, metric), "search_importances")
    return SearchResult(
        name=name,
        metric=metric,
        direction=direction,
        mlflow_run_id=own.tracker.mlflow_run_id,
        best=_trial(best),
        trials=tuple(trials),
        importances=importances,
        config=file,
    )


def _trial(one: FrozenTrial) -> TrialResult:
    refused = one.user_attrs.get(_REFUSED)
    # Of a pruned trial Optuna's value is the last one that it reported.
    return TrialResult(
        number=one.number,
        state="refused" if refused else one.state.name.lower(),
        value=one.value,
        params=_params(one),
        run_id=one.user_attrs.get("run_id"),
        mlflow_run_id=one.user_attrs.get("mlflow_run_id"),
        seconds=one.user_attrs.get("seconds"),
        refused=refused,
    )


def _importances(study: optuna.Study) -> dict[str, float]:
    """Return how much of the metric's variation each key explains; nothing of few trials (PED-ANOVA, Watanabe 2023)."""
    if len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))) < _LEAST_FOR_IMPORTANCE:
        return {}
    return optuna.importance.get_param_importances(study, evaluator=optuna.importance.PedAnovaImportanceEvaluator())
