"""The log of `dayline serve`, file by file, as served lists: who asked, what was shown, and in which order.

Legend: R requests of one batch.
"""

import datetime
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from recsys_core import folders, uri
from recsys_core.serving.impressions.options import ITEM_ID, REQUEST_ID
from recsys_core.serving.service import live
from recsys_core.serving.service.recorder import SCHEMA, SINCE_LATER

_BATCH_ROWS = 4_096
_HOUR = datetime.timedelta(hours=1)
_NOTHING: Mapping[str, Any] = {}
Hours = dict[datetime.datetime, list[uri.Location]]


class Lists(NamedTuple):
    """The lists of R requests, of the paths that are wanted; a list is as long as its items.

    `number` int64 [R] counts the rows of all files that are read, `second` int64 [R] are Unix seconds. `columns` of the
    user by request, `given` columns of items by request and item, none where the answer alone names the items.
    `veiled` names columns that the log has hashed or dropped. `digest` uint64 [R, 2] is the same for a request that is
    logged twice.
    """

    place: str
    number: np.ndarray
    second: np.ndarray
    own: pa.Table
    columns: list[Mapping[str, Any]]
    items: list[Sequence[Any]]
    scores: list[Sequence[float]]
    given: list[Sequence[Mapping[str, Any]]]
    veiled: list[frozenset[str]]
    digest: np.ndarray


class Counted(NamedTuple):
    """Rows of a file, and the lists among them."""

    num_rows: int
    lists: Lists | None


def hours(log: str) -> Hours:
    """Return the files of each hour (its beginning, UTC) of a log of requests.

    Raises:
        ValueError: there are none, or a file lies in no hour.
    """
    found: Hours = {}
    for location in uri.resolve(log):
        try:
            day = datetime.date.fromisoformat(location.partitions.get("date") or "")
            clock = datetime.time(int(location.partitions.get("hour") or ""), tzinfo=datetime.UTC)
        except ValueError:
            raise ValueError(
                f"{location.path}: lies in no date=YYYY-MM-DD/hour=HH; name the folder of a log of requests"
            ) from None
        found.setdefault(datetime.datetime.combine(day, clock), []).append(location)
    return dict(sorted(found.items()))


def between(log: Hours, first: datetime.datetime, end: datetime.datetime) -> Hours:
    """Return the hours that hold times from `first` to before `end`."""
    return {hour: files for hour, files in log.items() if hour < end and hour + _HOUR > first}


def num_rows(files: Collection[uri.Location]) -> int:
    """Return the rows of files by their footers."""
    total = 0
    for location in files:
        with _opened(location) as file:
            total += file.metadata.num_rows
    return total


def read(hour: datetime.datetime, location: uri.Location, first: int, paths: Sequence[str]) -> Iterator[Counted]:
    """Yield the rows of one file, of which the first has the number `first`.

    Raises:
        ValueError: it is no log of requests, or a row is not of its hour, or has no request or answer of its path.
    """
    with _opened(location) as file:
        names = file.schema_arrow.names
        if missing := [name for name in SCHEMA.names if name not in {*names, *SINCE_LATER}]:
            raise ValueError(f"{location.path}: no log of requests, it has no column {missing[0]!r}")
        columns, row = [name for name in SCHEMA.names if name in names], 0
        for batch in file.iter_batches(_BATCH_ROWS, columns=columns):
            table = pa.table(batch)
            if REQUEST_ID not in columns:
                table = table.append_column(REQUEST_ID, pa.nulls(table.num_rows, pa.string()))
            yield Counted(table.num_rows, _lists(hour, location.path, table, row, first, paths))
            row, first = row + table.num_rows, first + table.num_rows


def _opened(location: uri.Location) -> pq.ParquetFile:
    try:
        source = location.path if location.is_local else location.filesystem.open(location.path, "rb")
        return pq.ParquetFile(source)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(
            f"{location.path}: cannot be read as Parquet ({folders.reason(error)}); restore it, or move it out"
        ) from None


def _lists(
    hour: datetime.datetime, path: str, table: pa.Table, row: int, first: int, paths: Sequence[str]
) -> Lists | None:
    second = _seconds(hour, path, table, row)
    wanted = pc.is_in(table["path"], value_set=pa.array(paths)).to_numpy()
    rows = np.flatnonzero(wanted)
    if not len(rows):
        return None
    table = table.take(pa.array(rows))
    requests: list[Any] = []
    shown: list[tuple[Sequence[Any], Sequence[float], Sequence[Mapping[str, Any]]]] = []
    for place, asked, request, answer in zip(
        rows, *(table[name].to_pylist() for name in ("path", "request", "answer")), strict=True
    ):
        try:
            requests.append(orjson.loads(request))
            shown.append(_shown(asked, requests[-1], orjson.loads(answer)))
        except (AttributeError, KeyError, LookupError, TypeError, ValueError) as error:
            raise ValueError(f"{path}, row {row + place}: no request or answer of {asked} ({error!r})") from None
    items, scores, given = zip(*shown, strict=True)
    return Lists(
        place=f"{path}, rows {row} to {row + len(wanted) - 1}",
        number=first + rows,
        second=second[rows],
        own=table.select([REQUEST_ID, "time", "version"]),
        columns=[request["user"] for request in requests],
        items=list(items),
        scores=list(scores),
        given=list(given),
        veiled=[frozenset(names or ()) for names in table["changed"].to_pylist()],
        digest=_digests(table),
    )


def _seconds(hour: datetime.datetime, path: str, table: pa.Table, row: int) -> np.ndarray:
    second = np.floor_divide(table["time"].cast(pa.int64()).to_numpy(), 10**6)
    start = int(hour.timestamp())
    strange = (second < start) | (second >= start + _HOUR.seconds)
    if strange.any():
        at = int(strange.argmax())
        raise ValueError(
            f"{path}, row {row + at}: its time {table['time'][at].as_py():%Y-%m-%d %H:%M:%S} is not of the hour that "
            "its folder names; move the file to where it was written"
        )
    return second


def _shown(
    path: str, request: Mapping[str, Any], answer: Mapping[str, Any]
) -> tuple[Sequence[Any], Sequence[float], Sequence[Mapping[str, Any]]]:
    """Return the items in the order in which they were shown, their scores, and what the request says of them.

    Items of `/rank` are shown by the first probability or value, of equals the one that was given first.
    """
    if not isinstance(request["user"], dict):
        raise TypeError("user")
    if path != live.RANK:
        items, scores = answer["item_ids"], answer["scores"]
        if len(items) != len(scores):
            raise ValueError("item_ids and scores")
        return items, scores, [_NOTHING] * len(items)
    scores = answer[next(name for name in [*answer, "probability"] if name.startswith(("probability", "value")))]
    given = request["items"]
    if len(given) != len(scores):
        raise ValueError("items and probability")
    order = sorted(range(len(scores)), key=lambda place: -scores[place])
    ranked = [given[place] for place in order]
    return [item[ITEM_ID] for item in ranked], [scores[place] for place in order], ranked


def _digests(table: pa.Table) -> np.ndarray:
    """Return uint64 [R, 2]: of the request's id, or of all that is logged of one that has none."""
    ids = table[REQUEST_ID].to_pylist()
    texts = (
        one if one is not None else repr(tuple(table[name][place].as_py() for name in ("time", "request", "answer")))
        for place, one in enumerate(ids)
    )
    joined = b"".join(xxhash.xxh3_128_digest(text.encode()) for text in texts)
    return np.frombuffer(joined, np.uint64).reshape(-1, 2)
