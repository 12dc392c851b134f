"""The clicks of a stretch of time, of a table that any reader opens: whole, or parted by day. Legend: C clicks."""

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys_core import columns, folders, readers, uri
from recsys_core.columns import RowError
from recsys_core.datasets.labelled import labelled_days
from recsys_core.integrity import digest_of
from recsys_core.redaction import redact
from recsys_core.serving.impressions.options import Options

_DAY = datetime.timedelta(days=1)


class Clicks(NamedTuple):
    """Keys and items (int64 or string), and Unix seconds int64, [C] each; `null_second` are of those without."""

    key: pa.Array
    item: pa.Array
    second: np.ndarray
    null_second: np.ndarray


class Source:
    """The table of clicks at `path`: with `{day}` in it, or a local folder of ds=YYYY-MM-DD, only the days wanted."""

    def __init__(self, path: str, options: Options) -> None:
        """Nothing is read yet."""
        self._path, self._options, self._name = path, options, redact(path)
        self.is_by_day = "{day}" in path or (not uri.is_remote(path) and any(uri.local(path).glob("ds=*")))
        self._days = labelled_days.Config(source=path) if self.is_by_day else None
        self._last: int | None = None

    def fingerprint(self, first: datetime.datetime, end: datetime.datetime) -> str | None:
        """Return what changes when the days between do; None of a table that is not parted: it grows every day."""
        if self._days is None:
            return None
        found = self._parts(first, end)
        return digest_of({str(day): part.fingerprint for day, part in found.items()})

    def lacks(self, first: datetime.datetime, end: datetime.datetime) -> str | None:
        """Return what is missing of the clicks from `first` to before `end`, None: nothing that can be known."""
        if self._days is not None:
            there = self._parts(first, end)
            missing = [day for day in _days(first, end) if day not in there]
            return f"the clicks of {missing[0]} are not there yet ({self._name})" if missing else None
        if self._last is None:
            self._last = self._newest()
        if self._last >= int(end.timestamp()):
            return None
        newest = datetime.datetime.fromtimestamp(self._last, datetime.UTC)
        return f"the clicks in {self._name} end at {newest:%Y-%m-%d %H:%M:%S}"

    def read(self, first: datetime.datetime, end: datetime.datetime) -> Clicks:
        """Return the clicks from `first` to before `end`, in any order.

        Raises:
            ValueError: a column is not there or of no such type, or a row holds what is none; names file and row.
        """
        if self._days is None:
            opened = [readers.build(readers.infer(self._path))]
        else:
            parts = self._parts(first, end).values()
            opened = [readers.build(readers.infer(part.path)) for part in parts if _has_files(part)]
        found = [one for reader in opened for one in self._of(reader, int(first.timestamp()), int(end.timestamp()))]
        if not found:
            empty = pa.array([], pa.int64())
            return Clicks(empty, empty, np.zeros(0, np.int64), np.zeros(0, np.int64))
        keys, items = (self._joined([one[place] for one in found]) for place in (0, 1))
        return Clicks(keys, items, *(np.concatenate([one[place] for one in found]) for place in (2, 3)))

    def _parts(self, first: datetime.datetime, end: datetime.datetime) -> dict[datetime.date, readers.Part]:
        assert self._days is not None
        days = _days(first, end)
        return labelled_days.days(self._days, days[0], days[-1])

    def _of(self, reader: readers.Reader, first: int, end: int) -> list[Clicks]:
        options = self._options
        names = [options.click_key or options.key, options.click_item, options.click_time]
        if missing := [name for name in names if name not in reader.schema.names]:
            raise ValueError(
                f"{self._name}: no column {missing[0]!r} (there are {', '.join(reader.schema.names)}); "
                "--click-key, --click-item and --click-time name those of the clicks"
            )
        found: list[Clicks] = []
        for block in range(len(reader.block_rows)):
            table = reader.read(block, names)
            place = reader.place(block)
            key, item = (_converted(place, table, name, columns.ids) for name in names[:2])
            second = _seconds(place, table, names[2])
            inside = (second >= first) & (second < end)
            known = inside & pc.and_(key.is_valid(), item.is_valid()).to_numpy(zero_copy_only=False)
            kept = pa.array(known)
            found.append(Clicks(key.filter(kept), item.filter(kept), second[known], second[inside & ~known]))
        return found

    def _newest(self) -> int:
        reader, newest = readers.build(readers.infer(self._path)), -(1 << 62)
        name = self._options.click_time
        if name not in reader.schema.names:
            raise ValueError(f"{self._name}: no column {name!r} (there are {', '.join(reader.schema.names)})")
        for block in range(len(reader.block_rows)):
            second = _seconds(reader.place(block), reader.read(block, [name]), name)
            newest = max(newest, int(second.max(initial=newest)))
        if newest == -(1 << 62):
            raise ValueError(f"{self._name}: no clicks in it")
        return newest

    def _joined(self, arrays: list[pa.Array]) -> pa.Array:
        kinds = {one.type for one in arrays if len(one)} or {pa.int64()}
        if len(kinds) > 1:
            raise ValueError(f"{self._name}: ids are {' and '.join(sorted(map(str, kinds)))}; write all of one type")
        kind = next(iter(kinds))
        return pa.concat_arrays([one if len(one) else pa.array([], kind) for one in arrays])


def _converted(place: readers.Place, table: pa.Table, name: str, convert: Callable[[pa.Array], pa.Array]) -> pa.Array:
    try:
        return columns.by_chunk(convert, table[name]).combine_chunks()
    except RowError as error:
        raise ValueError(f"{place.path}: row {place.first_row + error.row}, column {name!r}: {error.reason}") from None
    except ValueError as error:
        raise ValueError(f"{place.path}: column {name!r}: {error}") from None


def _seconds(place: readers.Place, table: pa.Table, name: str) -> np.ndarray:
    found = _converted(place, table, name, lambda values: columns.seconds(values).seconds)
    if found.null_count:
        row = int(found.is_null().to_numpy(zero_copy_only=False).argmax())
        raise ValueError(f"{place.path}: row {place.first_row + row}, column {name!r}: no time; drop the row")
    return found.to_numpy()


def _has_files(part: readers.Part) -> bool:
    return not isinstance(part.path, Path) or bool(folders.local_files(part.path))


def _days(first: datetime.datetime, end: datetime.datetime) -> list[datetime.date]:
    last = (end - datetime.timedelta(microseconds=1)).date()
    return [first.date() + _DAY * number for number in range((last - first.date()).days + 1)]
