"""The `dayline` command. Results go to stdout, all else to stderr."""

import atexit
import contextlib
import errno
import json
import logging
import os
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from flows import (
    check_serving_command,
    checkpoint_commands,
    config_commands,
    data_commands,
    demo,
    describe_command,
    features_commands,
    index_commands,
    kept,
    odps_commands,
    release_commands,
    replay_command,
    running,
    search_command,
    serve_command,
    stage_commands,
    stop_command,
    training_commands,
)
from recsys_core import fault
from recsys_core.progress import STOPPED_EXIT_CODE, Stopped
from recsys_core.redaction import redact

if TYPE_CHECKING:
    from recsys_core.config import RankingConfig, RunConfig
    from tasks.report import DayResult
    from tasks.report_ranking import RankingResult
    from tasks.report_ranking_day import RankingDay

# Not even the message of a failed flow: it comes as our own one line, and Prefect's page has the traceback.
_QUIET = {
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL",
    "MLFLOW_CONFIGURE_LOGGING": "false",
}

_STOPPING = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)

# Packages whose exceptions are about a service, by that service's name.
_SERVICES = {"mlflow": "MLflow", "prefect": "Prefect", "httpx": "Prefect", "sqlalchemy": "database"}

app = typer.Typer(
    name="dayline",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="""Retrain a recommender every day: ingest, preprocess, train, evaluate, export, embed, index, hit rate, gate,
    publish.

    Try it with made-up data: `dayline demo`

    One day of your own: `dayline run configs/movielens_two_tower.yaml --day 1998-04-15`

    Every run is in MLflow and Prefect; see `dayline run --help`.""",
)
app.add_typer(checkpoint_commands.app, name="checkpoint")
app.add_typer(config_commands.app, name="config")
app.add_typer(data_commands.app, name="data")
app.add_typer(features_commands.app, name="features")
app.add_typer(release_commands.app, name="release")
training_commands.register(app)
stage_commands.register(app)
app.command("odps-emulator")(odps_commands.odps_emulator)
app.command("index")(index_commands.index)
app.command("hit-rate")(index_commands.hit_rate)
app.command("serve")(serve_command.serve)
app.command("describe")(describe_command.describe)
app.command("stop")(stop_command.stop)
app.command("search")(search_command.search)
app.command("replay")(replay_command.replay)
app.command("check-serving")(check_serving_command.check_serving)

Config = Annotated[Path, typer.Argument(help="YAML file, such as configs/demo.yaml", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        "--edit-config-json",
        metavar="KEY=VALUE|JSON",
        help="change a key of the config, as in features.query[name=city].column=town; repeatable",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="print the result as JSON instead of a table")]
Day = typer.Option(formats=["%Y-%m-%d"], metavar="YYYY-MM-DD", show_default=False)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(fault.versions())
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="print the versions and exit")
    ] = False,
) -> None:
    """Take what comes before the command."""


