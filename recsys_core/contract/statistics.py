"""What is remembered of one day's partition of one table, so that the days after need not read it again.

Legend: P points that stand for a column's numbers, H hashes that stand for its ids.
"""

import base64
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys_core import profile, readers
from recsys_core.artifacts import FileRecord, Frozen, digest_of, digest_of_file, write_text
from recsys_core.columns import plain_type, united
from recsys_core.datasets import _rows, daily
from recsys_core.integrity import discard, read_record
from recsys_core.profile.columns import Column
from recsys_core.profile.hashing import hashes
from recsys_core.profile.values import Numbers, Texts
from recsys_core.progress import Event, Sink, silent
from recsys_core.readers._files import conformed

_NUM_POINTS = 256
_NUM_TEXTS = 256
_NUM_HASHES = 8_192
_ALL = (1 << 64) - 1
_ID_TYPES = (pa.int64(), pa.int32(), pa.string())


class IdSample(Frozen):
    """The distinct ids of a day, or, of more than 8,192, those of the lowest hashes: the same ids on every day.

    `hashes` are uint64 [H] as base64; every id whose hash is at most `highest` is among them. A share of ids that is
    estimated from H of them has a standard error below 0.5 / sqrt(H).
    """

    hashes: str
    highest: int

    def values(self) -> np.ndarray:
        """Return the hashes [H], rising."""
        return np.frombuffer(base64.b64decode(self.hashes), dtype=np.uint64)


class ColumnStatistics(Frozen):
    """One column of one day. `points` and `counts`: numbers, rising, and how many values each stands for.

    `texts`: the most frequent texts and their counts; `is_time`: the values are times, which move on by nature.
    """

    type: str
    rows: int
    nulls: int
    values: int
    bad: int = 0
    minimum: float | None = None
    maximum: float | None = None
    mean: float | None = None
    is_time: bool = False
    points: tuple[float, ...] = ()
    counts: tuple[int, ...] = ()
    texts: dict[str, int] | None = None
    ids: IdSample | None = None


class PartitionStatistics(Frozen):
    """One table's partition of a day."""

    rows: int
    columns: dict[str, ColumnStatistics]


_NOTHING = PartitionStatistics(rows=0, columns={})


def of_partition(
    root: Path, table: str, files: Sequence[FileRecord], ids: Sequence[str], memory: Path, sink: Sink = silent
) -> PartitionStatistics:
    """Return the statistics of a partition, read from `memory` if files of the same content were read before.

    `ids` are the columns whose distinct values are sampled; `files` are below `root`.

    Raises:
        ValueError: a file cannot be read.
    """
    key = digest_of([_version(), table, list(ids), [file.digest for file in files]])
    return _remembered(memory / f"{key}.json", sink, lambda: compute(root, table, [root / f.path for f in files], ids))


def of_labelled_day(
    folder: Path,
    files: Sequence[FileRecord],
    ids: Sequence[str],
    categories: Sequence[str],
    memory: Path,
    sink: Sink = silent,
) -> PartitionStatistics:
    """Return the statistics of a day's labelled rows, as `of_partition` does; `files` are below `folder`.

    Whole numbers in `categories` are names, and so are compared one by one and not by their size.

    Raises:
        ValueError: a file cannot be read.
    """
    key = digest_of([_version(), "labelled", list(ids), list(categories), [file.digest for file in files]])
    return _remembered(
        memory / f"{key}.json", sink, lambda: compute_labelled(folder, ids, categories) if files else _NOTHING
    )


def _remembered(remembered: Path, sink: Sink, compute: Callable[[], PartitionStatistics]) -> PartitionStatistics:
    if remembered.exists():
        try:
            return read_record(PartitionStatistics, remembered)
        except ValueError as error:
            sink(Event(stage="check", message=f"warning: {error}; its partition is read again"))
            discard(remembered)
    found = compute()
    write_text(remembered, found.model_dump_json(exclude_defaults=True))
    return found


def compute(root: Path, table: str, paths: Sequence[Path], ids: Sequence[str]) -> PartitionStatistics:
    """Read the files of a partition of `table` once.

    Raises:
        ValueError: a file cannot be read.
    """
    if not paths:
        return _NOTHING
    types, schema = _types(root, table, paths)
    return _summed(types, schema, ids, (rows for path in paths for rows in _rows.read(root, table, path, schema.names)))


def compute_labelled(folder: Path, ids: Sequence[str], categories: Sequence[str]) -> PartitionStatistics:
    """Read the labelled rows of a day once; see `of_labelled_day`.

    Raises:
        ValueError: a file cannot be read.
    """
    reader = readers.opened(folder)
    types = {field.name: field.type for field in reader.schema}
    kinds = {name: plain_type(kind) for name, kind in types.items()}
    kinds |= {name: pa.string() for name in categories if pa.types.is_integer(kinds[name])}
    tables = (reader.read(block, reader.schema.names) for block in range(len(reader.block_rows)))
    return _summed(types, pa.schema(list(kinds.items())), ids, tables)


