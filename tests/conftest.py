"""What tests of several levels start from."""

import contextlib
import fcntl
import gc
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import process_state
import pytest
from forking import Server
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import HealthCheck, settings
from retrieval_day import make_day

from recsys_core import launch, tracking

# What modules and collected tests are made of stays; looking through it for what can be freed takes long.
gc.disable()

# A busy machine is slow: no test fails for the time that an example takes.
settings.register_profile("dayline", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("dayline")

# Prefect reads its environment when it is imported. What tests run leaves no trace in the user's own records.
_PREFECT_HOME = tempfile.TemporaryDirectory(prefix="dayline-tests-")
os.environ |= {
    "DAYLINE_KEEP_SECONDS": "0",
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MPLBACKEND": "Agg",
    "PREFECT_HOME": _PREFECT_HOME.name,
    "XDG_CACHE_HOME": f"{_PREFECT_HOME.name}/cache",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}
_DATA = Path(os.environ.get("RECSYS_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop() -> Iterator[None]:
    """Let garbage be looked for from now on, and not in what was collected."""
    gc.freeze()
    gc.enable()
    return (yield)


@pytest.fixture(autouse=True)
def _process_as_it_was() -> Iterator[None]:
    """Let no test depend on those that the same process has run before it."""
    with process_state.as_it_was():
        yield


@pytest.fixture
def object_store() -> MemoryFileSystem:
    """fsspec's store in memory (`memory://`), empty: one process has only one, and every test of a worker sees it."""
    store = MemoryFileSystem()
    store.store.clear()
    store.pseudo_dirs[:] = [""]
    return store


@pytest.fixture(scope="session")
def recsys_data() -> Callable[[str], Path]:
    """Locate a folder of the research data by its name (`ml-100k`), or skip the test."""

    def locate(name: str) -> Path:
        if not (_DATA / name).is_dir():
            pytest.skip(f"no {_DATA / name}: RECSYS_DATA names the folder of the research data")
        return _DATA / name

    return locate


@pytest.fixture(scope="session")
def own_package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The user's package `shop` that docs/components.md shows, in its parent folder, which is on Python's path."""
    page = (Path(__file__).parents[1] / "docs" / "components.md").read_text(encoding="utf-8")
    root = tmp_path_factory.mktemp("own")
    (root / "shop").mkdir()
    for name, source in re.findall(r"`(shop/\w+\.py)`:\n\n```python\n(.*?)```", page, re.DOTALL):
        (root / name).write_text(source, encoding="utf-8")
    assert sorted(path.name for path in (root / "shop").iterdir()) == [
        "brier.py",
        "crossed.py",
        "focal.py",
        "length.py",
    ]
    sys.path.insert(0, str(root))
    yield root
    sys.path.remove(str(root))


@pytest.fixture(scope="session")
def make_store(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """Put MLflow's empty store into a run_root, as a first run does; making each anew would take seconds."""
    made = tmp_path_factory.mktemp("store")
    tracking.check(tracking.Config(), made)

    def make(run_root: Path) -> Path:
        run_root.mkdir(parents=True, exist_ok=True)
        shutil.copy(made / "mlflow.db", run_root)
        return run_root

    return make


@pytest.fixture(scope="session")
def prefect_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home of Prefect with its empty database, to be copied, and in the tests' own home a copy of it.

    Making one takes each server many seconds, so all workers of pytest-xdist have it from the first of them.
    """
    root = tmp_path_factory.getbasetemp()
    home = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "prefect-database"
    with home.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not home.exists():
            making = Path(tempfile.mkdtemp(dir=home.parent))
            subprocess.run(
                [sys.executable, "-m", "prefect", "server", "database", "upgrade", "--yes"],
                env={name: value for name, value in os.environ.items() if not name.startswith("COV")}
                | {"PREFECT_HOME": str(making)},
                capture_output=True,
                check=True,
            )
            making.rename(home)
    shutil.copytree(home, _PREFECT_HOME.name, dirs_exist_ok=True)
    return home


@pytest.fixture(scope="session")
def forking() -> Iterator[Any]:
    """What starts processes that have MLflow imported; see `forking.py`."""
    with Server() as server:
        yield server


@pytest.fixture(scope="module")
def kept_ranks() -> Iterator[None]:
    """Let the stages of a file's tests be done by the same processes, as those of one run or backfill are."""
    with launch.keeping():
        yield


@pytest.fixture
def dying_at(monkeypatch) -> Callable[[int], contextlib.AbstractContextManager[None]]:
    """Return what makes a `with` in which training dies before the step of that number."""
    from recsys_core.training.trainer import Trainer

    real = Trainer.step

    @contextlib.contextmanager
    def dying(last: int) -> Iterator[None]:
        def step(self, batch, number):
            if number == last:
                raise KeyboardInterrupt
            return real(self, batch, number)

        with monkeypatch.context() as patched:
            patched.setattr(Trainer, "step", step)
            with pytest.raises(KeyboardInterrupt):
                yield

    return dying


@pytest.fixture(scope="session")
def made_day() -> Callable[..., dict[str, Any]]:
    """Make the artifacts of one day, as the stages before `publish` would: towers of random weights, a real index.

    Call it with the run's directory, a day, a seed, and features besides those that are always there (of the query,
    and of items that have a `brand` then); the artifacts' names are those of publish.Request's fields.
    """
    return make_day
