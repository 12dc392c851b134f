"""Daily rows with ids that move on from day to day, and the first stages of a run over them."""

import datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys_core import readers
from recsys_core.artifacts import NextDay
from recsys_core.datasets.base import day_number
from recsys_core.datasets.labelled import labelled_days
from recsys_core.features import Config as Features
from recsys_core.features import Engine
from recsys_core.losses import binary_cross_entropy
from recsys_core.models import dlrm
from recsys_core.ranking import Config, ingest, opened, train
from recsys_core.ranking.prepare import days as prepare
from recsys_core.training.config import Config as Train

COMMON = {"config_hash": "c" * 32, "code_version": "tests"}
RANKING = Config()
MODEL = dlrm.Config(bottom_hidden=(4,), top_hidden=(8,), concat_pooled=True)
DAYS = [datetime.date(2024, 1, number) for number in range(1, 7)]
FIRST, SECOND, THIRD, FOURTH, FIFTH, SIXTH = DAYS
ROWS = 120


def table_of(day, num_rows=ROWS):
    """Rows of a day, each with a number of its own, and ids that move on from day to day."""
    rng = np.random.default_rng(day.day)
    user, item = rng.integers(0, 8, num_rows) + day.day, rng.integers(0, 8, num_rows) + day.day
    return pa.table(
        {
            "row": np.arange(num_rows) + 1_000 * day.day,
            "label": ((user % 2 == item % 2) ^ (rng.random(num_rows) < 0.2)).astype(np.int8),
            "user": [f"u{n}" for n in user],
            "item": item,
            "age": rng.random(num_rows),
            "at": np.sort(rng.integers(0, 86_400, num_rows)) + day_number(day) * 86_400,
        }
    )


def write_day(root, day, table=None, **parquet):
    (root / f"ds={day}").mkdir(parents=True, exist_ok=True)
    pq.write_table(table_of(day) if table is None else table, root / f"ds={day}" / "part-0.parquet", **parquet)


class Line:
    """The first stages of a run, with what it continues."""

    def __init__(self, source, root, holdout=None, window_days=None, **data):
        self.data = labelled_days.Config(source=str(source), **{"time_column": "at"} | data)
        self.root, self.holdout, self.window_days = root, holdout or NextDay(), window_days
        self.features, self.events = FEATURES, []

    def ingest(self, day, base=None, reference_days=0):
        learned = base.learned if base else None
        needed = ingest.needed(
            self.data,
            day,
            held_out=self.holdout,
            base_learned=learned,
            window_days=self.window_days,
            reference_days=reference_days,
        )
        self.request = ingest.Request(
            output=self.root / f"{day}" / "ingest",
            config=RANKING,
            data=self.data,
            day=day,
            **needed._asdict(),
            import_root=self.root / "imports",
            **COMMON,
        )
        return ingest.run(self.request, self.events.append)

    def prepare(self, day, base=None, log=None, *, absorbs=False, **fields):
        engine = base and Engine.load(base.engine)
        request = prepare.Request(
            output=self.root / f"{day}" / ("absorb_prepare" if absorbs else "prepare"),
            config=prepare.Config(window_days=self.window_days),
            ranking=RANKING,
            features=self.features,
            log=log or self.ingest(day, base),
            day=day,
            holdout=self.holdout,
            time_column=self.data.time_column,
            base_learned=base.learned if base else None,
            base_engine=base.engine if base else None,
            base_engine_digest=engine.digest if base else None,
            absorbs=absorbs,
            **fields,
            **COMMON,
        )
        return prepare.run(request, self.events.append)


FEATURES = Features.model_validate(
    {
        "embedding_dim": 4,
        "query": [{"kind": "id", "name": "user", "num_embeddings": 32}, {"kind": "raw", "name": "age"}],
        "item": [{"kind": "id", "name": "item", "num_embeddings": 32}],
    }
)


def rows_of(data, split):
    return readers.read_all(opened(data, split), ["row"])["row"].to_pylist()


def all_rows(*days):
    return [row for day in days for row in table_of(day)["row"].to_pylist()]


def train_request(data, output, base=None, **changes):
    config = {
        "batch_size": 50,
        "num_epochs": 1,
        "sparse_optimizer": {"kind": "adagrad", "learning_rate": 0.3},
        "dense_optimizer": {"learning_rate": 0.03},
        "sharding": {"device": "cpu"},
    }
    return train.Request(
        output=output,
        config=Train.model_validate(config | changes),
        ranking=RANKING,
        model=MODEL,
        loss=binary_cross_entropy.Config(),
        num_ranks=1,
        seed=1,
        day=data.day,
        data=data,
        base=base,
        **COMMON,
    )
