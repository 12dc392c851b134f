"""Where MLflow keeps the runs, and how it is reached.

MLflow is imported inside functions: it takes seconds, and most commands never need it.
"""

import contextlib
import fcntl
import logging
import math
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from pydantic import Field, field_validator

from recsys_core.artifacts import Frozen
from recsys_core.progress import Event, Sink, silent
from recsys_core.redaction import redact

if TYPE_CHECKING:
    from mlflow import MlflowClient

# What MLflow reads when it is imported, unless the user chose otherwise: it sends no telemetry and loads no pickles.
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # Standard output is for results.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # Half a minute for a server that restarts; MLflow's own 7 are four minutes, and each call of a stage takes them.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "4",
}
_NOISY_LOGGERS = (
    "alembic",
    "mlflow.pyfunc",
    "mlflow.store.db.utils",
    "mlflow.store.model_registry.abstract_store",
    "mlflow.system_metrics.system_metrics_monitor",
)
# It warns of every try that fails; the error of the last one says it all.
_LOUD_LOGGER = "urllib3.connectionpool"
_DATABASE, _ASIDE = "mlflow.db", ".mlflow-"
_SERVERS, _DATABASES = ("http", "https"), ("sqlite", "postgresql", "mysql", "mssql")
_FILE = "sqlite:///"
# Where MLflow has answered this process.
_ANSWERED: set[str] = set()


class Config(Frozen):
    """YAML section `tracking`."""

    uri: str | None = Field(
        default=None,
        description="MLflow server or database; null keeps the runs in run_root/mlflow.db, without a server",
    )
    experiment: str | None = Field(default=None, description="MLflow experiment; null takes the config's name")
    system_metrics: bool = Field(
        default=True, description="record CPU, memory, disk, network and GPU while the run lasts"
    )
    system_metrics_interval_seconds: int = Field(default=10, ge=1)
    flush_seconds: float = Field(default=2, ge=0, description="points of live curves are sent together, this often")
    check_seconds: float = Field(
        default=5, gt=0, description="how long MLflow may take to answer before the work starts"
    )
    wait_seconds: float = Field(
        default=60,
        ge=0,
        description="how long publishing, and the start of a further day, wait for a server that does not answer any "
        "more; until then what is logged is kept beside the run",
    )

    @field_validator("uri")
    @classmethod
    def _can_be_reached(cls, uri: str | None) -> str | None:
        scheme, separator, rest = (uri or "").partition("://")
        known = scheme in _SERVERS or scheme.partition("+")[0] in _DATABASES
        if uri is not None and not (separator and rest and known):
            raise ValueError(
                f"{redact(uri)!r} is neither the address of an MLflow server, such as http://127.0.0.1:5000, nor a "
                f"database ({', '.join(_DATABASES)}), such as sqlite:////folder/mlflow.db; null keeps the runs in a "
                "file in run_root"
            )
        return uri


def location(config: Config, run_root: Path) -> str:
    """Return the tracking URI that `config` means; the embedded store is `mlflow.db` in `run_root`."""
    return config.uri or _sqlite(run_root.resolve() / _DATABASE)


def database(config: Config, run_root: Path) -> Path | None:
    """Return the SQLite file that MLflow keeps the runs in; None where it is something else, or one is not there.

    That in `run_root` may be still to come.
    """
    if config.uri is None:
        return run_root / _DATABASE
    named = Path(config.uri.removeprefix(_FILE))
    plain = config.uri.startswith(_FILE) and not set("%?") & set(config.uri)
    return named if plain and named.is_file() else None


def _sqlite(database: Path) -> str:
    if not set("%?") & set(str(database)):
        return f"{_FILE}{database}"
    # With the driver's name: under the short one, MLflow makes the folder as it is written here.
    return f"sqlite+pysqlite:///{quote(str(database), safe='/ ')}"


def set_defaults() -> None:
    """Set what MLflow reads when it is imported, and quiet it; call it before anything imports MLflow."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    for logger in _NOISY_LOGGERS:
        logging.getLogger(logger).setLevel(logging.WARNING)
    logging.getLogger(_LOUD_LOGGER).setLevel(logging.ERROR)


def import_client(uri: str) -> None:
    """Import what `connect` and the client's calls need, which takes seconds."""
    set_defaults()
    import mlflow

    if not _is_server(uri):
        import mlflow.store.model_registry.sqlalchemy_store
        import mlflow.store.tracking.sqlalchemy_store  # noqa: F401


def connect(uri: str) -> "MlflowClient":
    """Return a client of `uri`, and make it this process's tracking URI: parts of MLflow know no other.

    A server's user and password move from the URI into the environment, where MLflow keeps them out of its messages.
    """
    set_defaults()
    parts = urlsplit(uri)
    if _is_server(uri) and parts.username:
        os.environ["MLFLOW_TRACKING_USERNAME"] = unquote(parts.username)
        os.environ["MLFLOW_TRACKING_PASSWORD"] = unquote(parts.password or "")
        uri = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    import mlflow

    mlflow.set_tracking_uri(uri)
    return mlflow.MlflowClient()


