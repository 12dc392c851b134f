"""`dayline demo`: a small shop, three days, and where to look afterwards."""

import os
import shutil
import sys
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from recsys_core.progress import Sink

CONFIG = Path("configs/demo.yaml")
LOG = Path("data/shop")
_NUM_DAYS = 3


def require() -> None:
    """Check that the command runs where the project's configs are.

    Raises:
        ValueError: it does not.
    """
    if not CONFIG.is_file():
        raise ValueError(f"{CONFIG}: not here; run `dayline demo` in a checkout of the project")


def generate(sink: "Sink") -> None:
    """Write the shop's log, if it is not there."""
    from recsys_core import ingest
    from recsys_core.datasets import synthetic

    if not LOG.exists():
        shop = {"num_days": 9, "num_users": 8_000, "num_items": 3_000, "interactions_per_day": 20_000}
        ingest.import_log(synthetic.Config.model_validate(shop), LOG, sink)


def days() -> tuple[date, date]:
    """Return the first and the last day to retrain: the newest that have a day after them."""
    from recsys_core.datasets import daily

    last = daily.last_day(LOG)
    return last - timedelta(days=_NUM_DAYS - 1), last


def farewell() -> str:
    """Return what to do next, in commands that this shell finds."""
    prefix = "" if shutil.which("dayline") else f"{os.path.relpath(Path(sys.executable).parent)}/"
    return f"""
The runs are in MLflow and Prefect. In two other terminals:

    {prefix}mlflow server --host 127.0.0.1 --backend-store-uri sqlite:///runs/mlflow.db --workers 1
        then open http://127.0.0.1:5000
    {prefix}prefect server start --host 127.0.0.1
        then open http://127.0.0.1:4200

Again, with a change:   {prefix}dayline run {CONFIG} --set train.num_epochs=5
The releases:           {prefix}dayline release list {CONFIG}"""
