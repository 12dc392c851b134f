"""Hold the log against the data contract, before anything is trained on it."""

from collections.abc import Callable
from datetime import date
from typing import Any

from prefect.artifacts import create_markdown_artifact
from prefect.context import TaskRunContext

from recsys_core import contract as stage
from recsys_core import holdout
from recsys_core.artifacts import DataCheck, Dataset, ExampleLog
from recsys_core.contract import report
from recsys_core.features import Engine
from recsys_core.progress import Event, Sink
from tasks.perform import AnyRun, R, Run, listener, perform, stage_task


@stage_task("check data")
def check_data(run: Run, dataset: Dataset | ExampleLog) -> DataCheck:
    """Return what was found; warnings are reported each time, and a breach that stops the run is an error.

    Raises:
        ValueError: a check whose `on_breach` is `stop` did not hold; names day, table, column, figure and limit.
    """
    config = run.config.contract
    learned = run.base.learned.last_day if run.base else None
    # What is absorbed is learned from too, and is checked before any work is done.
    last = holdout.last_day(run.day, run.config.holdout) if run.config.publish.absorb else run.day
    first_day, memory = stage.first_day(config, last, learned, _window(run, last)), run.home / "cache" / "statistics"
    common: dict[str, Any] = {"config": limits(config), "agreed": stage.agreed(config), "first_day": first_day}
    common |= {"day": last, "memory": memory}
    if isinstance(dataset, Dataset):
        return performed(run, run.request(stage.Request, "check", dataset=dataset, **common), stage.run)
    own = {name: column for column, name in dataset.names.items()}
    categories = tuple(own.get(name, name) for name in Engine.build(run.config.features).columns_of_ids())
    request = run.request(
        stage.LabelledRequest,
        "check",
        log=dataset,
        labels=(),
        time_column=None,
        categories=categories,
        **common,
    )
    return performed(run, request, stage.run_labelled)


def limits(config: stage.Config) -> stage.checks.Limits:
    """Return the limits of a contract, without what says where and when they hold."""
    return stage.checks.Limits.model_validate(config.model_dump(exclude={"file", "num_days"}))


def performed(run: AnyRun[Any], request: R, work: Callable[[R, Sink], DataCheck]) -> DataCheck:
    """Return the check of `request`; its warnings and its report go where people see them.

    Raises:
        ValueError: see `check_data`.
    """
    check = perform(run, "check", DataCheck, request, work)
    sentences = report.sentences(check)
    for sentence in sentences:
        listener()(Event(stage="check", message=f"warning: {sentence}"))
    if not run.stages["check"].cached:
        num_stops = sum(breach.stops for breach in check.breaches)
        run.tracker.log_tags(
            {
                "contract": "stopped" if num_stops else "warned" if sentences else "held",
                "contract.breaches": "\n".join(sentences),
            }
        )
        run.tracker.log_figure(report.figure(check), "contract")
    if TaskRunContext.get() is not None:
        create_markdown_artifact(check.report.read_text(), key="data-contract", description=str(run.day))
    stage.enforce(check)
    return check


def _window(run: Run, last: date) -> int | None:
    """Return the days that a cold start learns from, counted from `last`."""
    window = run.config.preprocess.window_days
    return None if window is None else window + (last - run.day).days
