"""What a command needs before it runs a flow: a checked config, a Prefect server, and progress that is shown."""

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from flows import config_commands, kept

if TYPE_CHECKING:
    from recsys_core.config import RankingConfig, RunConfig
    from recsys_core.progress import Sink


@contextlib.contextmanager
def ready(
    config: Path,
    overrides: Sequence[str] | None,
    day: date | None = None,
    *,
    prepare: "Callable[[Sink], None] | None" = None,
) -> "Iterator[tuple[RunConfig | RankingConfig, str, list[str]]]":
    """Check the config, start a Prefect server if none is there, and let flows run, their progress shown.

    Yields the config, and what a flow is given of it: its path, and the changes.

    `prepare` makes the data, which are looked for otherwise.
    """
    changes = list(overrides or ())
    loaded = config_commands.load(config, changes)

    with contextlib.ExitStack() as inside:
        model_passed = inside.enter_context(config_commands.required(loaded, config))
        from flows import console, server
        from recsys_core.config import preflight

        if prepare is None:
            preflight.check_data(loaded, day)
        temporary = inside.enter_context(server.temporary(kept.lent()))
        sink = inside.enter_context(console.progress())
        _import(loaded)
        model_passed()
        if prepare is not None:
            prepare(sink)
        from prefect.settings import PREFECT_API_URL, temporary_settings

        from tasks.hidden import hide
        from tasks.perform import listening

        # Their messages are on their own pages or in the error that is raised; elsewhere they would bury it.
        for name in ("prefect", "mlflow"):
            logging.getLogger(name).propagate = False
            logging.getLogger(name).addHandler(logging.NullHandler())
        if temporary is not None:
            inside.enter_context(temporary_settings({PREFECT_API_URL: temporary.address()}))
        inside.enter_context(listening(sink))
        yield loaded, str(config), hide(changes)


def _import(loaded: "RunConfig | RankingConfig") -> None:
    """Import what the flow is going to need, which takes seconds, as Prefect's server does to start."""
    from recsys_core.imports import importing

    with importing():
        from flows import daily, daily_ranking, ranking  # noqa: F401
        from recsys_core import tracking

        tracking.import_client(tracking.location(loaded.tracking, loaded.run_root))
