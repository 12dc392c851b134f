"""Mutated logs in the daily layout: each is read with every row accounted for, or refused by one line that names it."""

import datetime
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

DAYS = [datetime.date(2024, 1, day) for day in (1, 2, 3)]
NUM_USERS, NUM_ITEMS, PER_DAY = 12, 9, 30
PART = "part-00000.parquet"
FEATURES = {
    "embedding_dim": 4,
    "query": [
        {"kind": "sequence", "name": "clicked", "column": "history__item_id", "table": "item_id"},
        {"kind": "id", "name": "city", "num_embeddings": 16},
        {"kind": "raw", "name": "age", "normalizer": "zscore"},
    ],
    "item": [
        {"kind": "id", "name": "item_id", "num_embeddings": 64},
        {"kind": "id", "name": "brand", "num_embeddings": 16},
        {"kind": "id", "name": "tags", "num_embeddings": 16},
        {"kind": "raw", "name": "price", "normalizer": "log1p"},
    ],
}
INTERACTIONS, USERS, ITEMS = (f"{table}/ds={{}}/{PART}" for table in ("interactions", "users", "items"))

Mutation = Callable[[Path, random.Random], Any]
"""Changes the log in a folder, at a place of chance."""


class Case(NamedTuple):
    """A mutation, and what of it is named when it is refused; None: it is read."""

    name: str
    mutate: Mutation
    named: str | None


def _seconds(day: datetime.date, second: int) -> int:
    return (day - datetime.date(1970, 1, 1)).days * 86_400 + second


def _write(path: Path, rows: pa.Table) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(rows, path)


def _acts(day: datetime.date, rng: random.Random, num_rows: int = PER_DAY) -> pa.Table:
    times = sorted(rng.randrange(86_400) for _ in range(num_rows))
    users, items = ([rng.randrange(n) for _ in times] for n in (NUM_USERS, NUM_ITEMS))
    columns = {"user_id": users, "item_id": items, "timestamp": [_seconds(day, second) for second in times]}
    return pa.table({name: pa.array(values, pa.int64()) for name, values in columns.items()})


def _daily(log: Path) -> None:
    rng = random.Random(0)
    for day in DAYS:
        _write(log / INTERACTIONS.format(day), _acts(day, rng))
    users = {"user_id": range(NUM_USERS), "city": [f"c{n % 5}" for n in range(NUM_USERS)]}
    _write(log / USERS.format(DAYS[0]), pa.table(users | {"age": [18.0 + n for n in range(NUM_USERS)]}))
    items = {"item_id": range(NUM_ITEMS), "brand": [f"b{n % 3}" for n in range(NUM_ITEMS)]}
    lists = [[f"t{n % 4}", f"t{n % 2}"] for n in range(NUM_ITEMS)]
    _write(log / ITEMS.format(DAYS[0]), pa.table(items | {"tags": lists, "price": [1.0 + n for n in range(NUM_ITEMS)]}))


def _column(file: str, name: str, make: Callable[[pa.ChunkedArray], Any], days: int = 1) -> Mutation:
    """Make one column of a file anew, of `days` days of the table."""

    def mutate(log: Path, rng: random.Random) -> None:
        for day in rng.sample(DAYS, days) if file == INTERACTIONS else DAYS[:1]:
            path = log / file.format(day)
            rows = pq.ParquetFile(path).read()
            pq.write_table(rows.set_column(rows.column_names.index(name), name, make(rows[name])), path)

    return mutate


def _cell(file: str, name: str, value: Any, kind: pa.DataType | None = None) -> Mutation:
    """Put a value into some row."""

    def mutate(log: Path, rng: random.Random) -> None:
        def make(column: pa.ChunkedArray) -> pa.Array:
            values = column.to_pylist()
            values[rng.randrange(len(values))] = value
            return pa.array(values, kind or column.type)

        _column(file, name, make)(log, rng)

    return mutate


def _cast(kind: pa.DataType) -> Callable[[pa.ChunkedArray], Any]:
    return lambda column: column.cast(kind)


def _text(form: str) -> Callable[[pa.ChunkedArray], Any]:
    """Write times as text."""
    return lambda column: pa.array(
        [format(datetime.datetime.fromtimestamp(at, datetime.UTC), form) for at in column.to_pylist()]
    )


def _table(file: str, change: Callable[[pa.Table], pa.Table]) -> Mutation:
    def mutate(log: Path, rng: random.Random) -> None:
        path = log / file.format(rng.choice(DAYS) if file == INTERACTIONS else DAYS[0])
        pq.write_table(change(pq.ParquetFile(path).read()), path)

    return mutate


