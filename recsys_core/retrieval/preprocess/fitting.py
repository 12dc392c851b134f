"""What the stage does with the tables that it has made: it writes them, and fits the features on them."""

import itertools
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa

from recsys_core.columns import RowError
from recsys_core.features import Engine, unknown
from recsys_core.gate import Values
from recsys_core.progress import Event, Sink
from recsys_core.readers import Place
from recsys_core.writers.parquet import Writer

STAGE = "preprocess"
CHUNK_ROWS = 16_384
_AHEAD = 2  # tables that wait to be written
COMPUTED = ("num_interactions", "sampling_weight")


def fitted(
    engine: Engine,
    examples: Iterable[pa.Table],
    ranked: Iterable[pa.Table],
    directory: Path,
    base_engine: Path | None,
    locate: Callable[[int], Place] | None = None,
) -> Engine:
    """Fit the engine on examples and then on the items `ranked`, and save it; or keep that of `base_engine` as it is.

    The latter is for where there is nothing new to learn.

    `locate` says where a row of the examples is the user's own; None: they were made here.

    Raises:
        ValueError: a feature cannot take a value; names the row, where it is the user's.
    """
    if base_engine is not None:
        for _ in examples:
            pass
        shutil.copytree(base_engine, directory)
        return Engine.load(directory)
    of_items = False

    def query_first() -> Iterator[pa.Table]:
        nonlocal of_items
        yield from examples
        of_items = True

    try:
        engine.fit(query_first(), ranked)
    except RowError as error:
        if locate is None:
            raise ValueError(error.reason) from None
        place = Place("the item table", error.row) if of_items else locate(error.row)
        raise ValueError(f"{place.path}: row {place.first_row}: {error.reason}") from None
    engine.save(directory)
    return engine


def base_engine(folder: Path | None, digest: str | None) -> Engine | None:
    """Return the engine of the state that is continued, if one is.

    Raises:
        ValueError: it is not the one of the digest.
    """
    if folder is None:
        return None
    engine = Engine.load(folder)
    if engine.digest != digest:
        raise ValueError(f"{folder}: digest {engine.digest}, wanted {digest}; restore it")
    return engine


def sliced(asked: Mapping[str, Values], fields: Mapping[str, str], item_fields: Mapping[str, str]) -> list[str]:
    """Return the columns of users that are needed, though no feature may read them; those of items are there.

    Raises:
        ValueError: one that neither has, or both have.
    """
    for name, (column, _) in asked.items():
        key = f"gate.slices.{name}.column"
        if column in fields and column in item_fields:
            raise ValueError(f"{key}: both the users and the items have {column!r}; name one that only one of them has")
        if column not in fields and column not in item_fields:
            raise ValueError(f"{key}: {unknown('column', column, list(dict.fromkeys([*fields, *item_fields])))}")
    return [column for column, _ in asked.values() if column in fields]


def written(tables: Iterable[pa.Table], directory: Path) -> Iterator[pa.Table]:
    """Write the tables (one or more, of one schema) as one Parquet file, and pass each on while it is written."""
    remaining = iter(tables)
    first = next(remaining)
    with Writer(directory, 0, first.schema, CHUNK_ROWS) as writer, ThreadPoolExecutor(1) as pool:
        waiting = deque[Future[None]]()
        for table in itertools.chain([first], remaining):
            waiting.append(pool.submit(writer.write, table))
            yield table
            if len(waiting) > _AHEAD:
                waiting.popleft().result()
        for future in waiting:
            future.result()


def counted(tables: Iterable[pa.Table], total: int, sink: Sink) -> Iterator[pa.Table]:
    """Pass the tables on, and say how many rows of `total` they were."""
    done = 0
    for table in tables:
        yield table
        done += table.num_rows
        sink(Event(stage=STAGE, done=done, total=total))