@app.command()
def run(
    config: Config,
    day: Annotated[datetime | None, Day] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Retrain one day, measure it on the next one, and publish it if the gate lets it pass.

    A config with a section `ranking` trains a ranking model: every day likewise on rows by day (`data.kind:
    labelled_days`), measured on what `holdout` says; or once on tables in splits, measured on their test rows, and its
    scores of a table are written.

    Without `--day` it is the last day that has a following day with data. What was done before with the same inputs is
    not done again, so a run that was killed goes on where it was.

    `dayline run configs/demo.yaml --day 2024-01-15`

    `dayline run configs/ctr_daily.yaml --day 2024-01-11`, `dayline run configs/dlrm_frappe.yaml`

    `dayline run configs/demo.yaml --set train.batch_size=512 --set launch.num_ranks=2 --json | jq .metrics.hit_rate`
    """
    kept.hand_over(lambda: config_commands.load(config, overrides))
    with running.ready(config, overrides, day and day.date()) as (loaded, path, changes):
        result = _flow_of_a_day(loaded)(path, day and day.date(), changes)
    _print([result], as_json=as_json, single=True)


@app.command()
def backfill(
    config: Config,
    first: Annotated[datetime, typer.Option("--from", formats=["%Y-%m-%d"], metavar="YYYY-MM-DD")],
    last: Annotated[datetime, typer.Option("--to", formats=["%Y-%m-%d"], metavar="YYYY-MM-DD")],
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Retrain several days in order, each continuing the release of the one before.

    A day that the gate turns down does not stop it; an error does.

    `dayline backfill configs/movielens_two_tower.yaml --from 1998-04-01 --to 1998-04-14`

    `dayline backfill configs/ctr_daily.yaml --from 2024-01-04 --to 2024-01-10 --json`
    """
    if last < first:
        raise typer.BadParameter(f"--to {last.date()} is before --from {first.date()}")

    kept.hand_over(lambda: _load_daily(config, overrides))
    _load_daily(config, overrides)
    with running.ready(config, overrides, first.date()) as (loaded, path, changes):
        results = _flow_of_days(loaded)(path, first.date(), last.date(), changes)
    _print(results, as_json=as_json)


def _load_daily(config: Path, overrides: Sequence[str] | None) -> "RunConfig | RankingConfig":
    loaded = config_commands.load(config, overrides)
    if not config_commands.is_daily(loaded):
        typer.echo(f"error: {config}: {config_commands.NO_RELEASES}; `dayline run` trains it", err=True)
        raise typer.Exit(2)
    return loaded


@app.command("demo")
def run_demo() -> None:
    """Generate a small shop's log in data/shop, retrain three days with configs/demo.yaml, and print one table.

    Run it in a checkout of the project. It takes a few minutes on a laptop; a second call finds everything done.
    """
    demo.require()
    kept.hand_over(lambda: config_commands.load(demo.CONFIG, None))
    with running.ready(demo.CONFIG, None, prepare=demo.generate) as (_, path, changes):
        from flows import daily

        first, last = demo.days()
        results = daily.backfill(path, first, last, changes)
    _print(results, as_json=False)
    typer.echo(demo.farewell(), err=True)


def main() -> None:
    """Run the command, and end the process at once when it has ended; see `command`."""
    code = 1

    def leave() -> None:
        """End the process without taking the interpreter apart, which takes seconds of the libraries of a flow."""
        logging.shutdown()
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except OSError:
            return  # the interpreter says so, and sets the exit code
        os._exit(code)

    # Before what libraries register, so that it is called after that.
    atexit.register(leave)
    try:
        command()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        raise


def command() -> None:
    """Run the command; an error that has a message of its own is one line on stderr and exit code 1.

    One that no code expected is written to a file, which the line names, and the exit code is 70. A stage that was
    stopped from outside ends it with 75.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    # A server that does not take logs is named once, by the error that ends the command.
    logging.raiseExceptions = False
    for number in _STOPPING:
        if signal.getsignal(number) != signal.SIG_IGN:  # as after nohup
            signal.signal(number, _terminate)
    try:
        app(prog_name="dayline")
    except Stopped as stopped:
        typer.echo(str(stopped), err=True)
        sys.exit(STOPPED_EXIT_CODE)
    except Exception as error:  # noqa: BLE001 - nothing above could handle it
        is_known = isinstance(error, (ValueError, RuntimeError, OSError)) or _service(error) is not None
        message = _message(error) if is_known else fault.write(error, fault.temporary_file())
        for line in redact(message).splitlines():
            typer.echo(line if line.startswith(" ") else f"error: {line}", err=True)
        code = 1 if is_known and not isinstance(error, fault.Fault) else fault.EXIT_CODE
        if _service(error) == "Prefect":
            # Its client would go on for minutes to send what a server that is gone does not take.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        sys.exit(code)


def _service(error: Exception) -> str | None:
    # Not by its class: importing that takes seconds.
    return _SERVICES.get(type(error).__module__.partition(".")[0])


def _message(error: Exception) -> str:
    service, is_full = _service(error), fault.is_full_disk(error)
    place, said = "", str(error) or type(error).__name__
    if isinstance(error, OSError) and (error.strerror is not None or (isinstance(error, shutil.Error) and is_full)):
        place, said = fault.place_of(error), error.strerror or os.strerror(errno.ENOSPC)
    elif service is not None:
        place, said = service, said.splitlines()[0]
    message = f"{place}: {said}" if place else said
    if is_full:
        return f"{message}; free some space and run it again: finished stages are kept"
    return message if service is None else f"{message}; run it again when it answers: finished stages are kept"


def _terminate(number: int, _frame: FrameType | None) -> None:
    # A second one would cut off what ends the processes and marks the run as killed.
    for other in _STOPPING:
        signal.signal(other, signal.SIG_IGN)
    message = f"stopped by {signal.Signals(number).name}; run it again: finished stages are kept\n"
    with contextlib.suppress(OSError):  # the terminal may be gone
        os.write(2, message.encode())
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    # Unlike death by the signal itself this unwinds.
    sys.exit(128 + number)


def _flow_of_a_day(loaded: "RunConfig | RankingConfig") -> "Callable[..., DayResult | RankingDay | RankingResult]":
    from recsys_core.config import RankingConfig

    if not isinstance(loaded, RankingConfig):
        from flows.daily import daily_retrain

        return daily_retrain
    if loaded.is_daily:
        from flows.daily_ranking import daily_ranking

        return daily_ranking
    from flows.ranking import ranking

    return ranking


def _flow_of_days(loaded: "RunConfig | RankingConfig") -> "Callable[..., Sequence[DayResult | RankingDay]]":
    from flows import daily, daily_ranking
    from recsys_core.config import RankingConfig

    return daily_ranking.backfill if isinstance(loaded, RankingConfig) else daily.backfill


def _print(results: "Sequence[DayResult | RankingDay | RankingResult]", *, as_json: bool, single: bool = False) -> None:
    if not as_json:
        from flows import console

        console.table(results)
        return
    values = [result.model_dump(mode="json") for result in results]
    typer.echo(json.dumps(values[0] if single else values, indent=2))
