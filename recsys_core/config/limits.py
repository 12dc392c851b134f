"""Sizes beyond reason are refused before anything is made of them: by key, with the limit and what it is for."""

from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import BaseModel

from recsys_core.config.parsing import Key, spell
from recsys_core.features import TableSpec

_ANY = (2**31 - 1, "a count or a seed")
_MOST: dict[str, tuple[int, str]] = {
    "batch_size": (2**24, "the rows of a step have to fit in a rank's memory"),
    "rows_per_file": (2**24, "the rows of a file have to fit in memory"),
    "num_negatives": (2**22, "the items of a step have to fit in a rank's memory"),
    "embedding_dim": (2**14, "numbers of one embedding"),
    "output_dim": (2**14, "numbers of one embedding"),
    "dim": (2**14, "numbers of one row"),
    "max_length": (2**20, "entries of one row"),
    "tile_length": (2**14, "embeddings side by side in one row"),
    "max_characters": (2**20, "characters of one text"),
    "max_tokens": (2**20, "tokens of one text"),
    "hidden": (2**16, "numbers of one layer"),
    "k": (100_000, "a list of items for every query"),
    "ks": (100_000, "a list of items for every query"),
    "popularity_k": (100_000, "a list of items for every query"),
    "hnsw_m": (2**12, "neighbours of an item"),
    "ef_construction": (2**20, "candidates of one search"),
    "ef_search": (2**20, "candidates of one search"),
    "num_queries": (2**16, "rows that a release carries"),
    "parity_rows": (2**24, "rows that are held in memory"),
    "num_ranks": (1_024, "processes on one machine"),
    "num_nodes": (4_096, "machines of one training"),
    "threads_per_rank": (1_024, "threads of one process"),
    "utc_offset_hours": (24, "hours of a day"),
    "days": (36_525, "a hundred years"),
    "seconds": (31_557_600, "a year"),
}
# Named by the last word of a key, such as query_hidden and window_days.
_BY_ENDING = {"hidden", "days", "seconds"}
_OTHERS = {"time_to_live": "days"}
# Values of the data, and rows, whose limit is the memory that they take.
_FREE = {"vocabulary", "default", "mod", "boundaries", "values", "fill", "min_count", "max_counted"}
_ROWS = {"num_embeddings", "max_rows", "num_buckets"}
_MOST_ROWS = 2**40
_MOST_BYTES = 2**41  # of one rank: no machine has so much


def check(config: BaseModel) -> None:
    """Hold every number of `config` against its limit.

    Raises:
        ValueError: one that is beyond, by its key, with the limit and its reason.
    """
    dumped = config.model_dump(mode="json")
    for keys, number in _numbers(dumped, ()):
        name = next(key for key in reversed(keys) if isinstance(key, str))
        most, reason = _limit(name, number)
        if most is not None and abs(number) > most:
            raise ValueError(f"{spell(keys, dumped)}: {number:,} is beyond {most:,} ({reason}); set a smaller one")


def check_tables(tables: Sequence[TableSpec], num_ranks: int) -> None:
    """Refuse tables that no ranks could hold.

    Raises:
        ValueError: names the largest table, what it takes, and the limit.
    """
    if tables_bytes(tables) > _MOST_BYTES * num_ranks:
        largest = max(tables, key=_bytes)
        raise ValueError(
            f"features: table {largest.name!r}, {largest.num_embeddings:,} rows of {largest.embedding_dim}, takes "
            f"{size(_bytes(largest))}, all tables {size(tables_bytes(tables))}; the limit is {size(_MOST_BYTES)} for "
            f"each of the {num_ranks} ranks of launch. Lower num_embeddings or embedding_dim"
        )


def check_dense(num_bytes: int) -> None:
    """Refuse layers, of which every rank holds all, that no rank could hold.

    Raises:
        ValueError: names what they take, and the limit.
    """
    if num_bytes > _MOST_BYTES:
        raise ValueError(
            f"model: its layers take {size(num_bytes)}; the limit is {size(_MOST_BYTES)}, as every rank holds all of "
            "them. Set smaller ones"
        )


def tables_bytes(tables: Sequence[TableSpec]) -> int:
    """Return the memory that the weights of all tables take together."""
    return sum(map(_bytes, tables))


def size(num_bytes: float) -> str:
    """Return a number of bytes in words."""
    for unit in ("bytes", "KiB", "MiB", "GiB", "TiB"):
        if num_bytes < 1024:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:,.0f} PiB"


def _bytes(table: TableSpec) -> int:
    return table.num_embeddings * table.embedding_dim * (4 if table.dtype == "float32" else 2)


def _numbers(node: Any, keys: tuple[Key, ...]) -> Iterator[tuple[tuple[Key, ...], int | float]]:
    if isinstance(node, int | float) and not isinstance(node, bool):
        yield keys, node
    elif isinstance(node, dict | list):
        for key, inner in node.items() if isinstance(node, dict) else enumerate(node):
            yield from _numbers(inner, (*keys, key))


def _limit(name: str, number: float) -> tuple[int | None, str]:
    if name in _FREE:
        return None, ""
    if name in _ROWS:
        return _MOST_ROWS, "rows of one table"
    ending = name.rpartition("_")[2]
    name = _OTHERS.get(name, ending if ending in _BY_ENDING else name)
    if name in _MOST:
        return _MOST[name]
    return _ANY if isinstance(number, int) else (None, "")
