"""A log of a few rows as ingest leaves it, and what preprocess is asked to make of it."""

import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from recsys_core.artifacts import Dataset, DayCount, TrainingData
from recsys_core.features import Config as Features
from recsys_core.retrieval import preprocess

FIRST = datetime.date(2024, 1, 1)
MIDNIGHT = 1_704_067_200  # FIRST in Unix seconds
Rows = list[dict[str, Any]]

FEATURES: dict[str, Any] = {
    "embedding_dim": 4,
    "query": [
        {"kind": "sequence", "name": "history__item_id", "table": "item_id"},
        {"kind": "sequence", "name": "history__genres", "table": "genres"},
        {"kind": "sequence", "name": "bought_at", "column": "history__price", "table": "price"},
        {"kind": "id", "name": "user_id", "num_embeddings": 50},
        {"kind": "id", "name": "segment", "num_embeddings": 10},
    ],
    "item": [
        {"kind": "id", "name": "item_id", "num_embeddings": 50},
        {"kind": "id", "name": "genres", "num_embeddings": 10},
        {"kind": "id", "name": "price", "num_embeddings": 10},
        {"kind": "raw", "name": "num_interactions", "normalizer": "log1p"},
    ],
}
SCHEMAS = {
    "interactions": pa.schema({"user_id": pa.int64(), "item_id": pa.string(), "timestamp": pa.int64()}),
    "users": pa.schema({"user_id": pa.int64(), "segment": pa.string(), "nickname": pa.string()}),
    "items": pa.schema({"item_id": pa.string(), "genres": pa.list_(pa.string()), "price": pa.int64()}),
}


def day_at(number: int) -> datetime.date:
    return FIRST + datetime.timedelta(days=number)


def click(day: int, second: int, user: int, item: str) -> dict[str, Any]:
    return {"day": day, "user_id": user, "item_id": item, "timestamp": MIDNIGHT + day * 86_400 + second}


def user_row(day: int, user: int, segment: str | None) -> dict[str, Any]:
    return {"day": day, "user_id": user, "segment": segment, "nickname": f"n{user}"}


def item_row(day: int, item: str, genres: list[str] | None = None, price: int | None = None) -> dict[str, Any]:
    return {"day": day, "item_id": item, "genres": genres, "price": price}


def make_log(root: Path, interactions: Rows, users: Rows, items: Rows) -> Dataset:
    tables = {"interactions": interactions, "users": users, "items": items}
    last = max(row["day"] for rows in tables.values() for row in rows)
    days = []
    for number in range(last + 1):
        counts = {}
        for name, rows in tables.items():
            todays = [row for row in rows if row["day"] == number]
            if name == "interactions":
                todays.sort(key=lambda row: row["timestamp"])
            counts[f"num_{name}"] = len(todays)
            # Two files, because nothing says that a day is one.
            for part, chunk in enumerate((todays[: len(todays) // 2], todays[len(todays) // 2 :])):
                if chunk:
                    path = root / name / f"ds={day_at(number)}" / f"part-{part:05d}.parquet"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    pq.write_table(pa.Table.from_pylist(chunk, schema=SCHEMAS[name]), path)
        if any(counts.values()):
            days.append(DayCount(day=day_at(number), **counts))
    return Dataset(
        path=root,
        key="",
        digest="d",
        num_rows=len(interactions),
        config_hash="",
        code_version="",
        files=(),
        root=root,
        day=day_at(last - 1),
        days=tuple(days),
        columns={name: {f.name: str(f.type) for f in schema} for name, schema in SCHEMAS.items()},
    )


def make_request(dataset: Dataset, day: int, output: Path, **fields: Any) -> preprocess.Request:
    fields.setdefault("config", preprocess.Config())
    features = Features.model_validate(fields.pop("features", FEATURES))
    return preprocess.Request(
        output=output, config_hash="", code_version="", features=features, dataset=dataset, day=day_at(day), **fields
    )


def read(folder: Path) -> Rows:
    (path,) = folder.iterdir()
    return pq.ParquetFile(path).read().to_pylist()


def continuing(base: TrainingData) -> dict[str, Any]:
    return {
        "base_learned": base.learned,
        "base_engine": base.engine,
        "base_engine_digest": base.engine_digest,
    }
