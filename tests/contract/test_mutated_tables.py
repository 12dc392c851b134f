"""Mutated tables of CSV: a log of them is read with every row accounted for, or refused by one line that names it."""

import datetime
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

DAYS = [datetime.date(2024, 1, day) for day in (1, 2, 3)]
NUM_USERS, NUM_ITEMS, PER_DAY = 12, 9, 30
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
        {"kind": "raw", "name": "price", "normalizer": "log1p"},
    ],
}
Mutation = Callable[[Path, random.Random], Any]
"""Changes the log in a folder, at a place of chance."""


class Case(NamedTuple):
    """A mutation, and what of it is named when it is refused; None: it is read."""

    name: str
    mutate: Mutation
    named: str | None


def _tables(log: Path) -> None:
    rng, clicks = random.Random(2), list[str]()
    for day in DAYS:
        for _ in range(PER_DAY):
            clock = f"{rng.randrange(24):02}:{rng.randrange(60):02}:{rng.randrange(60):02}"
            clicks.append(f"{rng.randrange(NUM_USERS)},{rng.randrange(NUM_ITEMS)},{day}T{clock}Z")
    _save(log / "interactions.csv", ["user_id,item_id,timestamp", *clicks])
    _save(log / "users.csv", ["user_id,ds,city,age", *(f"{n},20240101,c{n % 5},{18 + n}" for n in range(NUM_USERS))])
    items = (f"{n},2024-01-01,b{n % 3},t{n % 2},{1.5 + n}" for n in range(NUM_ITEMS))
    _save(log / "items.csv", ["item_id,ds,brand,tags,price", *items])


def _save(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def _edit(name: str, change: Callable[[str], str | bytes]) -> Mutation:
    """Change the text of a file of CSV."""

    def mutate(log: Path, rng: random.Random) -> None:
        made = change((log / name).read_text())
        (log / name).write_bytes(made if isinstance(made, bytes) else made.encode())

    return mutate


def _line(name: str, change: Callable[[str], str]) -> Mutation:
    """Change some line of a file of CSV that is not its header."""

    def mutate(log: Path, rng: random.Random) -> None:
        lines = (log / name).read_text().splitlines()
        at = rng.randrange(1, len(lines))
        lines[at] = change(lines[at])
        _save(log / name, lines)

    return mutate


def _edit_all(change: Callable[[str], str | bytes]) -> Mutation:
    def mutate(log: Path, rng: random.Random) -> None:
        for path in log.iterdir():
            _edit(path.name, change)(log, rng)

    return mutate


def _with_zeros(text: str) -> str:
    """Write the ids of users, which open a line, with zeros before them."""
    return re.sub(r"\n(?=\d)", "\n00", text) if text.startswith("user_id") else text


CASES = [
    Case("as it is", _edit("users.csv", lambda text: text), None),
    Case("byte order mark", _edit("users.csv", lambda text: "\ufeff" + text), None),
    Case("utf-16", _edit("items.csv", lambda text: text.encode("utf-16")), None),
    Case(
        "latin-1", _edit("users.csv", lambda text: text.replace("c1", "Tromsø").encode("latin-1")), "users.csv: line "
    ),
    Case("carriage returns", _edit("interactions.csv", lambda text: text.replace("\n", "\r")), None),
    Case("dos", _edit("interactions.csv", lambda text: text.replace("\n", "\r\n")), None),
    Case("stray carriage return", _line("users.csv", lambda line: line.replace("c", "c\r")), "users.csv"),
    Case("too many values", _line("interactions.csv", lambda line: line + ",1"), "interactions.csv: line "),
    Case("too few values", _line("interactions.csv", lambda line: line.partition(",")[2]), "interactions.csv: line "),
    Case("open quote", _line("users.csv", lambda line: line.replace("c", '"c')), "users.csv: line "),
    Case("quotes", _line("users.csv", lambda line: re.sub(r"c(\d)", r'"c, ""\1"""', line)), None),
    Case("semicolons", _edit("users.csv", lambda text: text.replace(",", ";")), "csv.delimiter"),
    Case("no header", _edit("items.csv", lambda text: text.partition("\n")[2]), "items.csv"),
    Case("header twice", _edit("items.csv", lambda text: text.replace("brand,tags", "brand,brand")), "'brand'"),
    Case("long header", _edit("items.csv", lambda text: text.replace("price", "p" * 200_000)), "items.csv: line 1"),
    Case("empty", _edit("items.csv", lambda text: ""), "items.csv"),
    Case("blank", _edit("items.csv", lambda text: "\n\n"), "items.csv"),
    Case("header alone", _edit("interactions.csv", lambda text: text.partition("\n")[0]), "interactions.csv"),
    Case("blank lines", _line("users.csv", lambda line: f"\n{line}\n"), None),
    Case("zeros", _edit_all(_with_zeros), None),
    Case("all of Windows", _edit_all(lambda text: text.replace("\n", "\r\n").encode("utf-16")), None),
    Case("long number", _line("interactions.csv", lambda line: "1" * 25 + line), "user_id"),
    Case("NUL", _line("users.csv", lambda line: line.replace("c", "\0")), "users.csv: line "),
    Case("null id", _line("interactions.csv", lambda line: "NULL," + line.partition(",")[2]), "'user_id'"),
    Case("no time", _line("interactions.csv", lambda line: line.rpartition(",")[0] + ","), "'timestamp'"),
    Case(
        "time of no day",
        _line("interactions.csv", lambda line: line.rpartition("-")[0] + "-32T00:00:00Z"),
        "'timestamp'",
    ),
    Case("no day", _line("users.csv", lambda line: line.replace("20240101", "20241301")), "'ds'"),
    Case("day of a double", _edit("users.csv", lambda text: text.replace("20240101", "20240101.0")), None),
    Case("day too late", _edit("users.csv", lambda text: text.replace("20240101", "99991231")), "users"),
    Case(
        "last day away",
        _edit("interactions.csv", lambda text: "\n".join(x for x in text.split("\n") if "-03T" not in x)),
        "interactions.csv",
    ),
    Case("gzip of none", lambda log, rng: (log / "users.csv").rename(log / "users.csv.gz"), "users.csv.gz"),
    Case("file away", lambda log, rng: (log / "users.csv").unlink(), "users.csv"),
    Case("text among numbers", _line("users.csv", lambda line: line.rpartition(",")[0] + ",old"), "age"),
    Case("id unknown", _line("interactions.csv", lambda line: "77" + line), "interactions.csv"),
    Case("id twice", _edit("users.csv", lambda text: text + text.rstrip().rpartition("\n")[2] + "\n"), "users.csv"),
    Case("huge", _line("items.csv", lambda line: line.rpartition(",")[0] + ",1e400"), "price"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_mutated_tables_of_csv(
    tmp_path: Path,
    hold: Callable[..., None],
    retrieved: Callable[..., dict[str, int]],
    profiled: Callable[[Path], None],
    case: Case,
):
    log = tmp_path / "log"
    _tables(log)
    case.mutate(log, random.Random(case.name))
    there = {path.name.partition(".")[0]: str(path) for path in log.iterdir()}
    source = {name: there.get(name, str(log / f"{name}.csv")) for name in ("interactions", "users", "items")}
    days = {"interactions": "timestamp", "users": "ds", "items": "ds"}
    section: dict[str, Any] = {"kind": "tables", "source": source, "day_column": days}
    hold(log, case.named, lambda: retrieved(section, FEATURES, DAYS[1]))
    for path in log.iterdir():
        profiled(path)
