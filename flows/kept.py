"""A process that is kept for the next commands: it has imported what a flow needs, and has Prefect's server.

The first command starts it, and every command is forked by it (see `recsys_core.launch.fork_server`), so that the
second one begins at once. The command that the user has started waits, and hands signals on.

`python -m flows.kept --listening N --path FILE` is that process.
"""

import argparse
import importlib
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from flows import server
from recsys_core import launch
from recsys_core.launch import fork_server

if TYPE_CHECKING:
    from recsys_core.config import RankingConfig, RunConfig

_WHAT = "flow"
_DEFAULT_SECONDS = 600.0
# What it imports before it answers takes seconds, on a busy machine many.
_READY_SECONDS = 180.0
_COMMAND = ("-P", "-m", "flows.kept")
# Everything that a day imports at some time.
_MODULES = (
    "pandas",
    "pyarrow.dataset",
    "flows.console",
    "flows.daily",
    "flows.daily_ranking",
    "flows.ranking",
    "recsys_core.plots",
)
_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)

_lent: server.Lent | None = None


def lent() -> server.Lent | None:
    """Return Prefect's server, if this process was forked by one that has it."""
    return _lent


def hand_over(load: "Callable[[], RunConfig | RankingConfig]") -> None:
    """Let a process that is kept fork one that runs this command, and end as that ends; return if none may be kept.

    `load` returns the config, or ends the command: nothing is started for a config that is wrong.

    Raises:
        ValueError: `DAYLINE_KEEP_SECONDS` is no number, or the folder of the sockets is open to others.
        SystemExit: the command is done.
    """
    default = _DEFAULT_SECONDS if sys.stderr.isatty() and not os.environ.get("CI") else 0.0
    os.environ.setdefault(fork_server.KEEP_SECONDS, f"{default:g}")
    if _lent is not None or not fork_server.keep_seconds() or not server.is_needed():
        return
    environment = dict(os.environ)
    if not fork_server.is_there(_WHAT, _COMMAND, environment):
        from recsys_core.config import RankingConfig

        loaded = load()
        group = "ranking" if isinstance(loaded, RankingConfig) else "retrieval"
        launch.prepare(launch.alone(loaded.launch), group)
        kept = f"what the next command needs is kept for {fork_server.keep_seconds() / 60:.3g} minutes"
        sys.stderr.write(f"{kept}; `dayline stop` ends it\n")
    forked = fork_server.fork(_WHAT, _COMMAND, sys.argv, environment, (0, 1, 2))
    if forked is None:
        return
    if not forked.has_begun(_READY_SECONDS):
        forked.kill()
        return

    def hand_on(number: int, _frame: FrameType | None) -> None:
        forked.send_signal(number)

    for number in _SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, hand_on)
    code = forked.wait()
    if forked.is_lost:
        raise RuntimeError(
            "the process that this command was forked by was killed; run it again: finished stages are kept"
        )
    if code < 0:
        _end_by(-code)
    sys.exit(code)


def _end_by(number: int) -> None:
    """End as the forked process has ended, without another dump of the core."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def main() -> None:
    """Import, and fork commands; a forked process goes on as the command that it is."""
    global _lent  # noqa: PLW0603 - what a process has from its parent
    from flows import cli
    from recsys_core import tracking
    from recsys_core.imports import importing
    from recsys_core.launch.fork_server.server import ForkServer

    parser = argparse.ArgumentParser()
    parser.add_argument("--listening", type=int, required=True)
    parser.add_argument("--path", type=Path, required=True)
    given = parser.parse_args()
    # A command that is cut off by the end of this process ends in good order.
    forking = ForkServer(given.listening, given.path, fork_server.keep_seconds(), signal.SIGTERM)
    started = server.Server()
    # Looking through what was imported for what can be freed would copy it in each command.
    with importing():
        for module in _MODULES:
            importlib.import_module(module)
        tracking.import_client("sqlite:///")
    try:
        asked = forking.serve(started.mind)
    except RuntimeError as error:
        forking.emit(f"error: {error}")
        raise
    if asked is None:
        started.stop()
        return
    _lent = started.lend()
    cli.main()


if __name__ == "__main__":
    # Of the module as others import it.
    importlib.import_module("flows.kept").main()