def _summed(
    types: dict[str, pa.DataType], schema: pa.Schema, ids: Sequence[str], tables: Iterator[pa.Table]
) -> PartitionStatistics:
    """Return the statistics of `tables`, whose columns are read as `schema` has them and are called `types`."""
    samples = {name: _Ids() for name in ids if name in types and schema.field(name).type in _ID_TYPES}
    num_rows = 0

    def conforming() -> Iterator[pa.Table]:
        nonlocal num_rows
        for rows in tables:
            num_rows += rows.num_rows
            whole = conformed(rows, schema)
            for name, sample in samples.items():
                for chunk in whole.column(name).chunks:
                    sample.add(chunk)
            yield whole

    columns = profile.columns_of(schema, schema.names, conforming())
    return PartitionStatistics(
        rows=num_rows,
        columns={name: _statistics(column, str(types[name]), samples.get(name)) for name, column in columns.items()},
    )


def _types(root: Path, table: str, paths: Sequence[Path]) -> tuple[dict[str, pa.DataType], pa.Schema]:
    """Return the types of the columns as the first file has them that knows them, and those that hold all files'."""
    types: dict[str, pa.DataType] = {}
    read: dict[str, pa.DataType] = {}
    schemas = {path: daily.schema(root, path) for path in paths}
    for path, schema in schemas.items():
        for field in schema:
            if not all(field.name in own.names for own in schemas.values()):
                continue
            kind = _rows.canonical(table, field.name, field.type)
            both = united(read.get(field.name, kind), kind)
            if both is None:
                raise ValueError(
                    f"{path}: column {field.name!r} is {kind}, and {read[field.name]} in {paths[0]}; write both alike"
                )
            read[field.name] = both
            if pa.types.is_null(types.setdefault(field.name, field.type)):
                types[field.name] = field.type
    return types, pa.schema(list(read.items()))


class _Ids:
    def __init__(self) -> None:
        self._lowest = np.zeros(0, dtype=np.uint64)
        self._highest = _ALL

    def add(self, column: pa.Array) -> None:
        found = np.concatenate([self._lowest, hashes(pc.unique(column.drop_null()))])
        self._lowest = np.unique(found[found <= np.uint64(self._highest)])
        if len(self._lowest) > _NUM_HASHES:
            self._lowest = self._lowest[:_NUM_HASHES]
            self._highest = int(self._lowest[-1])

    def sample(self) -> IdSample:
        return IdSample(hashes=base64.b64encode(self._lowest.tobytes()).decode(), highest=self._highest)


def _statistics(column: Column, kind: str, ids: _Ids | None) -> ColumnStatistics:
    known = {"type": kind, "rows": column.rows, "nulls": column.nulls, "is_time": column.is_time}
    sample = ids.sample() if ids else None
    if isinstance(column.values, Texts):
        top, _ = column.values.top(_NUM_TEXTS)
        texts = {text.decode("utf-8", "backslashreplace"): count for text, count in top}
        return ColumnStatistics(**known, values=column.values.count, texts=texts, ids=sample)
    if not isinstance(column.values, Numbers):
        return ColumnStatistics(**known, values=0)
    numbers = column.values
    bad, moments = numbers.nans + numbers.infinities, numbers.moments
    if not moments.count:
        return ColumnStatistics(**known, values=0, bad=bad)
    assert moments.minimum is not None
    assert moments.maximum is not None
    points, counts = _points(*numbers.weighted()[:2])
    return ColumnStatistics(
        **known,
        values=moments.count,
        bad=bad,
        minimum=float(moments.minimum),
        maximum=float(moments.maximum),
        mean=moments.mean if np.isfinite(moments.mean) else None,
        points=tuple(points.tolist()),
        counts=tuple(counts.tolist()),
        ids=sample,
    )


def _points(values: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return all values, or, of many, the middles of 256 parts of equal weight, equal ones together."""
    values = values.astype(np.float64)
    if len(values) <= _NUM_POINTS:
        return values, weights
    below = np.cumsum(weights)
    ends = np.round(np.arange(1, _NUM_POINTS + 1) * below[-1] / _NUM_POINTS).astype(np.int64)
    shares = np.diff(ends, prepend=0)
    middles = values[np.searchsorted(below, ends - shares // 2)]
    points, place = np.unique(middles, return_inverse=True)
    return points, np.bincount(place, weights=shares).astype(np.int64)


@functools.cache
def _version() -> str:
    code = [*sorted(Path(profile.__file__).parent.glob("*.py")), Path(__file__)]
    return digest_of([digest_of_file(path) for path in code])