def _beside(name: str, rows: Callable[[datetime.date, random.Random], pa.Table] = _acts) -> Mutation:
    """Write one more file of interactions."""

    def mutate(log: Path, rng: random.Random) -> None:
        day = rng.choice(DAYS)
        _write(log / "interactions" / f"ds={day}" / name, rows(day, rng))

    return mutate


def _bytes(name: str, content: bytes) -> Mutation:
    """Put a file of other content into some day's folder, or over its part."""

    def mutate(log: Path, rng: random.Random) -> None:
        (log / "interactions" / f"ds={rng.choice(DAYS)}" / name).write_bytes(content)

    return mutate


def _at(change: Callable[[Path], Any], file: str = INTERACTIONS) -> Mutation:
    """Do something to some day's file, or to the one of a table that has but one."""
    return lambda log, rng: change(log / file.format(rng.choice(DAYS) if file == INTERACTIONS else DAYS[0]))


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def _damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[8:120] = bytes(112)
    path.write_bytes(content)


def _bad_text(column: pa.ChunkedArray) -> pa.Array:
    """Texts whose bytes are latin-1, which Arrow lets into a file."""
    return pa.array([b"Troms\xf8"] * len(column), pa.binary()).view(pa.string())


def _zoned(unit: str) -> Callable[[pa.ChunkedArray], Any]:
    return lambda column: column.cast(pa.timestamp("s")).cast(pa.timestamp(unit, "Asia/Shanghai"))


def _times(factor: float) -> Callable[[pa.ChunkedArray], Any]:
    return lambda column: pa.array([at * factor for at in column.to_pylist()])


def _day_of(name: str, table: str = "users") -> Mutation:
    """Give a partition another name."""

    def mutate(log: Path, rng: random.Random) -> None:
        (log / table / f"ds={DAYS[0]}").rename(log / table / name)

    return mutate


def _two_files(file: str, one: Callable[[pa.Table], pa.Table], other: Callable[[pa.Table], pa.Table]) -> Mutation:
    """Write a day's rows as two files."""

    def mutate(log: Path, rng: random.Random) -> None:
        path = log / file.format(rng.choice(DAYS) if file == INTERACTIONS else DAYS[0])
        rows = pq.ParquetFile(path).read()
        pq.write_table(one(rows.slice(0, 4)), path)
        pq.write_table(other(rows.slice(4)), path.with_name("part-00001.parquet"))

    return mutate


def _as(name: str, kind: pa.DataType) -> Callable[[pa.Table], pa.Table]:
    return lambda rows: rows.set_column(rows.column_names.index(name), name, rows[name].cast(kind))


def _nulls(name: str) -> Callable[[pa.Table], pa.Table]:
    return lambda rows: rows.set_column(rows.column_names.index(name), name, pa.nulls(rows.num_rows))


def _empty(day: datetime.date, rng: random.Random) -> pa.Table:
    return _acts(day, rng).slice(0, 0)


def _texts_of_ids(kind: pa.DataType, spell: str = "{}") -> Mutation:
    """Write the ids of users as text, in all files."""

    def mutate(log: Path, rng: random.Random) -> None:
        def make(column: pa.ChunkedArray) -> pa.Array:
            return pa.array([spell.format(value) for value in column.to_pylist()]).cast(kind)

        for file, days in ((INTERACTIONS, len(DAYS)), (USERS, 1)):
            _column(file, "user_id", make, days)(log, rng)

    return mutate


def _ids_as(kind: pa.DataType) -> Mutation:
    def mutate(log: Path, rng: random.Random) -> None:
        for file, days in ((INTERACTIONS, len(DAYS)), (USERS, 1)):
            _column(file, "user_id", _cast(kind), days)(log, rng)

    return mutate


def _at_resolution(unit: str) -> Callable[[pa.Table], pa.Table]:
    return lambda rows: _as("timestamp", pa.timestamp(unit))(_as("timestamp", pa.timestamp("s"))(rows))


def _milliseconds_after_no_rows(log: Path, rng: random.Random) -> None:
    _column(INTERACTIONS, "timestamp", _times(1000), 3)(log, rng)
    _write(log / "interactions" / f"ds={DAYS[0]}" / "a.parquet", _acts(DAYS[0], rng, 0))


