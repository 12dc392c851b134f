"""Mutated labelled tables in splits: each is read with every row counted, or refused by one line that names it."""

import datetime
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys_core import ingest
from recsys_core.features import Config as Features
from recsys_core.progress import silent
from recsys_core.ranking import Config, prepare

PART = "part-00000.parquet"
SPLITS = ("train", "test")
FEATURES = {
    "embedding_dim": 4,
    "query": [{"kind": "id", "name": "user", "num_embeddings": 32}],
    "item": [{"kind": "id", "name": "item", "num_embeddings": 32}, {"kind": "raw", "name": "price"}],
}
CSV = "label,user,item,price\n1,1,1,0.5\n"

Mutation = Callable[[Path, random.Random], Any]
"""Changes the splits in a folder, at a place of chance."""


class Case(NamedTuple):
    """A mutation, and what of it is named when it is refused; None: it is read."""

    name: str
    mutate: Mutation
    named: str | None


def _rows(rng: random.Random, num_rows: int = 40) -> pa.Table:
    labels = [n % 2 for n in range(num_rows)]
    users, items = ([rng.randrange(10) for _ in labels] for _ in range(2))
    columns = {"label": labels, "user": users, "item": items}
    kinds = pa.schema([*((name, pa.int64()) for name in columns), ("price", pa.float64())])
    return pa.table(columns | {"price": [rng.random() for _ in labels]}, schema=kinds)


def _written(rows: Callable[[random.Random], pa.Table], *, name: str = PART, split: str = "train") -> Mutation:
    def mutate(log: Path, rng: random.Random) -> None:
        (log / split / name).parent.mkdir(exist_ok=True)
        pq.write_table(rows(rng), log / split / name)

    return mutate


def _column(name: str, make: Callable[[list[Any]], Any], splits: tuple[str, ...] = SPLITS) -> Mutation:
    """Make a column anew of its values."""

    def mutate(log: Path, rng: random.Random) -> None:
        for split in splits:
            rows = pq.ParquetFile(log / split / PART).read()
            made = make(rows[name].to_pylist())
            pq.write_table(rows.set_column(rows.column_names.index(name), name, made), log / split / PART)

    return mutate


def _as(kind: pa.DataType) -> Callable[[list[Any]], pa.Array]:
    return lambda values: pa.array(values).cast(kind)


def _cell(name: str, value: Any, kind: pa.DataType) -> Mutation:
    """Put a value into some row of `train`."""

    def mutate(log: Path, rng: random.Random) -> None:
        def make(values: list[Any]) -> pa.Array:
            values[rng.randrange(len(values))] = value
            return pa.array(values, kind)

        _column(name, make, ("train",))(log, rng)

    return mutate


def _into_folder(*splits: str) -> Mutation:
    def mutate(log: Path, rng: random.Random) -> None:
        for split in splits:
            (log / split / "dt=1").mkdir()
            (log / split / PART).rename(log / split / "dt=1" / "0_0")

    return mutate


CASES = [
    Case("hidden", _written(_rows, name="_part-1.parquet"), None),
    Case("another file", _written(_rows, name="PART-1.PARQ"), None),
    Case("one in a folder of Hive", _into_folder("train"), None),
    Case("all in folders of Hive", _into_folder(*SPLITS), None),
    Case("two tables", _written(_rows, name="dt=1/a.parquet"), "partition keys"),
    Case("one more column", _written(lambda rng: _rows(rng).append_column("ds", pa.nulls(40)), split="test"), None),
    Case("one less", _written(lambda rng: _rows(rng).drop_columns(["price"]), split="test"), "'price'"),
    Case("twice", _written(lambda rng: _rows(rng).append_column("user", pa.nulls(40))), "'user'"),
    Case("no rows to learn from", _written(lambda rng: _rows(rng, 0)), "train"),
    Case("no rows to measure", _written(lambda rng: _rows(rng, 0), split="test"), None),
    Case("one label", _column("label", lambda values: pa.array([1] * len(values))), "train"),
    Case("label null", _cell("label", None, pa.int64()), "'label'"),
    Case("label text", _column("label", lambda values: pa.array(map(str, values))), "'label'"),
    Case("label bool", _column("label", _as(pa.bool_())), None),
    Case("label decimal", _column("label", _as(pa.decimal128(20, 1))), None),
    Case("label NaN", _cell("label", float("nan"), pa.float64()), "'label'"),
    Case("label of lists", _column("label", lambda values: pa.array([[value] for value in values])), "'label'"),
    Case("floats for ids", _column("user", _as(pa.float32())), None),
    Case("categories for ids", _column("user", lambda values: pa.array(map(str, values)).dictionary_encode()), None),
    Case("text in one split", _column("user", lambda values: pa.array(map(str, values)), ("test",)), "'user'"),
    Case("id with a fraction", _cell("user", 0.5, pa.float64()), "'user'"),
    Case("id beyond int64", _cell("item", 2**64 - 1, pa.uint64()), "'item'"),
    Case(
        "id of no text",
        _column("item", lambda v: pa.array([b"\xf8"] * len(v), pa.binary()).view(pa.string())),
        "'item'",
    ),
    Case("infinite", _cell("price", float("inf"), pa.float64()), "'price'"),
    Case("NaN", _cell("price", float("nan"), pa.float64()), None),
    Case("text for a number", _column("price", lambda values: pa.array(map(str, values))), "'price'"),
    Case("formats mixed", lambda log, rng: (log / "train" / "b.csv").write_text(CSV), "b.csv"),
    Case("orc of nothing", lambda log, rng: (log / "train" / PART).rename(log / "train" / "a.orc"), "a.orc"),
    Case("no train", lambda log, rng: shutil.rmtree(log / "train"), "train"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_mutated_splits(tmp_path: Path, hold: Callable[..., None], profiled: Callable[[Path], None], case: Case):
    log, rng = tmp_path / "log", random.Random(case.name)
    for split in SPLITS:
        (log / split).mkdir(parents=True)
        pq.write_table(_rows(rng), log / split / PART)
    case.mutate(log, rng)

    def prepared() -> dict[str, int]:
        day = datetime.date(2024, 1, 2)
        data = ingest.lookup.OneOf(prepare.CATALOGUE).parse({"kind": "splits", "source": str(log), "day": day})
        request = prepare.Request(
            output=tmp_path / "run" / "prepare",
            config_hash="c",
            code_version="v",
            config=Config(label="label"),
            data=data,
            features=Features.model_validate(FEATURES),
            import_root=tmp_path / "imports",
            fingerprint=prepare.fingerprint(data),
        )
        found = {split.name: split.num_rows for split in prepare.run(request, silent).splits}
        return {split: rows for split, rows in found.items() if rows or (log / split / PART).exists()}

    hold(log, case.named, prepared)
    profiled(log / "train")