def check(config: Config, run_root: Path, sink: Sink = silent) -> None:
    """Ask MLflow one question, before any work depends on the answer.

    One that has answered this process before is restarting, and is waited for; `sink` gets a message of that.

    Raises:
        ValueError: nothing answers within `check_seconds` (then `wait_seconds`), or what answers is not MLflow.
    """
    uri = location(config, run_root)
    shown = f"tracking.uri {redact(uri)}"
    if config.uri is None:
        _create(run_root / _DATABASE, shown, config.check_seconds)
    if not _is_server(uri):
        _check_database(uri, shown, config.check_seconds)
    set_defaults()
    lost = _ask(uri, config.check_seconds)
    deadline = time.monotonic() + (config.wait_seconds if uri in _ANSWERED else 0)
    if lost is not None and uri in _ANSWERED and is_away(lost, uri):
        sink(Event(stage="start", message=f"waiting for {shown} ({reason(lost)}), up to {config.wait_seconds:g} s"))
    while lost is not None and is_away(lost, uri) and time.monotonic() < deadline:
        time.sleep(1)
        lost = _ask(uri, config.check_seconds)
    if lost is not None:
        raise ValueError(
            f"{shown}: MLflow does not answer there ({reason(lost)}). Start it with `mlflow server --host 127.0.0.1 "
            "--port 5000 --workers 1`, correct tracking.uri, or set it to null to keep the runs in a file in run_root"
        ) from None
    _ANSWERED.add(uri)


def _ask(uri: str, seconds: float) -> Exception | None:
    """Ask MLflow one question; return the error if that fails."""
    from mlflow.exceptions import MlflowException

    try:
        with impatient(seconds):
            connect(uri).search_experiments(max_results=1)
    except MlflowException as error:
        return error
    return None


@contextlib.contextmanager
def impatient(seconds: float) -> Iterator[None]:
    """Inside, a call of the server is tried once and for `seconds`; MLflow's own way is to retry for minutes."""
    wanted = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": str(math.ceil(seconds))}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def errors() -> tuple[type[Exception], ...]:
    """Return the classes of what calls of MLflow raise."""
    from mlflow.exceptions import MlflowException
    from requests import RequestException

    return MlflowException, RequestException


def is_away(error: Exception, uri: str) -> bool:
    """Whether `error` says that the server or the database of `uri` does not work, not that it refuses something.

    A file does not come back as a server does: its errors are the run's.
    """
    from mlflow.exceptions import MlflowException
    from requests import RequestException

    if uri.startswith("sqlite"):
        return False
    if isinstance(error, MlflowException):
        status = error.get_http_status_code()
    else:
        assert isinstance(error, RequestException)
        status = error.response.status_code if error.response is not None else 503
    return status >= 500 or status == 429


def _is_server(uri: str) -> bool:
    return urlsplit(uri).scheme in _SERVERS


def _create(database: Path, shown: str, seconds: float) -> None:
    """Make the embedded store, which appears when it is complete: MLflow cannot go on with one that is half made.

    Raises:
        ValueError: it cannot be written.
    """
    database.parent.mkdir(parents=True, exist_ok=True)
    if database.exists():
        return
    set_defaults()
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
    from sqlalchemy.exc import SQLAlchemyError

    handle = os.open(database.parent, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        if database.exists():
            return
        folder = database.parent.resolve()
        for left_behind in folder.glob(f"{_ASIDE}*"):
            shutil.rmtree(left_behind)
        with tempfile.TemporaryDirectory(prefix=_ASIDE, dir=folder) as aside:
            uri = _sqlite(Path(aside, database.name))
            _check_database(uri, shown, seconds)
            SqlAlchemyStore(uri, (folder / "mlartifacts").as_uri()).engine.dispose()
            Path(aside, database.name).rename(database)
    except SQLAlchemyError as error:
        raise ValueError(
            f"{shown}: the database cannot be made ({reason(error)}); free some space, or choose another run_root"
        ) from None
    finally:
        os.close(handle)


def _check_database(uri: str, shown: str, seconds: float) -> None:
    """Open the database once: MLflow would try for minutes to open one that is not there."""
    from sqlalchemy import create_engine, inspect
    from sqlalchemy.exc import SQLAlchemyError

    option = "timeout" if uri.startswith("sqlite") else "connect_timeout"
    try:
        engine = create_engine(uri, connect_args={option: math.ceil(seconds)})
        inspect(engine).get_table_names()
        engine.dispose()
    except (SQLAlchemyError, ImportError) as error:
        raise ValueError(
            f"{shown}: not a database that can be opened ({reason(error)}); give the address of an MLflow server, a "
            "database such as sqlite:////folder/mlflow.db, or null for a file in run_root"
        ) from None


def reason(error: BaseException) -> str:
    """Return what a person needs of a message that wraps others: the innermost one, or else the first line."""
    text = redact(str(error))
    before, wrapped, inner = text.partition("Caused by ")
    if not wrapped:
        return before.partition("\n")[0][:300]
    return re.split(r": |\(['\"]|, ['\"]", inner)[-1].strip("()'\"")[:300]