OTHER_DAY = datetime.datetime(2024, 1, 9, tzinfo=datetime.UTC)
DICTIONARY = pa.dictionary(pa.int32(), pa.string())
DAILY = [
    # Files.
    Case("hidden", _beside(".part-00001.parquet"), None),
    Case("marker", _bytes("_SUCCESS", b""), None),
    Case("checksum", _bytes("part-00000.parquet.crc", b"crc\0"), None),
    Case("nested", _beside(f"hour=13/{PART}"), None),
    Case("no suffix", _beside("000001_0"), None),
    Case("capitals", _beside("PART-7.PARQUET"), None),
    Case("no rows", _beside("part-00001.parquet", _empty), None),
    Case("truncated", _at(_truncate), PART),
    Case("damaged", _at(_damage), PART),
    Case("zero bytes", _bytes(PART, b""), PART),
    Case("wrong magic", _bytes(PART, b"PK\x03\x04" + bytes(200)), PART),
    Case("unknown bytes", _bytes("000002_0", b"nothing"), "000002_0"),
    Case("stray text", _bytes("notes.txt", b"look"), "notes.txt"),
    Case("half uploaded", _bytes("part-00001.parquet.tmp", b"PAR1"), "part-00001.parquet.tmp"),
    Case("csv", _bytes("extra.csv", b"user_id,item_id,timestamp\n1,2,3\n"), "extra.csv"),
    Case("fifo", _at(lambda path: os.mkfifo(path.with_name("x.parquet"))), "x.parquet"),
    Case("broken link", _at(lambda path: path.with_name("x.parquet").symlink_to("gone")), "x.parquet"),
    Case("linked twice", _at(lambda path: path.with_name("x.parquet").symlink_to(path)), "x.parquet"),
    Case("link to above", _at(lambda path: path.with_name("x").symlink_to(path.parent)), "/x"),
    Case("name of two lines", _beside("a\nb.parquet"), "a\\nb.parquet"),
    Case("folder of that name", _at(lambda path: path.with_name("x.parquet").mkdir()), None),
    Case("delta", _at(lambda path: path.with_name("_delta_log").mkdir()), "Delta"),
    # Partitions.
    Case("short day", _day_of("ds=2024-1-1"), "ds=2024-1-1"),
    Case("compact day", _day_of("ds=20240101"), "ds=20240101"),
    Case("other key", _day_of("day=2024-01-01"), "day=2024-01-01"),
    Case("first day of all", _day_of("ds=0001-01-01"), None),
    Case("epoch", _day_of("ds=1970-01-01", "items"), None),
    Case("last day of all", _day_of("ds=9999-12-31"), "users"),
    Case("missing day", lambda log, rng: shutil.rmtree(log / "interactions" / f"ds={DAYS[2]}"), "2024-01-03"),
    Case("day without files", lambda log, rng: (log / INTERACTIONS.format(DAYS[2])).unlink(), "of 2024-01-03"),
    Case("table away", lambda log, rng: shutil.rmtree(log / "items"), "'items'"),
    Case(
        "file for a day", lambda log, rng: _write(log / "users" / "ds=2024-01-02", _acts(DAYS[0], rng)), "ds=2024-01-02"
    ),
    # Columns.
    Case("column away", _table(INTERACTIONS, lambda rows: rows.drop_columns(["item_id"])), "'item_id'"),
    Case("field away", _table(ITEMS, lambda rows: rows.drop_columns(["brand"])), "'brand'"),
    Case("column twice", _table(USERS, lambda rows: rows.append_column("city", rows["city"])), "'city'"),
    Case("renamed", _table(ITEMS, lambda rows: rows.rename_columns(["id", "brand", "tags", "price"])), "'item_id'"),
    Case("computed name", _table(ITEMS, lambda rows: rows.append_column("num_interactions", rows["price"])), "num_int"),
    Case("id null", _cell(INTERACTIONS, "user_id", None), "'user_id'"),
    Case("id of list", _column(USERS, "user_id", lambda column: pa.array([[v] for v in column.to_pylist()])), "'user_"),
    Case("id unknown", _cell(INTERACTIONS, "item_id", 2**63 - 1), str(2**63 - 1)),
    Case("id beyond int64", _ids_as(pa.uint64()), None),
    Case("id of uint64", _cell(INTERACTIONS, "user_id", 2**63, pa.uint64()), "'user_id'"),
    Case("ids of double", _ids_as(pa.float64()), None),
    Case("ids of half floats", _ids_as(pa.float16()), None),
    Case("ids of decimal", _ids_as(pa.decimal256(60, 2)), None),
    Case("id with a fraction", _cell(INTERACTIONS, "user_id", 1.5, pa.float64()), "'user_id'"),
    Case("id of NaN", _cell(INTERACTIONS, "user_id", float("nan"), pa.float64()), "'user_id'"),
    Case("id of inf", _cell(USERS, "user_id", float("inf"), pa.float64()), "'user_id'"),
    Case("ids of text", _texts_of_ids(pa.large_string(), "u{}"), None),
    Case("ids of views", _texts_of_ids(pa.string_view(), "ü{}"), None),
    Case("ids of categories", _texts_of_ids(DICTIONARY), None),
    Case("ids of bytes", _texts_of_ids(pa.binary(), "u{}\0"), None),
    Case("ids of lines", _texts_of_ids(pa.string(), "u\n{}\r\x1b[31m"), None),
    Case("text here, number there", _column(USERS, "user_id", _cast(pa.string())), "user_id"),
    Case("id twice", _cell(ITEMS, "item_id", 1), "items"),
    Case("id of a struct", _column(ITEMS, "item_id", lambda c: pa.array([{"a": v} for v in c.to_pylist()])), "'item_"),
    Case("null throughout", _two_files(USERS, _nulls("age"), lambda rows: rows), None),
    Case("lists null throughout", _two_files(ITEMS, _nulls("tags"), lambda rows: rows), None),
    Case("two widths", _two_files(INTERACTIONS, _as("user_id", pa.int16()), lambda rows: rows), None),
    Case("two texts", _two_files(USERS, _as("city", DICTIONARY), _as("city", pa.string_view())), None),
    Case("two lists", _two_files(ITEMS, _as("tags", pa.large_list(pa.string())), lambda rows: rows), None),
    Case("two kinds", _two_files(ITEMS, _as("price", pa.string()), lambda rows: rows), "'price'"),
    Case("text for a number", _column(USERS, "age", _cast(pa.string()), 1), "age"),
    Case("list of one", _column(USERS, "age", lambda c: pa.array([[v] for v in c.to_pylist()])), None),
    Case("lists for values", _column(USERS, "age", lambda c: pa.array([[v, v] for v in c.to_pylist()])), "age"),
    Case("value for a list", _column(ITEMS, "tags", lambda c: pa.array(["t1"] * len(c))), None),
    Case("floats for categories", _column(USERS, "city", lambda c: pa.array([float(n) for n in range(len(c))])), None),
    Case(
        "fractions for categories", _column(USERS, "city", lambda c: pa.array([n / 2 for n in range(len(c))])), "city"
    ),
    # Times.
    Case("iso", _column(INTERACTIONS, "timestamp", _text("%Y-%m-%d %H:%M:%S"), 3), None),
    Case("iso of one day", _column(INTERACTIONS, "timestamp", _text("%Y-%m-%dT%H:%M:%S.250+00:00")), None),
    Case("zones", _column(INTERACTIONS, "timestamp", _zoned("us"), 3), None),
    Case("two resolutions", _two_files(INTERACTIONS, _at_resolution("s"), _at_resolution("ns")), None),
    Case("milliseconds", _column(INTERACTIONS, "timestamp", _times(1000), 3), None),
    Case("milliseconds of one day", _column(INTERACTIONS, "timestamp", _times(1000)), "'timestamp'"),
    Case("doubles", _column(INTERACTIONS, "timestamp", _times(1.0), 3), None),
    Case("decimals", _column(INTERACTIONS, "timestamp", _cast(pa.decimal128(22, 3)), 3), None),
    Case("no rows before milliseconds", _milliseconds_after_no_rows, None),
    Case("negative", _cell(INTERACTIONS, "timestamp", -1), "not on 2024"),
    Case("NaN", _cell(INTERACTIONS, "timestamp", float("nan"), pa.float64()), "'timestamp'"),
    Case("beyond the years", _cell(INTERACTIONS, "timestamp", 2**63 - 1), "'timestamp'"),
    Case(
        "digits without end",
        _column(INTERACTIONS, "timestamp", lambda c: pa.array([str(v) for v in c.to_pylist()[1:]] + ["9" * 30])),
        "'timestamp'",
    ),
    Case("another day", _cell(INTERACTIONS, "timestamp", int(OTHER_DAY.timestamp())), "not on 2024"),
    Case("booleans", _column(INTERACTIONS, "timestamp", lambda c: pa.array([True] * len(c))), "'timestamp'"),
    # Values.
    Case("NaN among ages", _cell(USERS, "age", float("nan")), None),
    Case("inf among prices", _cell(ITEMS, "price", float("inf")), "price"),
    Case(
        "empty and long",
        _column(USERS, "city", lambda c: pa.array(["", "x" * 100_000, None, "\0", "\x1b[2J", "Tromsø"] * 2)),
        None,
    ),
    Case("no UTF-8", _column(USERS, "city", _bad_text), "city"),
    Case("null everywhere", _column(USERS, "city", lambda c: pa.nulls(len(c))), None),
]


@pytest.mark.parametrize("case", DAILY, ids=lambda case: case.name)
def test_mutated_logs(
    tmp_path: Path,
    hold: Callable[..., None],
    retrieved: Callable[..., dict[str, int]],
    profiled: Callable[[Path], None],
    case: Case,
):
    log = tmp_path / "log"
    _daily(log)
    case.mutate(log, random.Random(case.name))
    hold(log, case.named, lambda: retrieved({"kind": "daily", "source": str(log)}, FEATURES, DAYS[1]))
    for table in ("interactions", "users", "items"):
        profiled(log / table)
