"""A run as `start_run` makes it, on an MLflow store of its own."""

import datetime
from collections.abc import Callable
from pathlib import Path

import pytest

from recsys_core import config as configs
from recsys_core import tracking
from tasks.perform import Run

DAY = datetime.date(2024, 3, 1)
DEMO = Path(__file__).parents[3] / "configs" / "demo.yaml"


@pytest.fixture(scope="session")
def open_run(tmp_path_factory: pytest.TempPathFactory, make_store: Callable[[Path], Path]) -> Callable[..., Run]:
    """Make a run below a new folder, or below the one that is given."""

    def make(root: Path | None = None, *changes: str) -> Run:
        root = root or make_store(tmp_path_factory.mktemp("runs"))
        config = configs.load(DEMO, [f"run_root={root}", "tracking.system_metrics=false", *changes])
        identity = tracking.Identity(name="shop", day=DAY, run_id="r" * 12, config_hash="c", code_version="v")
        opened = tracking.open_run(config.tracking, root, identity, {})
        directory = root / "shop" / str(DAY) / identity.run_id
        directory.mkdir(parents=True, exist_ok=True)
        run = Run(
            run_id=identity.run_id,
            day=DAY,
            config=config,
            code_version="v",
            directory=directory,
            import_root=root / "imports",
            fingerprint="f",
            base=None,
            champion=None,
            tracker=opened.__enter__(),
        )
        run.closing.push(opened)
        return run

    return make
