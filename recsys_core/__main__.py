"""`python -m recsys_core STAGE --request FILE`: run one stage, as torchrun does on every rank.

The request is the stage's `Request` as JSON, with paths of artifacts that exist; the artifact is written where the
request says. Bad input ends with exit code 2 and an `error` event, a stage that was asked to stop (SIGTERM, SIGINT) and
can go on later with 75, anything else with a traceback; what no code expected writes `STAGE.fault.txt` beside it too.
"""

import argparse
import importlib
import logging
import os
import signal
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

from recsys_core import fault, launch, progress, stage_loop
from recsys_core.artifacts import Request
from recsys_core.imports import importing
from recsys_core.launch import fork_server, kept
from recsys_core.launch.fork_server.server import ForkServer

STAGES = {
    "train": "retrieval.train",
    "evaluate": "retrieval.evaluate",
    "export": "retrieval.export",
    "embed": "retrieval.embed",
    "replay": "serving.replay",
    "check_bundle": "serving.check",
    "embed_table": "exported.tables",
    "index": "retrieval.index",
    "hitrate": "retrieval.hit_rate",
    "hitrate_lists": "retrieval.hit_rate.shares",
    "rank_train": "ranking.train",
    "rank_measure": "ranking.measure",
    "rank_evaluate": "ranking.evaluate",
    "rank_export": "ranking.export",
    "rank_predict": "ranking.predict",
    "rank_replay": "serving.replay",
    "rank_check_bundle": "serving.check",
    "predict_table": "exported.tables",
}
# What the modules of stages import when they need it, which every one does that reads and writes tables.
_LATER = ("pandas", "pyarrow.dataset")


def main(arguments: list[str] | None = None) -> int:
    """Load, dispatch, and leave the artifact behind; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m recsys_core", description=__doc__)
    kinds = parser.add_subparsers(required=True, metavar="stage")
    for stage in sorted(STAGES):
        one = kinds.add_parser(stage, help="a stage to run")
        one.set_defaults(stage=stage)
        one.add_argument("--request", type=Path, required=True, help="JSON file of the stage's Request")
        one.add_argument("--events", type=Path, help="file to append progress events to, one JSON object a line")
    several = kinds.add_parser(kept.COMMAND, help="run the stages of a group that the starter asks for, one by one")
    several.set_defaults(stage=None)
    several.add_argument("group", choices=sorted(kept.GROUPS))
    several.add_argument("--socket", required=True, help="the starter's abstract socket")
    forking = kinds.add_parser(kept.FORK, help="import what a group's stages need, and fork what starters ask for")
    forking.set_defaults(stage=None, socket=None)
    forking.add_argument("group", choices=sorted(kept.GROUPS))
    forking.add_argument("--listening", type=int, required=True, help="descriptor of the socket")
    forking.add_argument("--path", type=Path, required=True, help="the socket's file")
    for kind in kinds.choices.values():
        kind.add_argument(
            "--watch-stdin", action="store_true", help="exit when standard input closes: the starter died"
        )
    chosen = parser.parse_args(arguments)
    # Libraries' notices to their own developers would drown a stage's log.
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", category=FutureWarning)
    if chosen.watch_stdin:
        _watch()
    if chosen.stage is not None:
        return _do(chosen.stage, chosen.request, chosen.events)
    # What has been imported is not looked through for what can be freed: that would copy it in each process.
    with importing():
        for stage in kept.GROUPS[chosen.group]:
            _module(stage)
        for module in _LATER:
            importlib.import_module(module)
    if chosen.socket is None:
        server = ForkServer(chosen.listening, chosen.path, fork_server.keep_seconds(), signal.SIGKILL)
        asked = server.serve()
        # What was asked is what would follow `python`.
        return 0 if asked is None else main(asked.arguments[2:])

    def do(stage: str, request: Path, events: Path) -> int:
        if chosen.watch_stdin:
            # A rank that is forked has none of its parent's threads.
            _watch()
        return _do(stage, request, events)

    return stage_loop.serve(chosen.socket, do)


def _watch() -> None:
    threading.Thread(target=launch.exit_with_starter, daemon=True, name="watch-stdin").start()


def _module(stage: str) -> Any:
    return importlib.import_module(f"recsys_core.{STAGES[stage]}")


def _do(stage: str, request: Path, events: Path | None) -> int:
    """Run a stage; return the exit code, whose process raises what this raises."""
    sink = progress.to_file(events) if events else progress.silent
    with importing():
        module = _module(stage)
    request_type: type[Request] = module.Request
    try:
        module.run(request_type.model_validate_json(request.read_text()), sink)
    except (ValueError, OSError) as error:
        sink(progress.Event(stage=stage, error=str(error)))
        sys.stderr.write(f"error: {error}\n")
        return 2
    except progress.Stopped as stopped:
        sys.stderr.write(f"{stopped}\n")
        return progress.STOPPED_EXIT_CODE
    except RuntimeError:
        raise
    except Exception as error:
        fault.write(error, launch.fault_file(request))
        raise
    return 0


def _end(exit_code: int) -> None:
    """End the process without taking the interpreter apart.

    Meanwhile a library's thread that wants the interpreter aborts the process ("terminate called without an active
    exception", seen of ranks whose work was done). What counts is written by now.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)


if __name__ == "__main__":
    _end(main())
