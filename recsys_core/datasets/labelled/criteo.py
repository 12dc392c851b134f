"""Criteo's display advertising logs at full size, encoded: the Kaggle challenge's train.txt, or the terabyte's days.

Text comes in, Parquet goes out, in three passes on all cores: lines are parsed and kept beside the output in a packed
form; the values of each category are counted over the rows that are learned from; rows are encoded and written.
Memory holds a few chunks of lines and the values of a few categories. What a pass has written is found again by the
next run of a command that was killed, and the bytes are the same.

    label           0 or 1, int64
    int_1 … int_13  ln(1 + max(n, 0)) of each integer n, float32, and 0 where it is missing, as in the DLRM reference;
                    with `integers: raw` the integer itself, or a null
    cat_1 … cat_26  rows of an embedding table, int32: 0 missing, 1 not known, from 2 on the values

`_vocabulary/cat_N.parquet` beside the rows has each value's number and count, `_criteo.json` the tables' sizes. The
kind `criteo_kaggle` leaves the values as they are, and encoding to the features.

Splits, by `split`:

    dlrm        half of the last day is `valid` and half `test`, all before it `train` (Naumov et al. 2019). Of
                train.txt, which holds seven days without saying where each ends, the last seventh is the last day.
    mindspore   the last seventh is `test` (6/7 and 1/7, as in MindSpore's Wide&Deep and DLRM).
    bars_x1     7:2:1, at random by row, the proportions of BARS' Criteo_x1 (Zhu et al. 2022)
    bars_x4     8:1:1, at random by row, those of Criteo_x4; which rows fall into which split is not what it is there
"""

import contextlib
import datetime
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field, model_validator

from recsys_core import uri
from recsys_core.artifacts import write_text
from recsys_core.datasets import _archive
from recsys_core.datasets._threads import in_order
from recsys_core.datasets.base import ROW_GROUP_ROWS, days_before, partition
from recsys_core.datasets.labelled import _criteo_cuts as cuts
from recsys_core.datasets.labelled import _criteo_text as text
from recsys_core.datasets.labelled import base
from recsys_core.datasets.labelled._criteo_ids import FIRST, Counts, Growing, Hashing, Vocabulary, encode
from recsys_core.progress import Event, Sink

VOCABULARY, SIZES = "_vocabulary", "_criteo.json"
_MOST_DAYS = 24
_VERSION = 1
"""Of what lies between the passes and of what is written: other code does not go on with it."""


class Config(base.Config):
    """`source`: a folder or zip with train.txt, or with day_0, day_1, …; each may be gzipped."""

    kind: Literal["criteo"] = "criteo"
    source: str
    day: datetime.date = Field(default=datetime.date(2014, 6, 30), description="what the last day is called")
    split: Literal["dlrm", "mindspore", "bars_x1", "bars_x4"] = Field(
        default="dlrm", description="which rows are learned from and measured on"
    )
    ids: Literal["vocabulary", "hash"] = Field(
        default="vocabulary", description="how values get their rows of a table: each its own, or by a hash"
    )
    min_count: int = Field(
        default=1, ge=1, description="of a vocabulary: how often a value occurs in the rows learned from to be known"
    )
    vocabulary: Path | None = Field(
        default=None, description="folder _vocabulary of an earlier import, whose values keep their numbers"
    )
    num_embeddings: int | None = Field(
        default=None, gt=FIRST, lt=1 << 31, description="of a hash: the rows of each category's table"
    )
    integers: Literal["log1p", "raw"] = Field(
        default="log1p", description="ln(1 + n) with 0 for missing and negative ones, or as they are"
    )
    seed: int = Field(default=0, ge=0, description="of splits at random")

    @model_validator(mode="after")
    def _keys_are_read(self) -> Self:
        if self.ids == "hash":
            if self.num_embeddings is None:
                raise ValueError("num_embeddings: ids by a hash need the rows of each table, such as 1000000")
            unread = {"min_count": self.min_count != 1, "vocabulary": self.vocabulary is not None}
        else:
            unread = {"num_embeddings": self.num_embeddings is not None}
        unread["seed"] = self.seed != 0 and self.split not in cuts.SHARES
        for key in (key for key, given in unread.items() if given):
            raise ValueError(f"{key}: is not read with ids: {self.ids} and split: {self.split}; leave it out")
        return self


def write(config: Config, root: Path, sink: Sink) -> dict[str, int]:
    """Write the splits below `root`, and return their rows.

    Raises:
        ValueError: no such files, a line that is none of Criteo's, or too few rows to part.
    """
    return _Import(config, root, sink).run(lambda files: cuts.splits(config.split, files, config.seed))


def write_days(config: Config, root: Path, sink: Sink) -> dict[str, int]:
    """Write a folder `ds=YYYY-MM-DD` for each day, the last one `config.day`, and return their rows.

    Of train.txt each seventh is a day. Every day is counted for the vocabularies.

    Raises:
        ValueError: see `write`.
    """

    def by_day(files: list[cuts.File]) -> cuts.Cut:
        cut = cuts.days(files)
        back = range(len(cut.names) - 1, -1, -1)
        return cut._replace(names=[partition(days_before(config.day, number)) for number in back])

    return _Import(config, root, sink).run(by_day)


class _Piece(NamedTuple):
    """A chunk of rows that was read: its place among all rows, and where it lies in its packed form."""

    first_row: int
    num_rows: int
    path: Path


class _Import:
    """One import into `root`, and what it keeps beside it between its passes."""

    def __init__(self, config: Config, root: Path, sink: Sink) -> None:
        """`root` is an empty or absent directory."""
        self._config, self._root, self._sink = config, root, sink
        self._work = root.with_name(f".{root.name.strip('.')}.work")

    def run(self, cut: Callable[[list[cuts.File]], cuts.Cut]) -> dict[str, int]:
        """Go through the passes, and move what they have written to the root."""
        try:
            with _archive.opened(self._config.source, None, self._work, self._sink) as archive:
                self._take_up(archive)
                files, pieces = self._parse(archive)
                num_rows = files[-1].end
                if num_rows < cuts.NUM_KAGGLE_DAYS:
                    raise ValueError(f"{self._config.source}: {num_rows} rows, too few to part; is it the whole log?")
                parts = cut(files)
                encoders = self._encoders(parts, pieces)
                counts = self._encode(parts, pieces, encoders)
        except ValueError:
            # What is wrong with the source is read again when it has been mended.
            shutil.rmtree(self._work, ignore_errors=True)
            raise
        self._finish(counts, encoders)
        return counts

    def _take_up(self, archive: _archive.Archive) -> None:
        """Keep what an earlier run of the very same import has left; remove that of another."""
        names = _names(archive)
        config = self._config.model_dump(mode="json")
        mark = json.dumps({"version": _VERSION, "config": config, "source": _state(archive, names)}, sort_keys=True)
        path = self._work / "import.json"
        if path.is_file() and path.read_text() == mark:
            self._sink(Event(stage="prepare", message=f"going on with what {self._work} holds"))
            return
        shutil.rmtree(self._work, ignore_errors=True)
        for folder in ("rows", "parts", VOCABULARY):
            (self._work / folder).mkdir(parents=True)
        write_text(path, mark)

    def _parse(self, archive: _archive.Archive) -> tuple[list[cuts.File], list[_Piece]]:
        done, sizes = self._work / "rows.json", [archive.num_bytes(name) for name in _names(archive)]
        if done.is_file():
            found = json.loads(done.read_text())
            pieces = [_Piece(first, rows, self._work / "rows" / name) for first, rows, name in found["pieces"]]
            return [cuts.File(*file) for file in found["files"]], pieces
        total = None if None in sizes else sum(size for size in sizes if size) >> 20
        files: list[cuts.File] = []

        def chunks() -> Iterator[tuple[str, text.Chunk]]:
            for name in _names(archive):
                start = end = files[-1].end if files else 0
                with archive.open(name) as stream, _naming(self._config.source, name):
                    for chunk in text.chunks(stream, start):
                        yield name, chunk
                        end = chunk.first_row + chunk.num_rows
                files.append(cuts.File(name, start, end))

        def pack(at: tuple[str, text.Chunk]) -> tuple[_Piece, int]:
            name, chunk = at
            path = self._work / "rows" / f"{chunk.first_row:012d}.arrow"
            if not path.is_file():
                with _naming(self._config.source, name):
                    _pack(text.parse(chunk), path)
            return _Piece(chunk.first_row, chunk.num_rows, path), len(chunk.text)

        pieces, num_bytes = [], 0
        for piece, size in in_order(pack, chunks()):
            pieces.append(piece)
            num_bytes += size
            message = f"reading rows, {piece.first_row + piece.num_rows:,} so far"
            self._sink(Event(stage="prepare", done=num_bytes >> 20, total=total, unit="MB", message=message))
        listed = [[piece.first_row, piece.num_rows, piece.path.name] for piece in pieces]
        write_text(done, json.dumps({"files": files, "pieces": listed}))
        return files, pieces

    def _encoders(self, cut: cuts.Cut, pieces: list[_Piece]) -> list[Vocabulary | Hashing]:
        config = self._config
        if config.num_embeddings is not None:
            return [Hashing(number, config.num_embeddings) for number in range(1, text.NUM_CATEGORIES + 1)]

        def fit(name: str) -> Vocabulary:
            path = self._work / VOCABULARY / f"{name}.parquet"
            if not path.is_file():
                known = None if config.vocabulary is None else Vocabulary.load(config.vocabulary / path.name)
                found = Vocabulary.of(_count(name, cut, pieces), config.min_count, known)
                _whole(path, found.save)
            return Vocabulary.load(path)

        encoders: list[Vocabulary | Hashing] = []
        for vocabulary in in_order(fit, text.CATEGORIES):
            encoders.append(vocabulary)
            event = Event(stage="prepare", done=len(encoders), total=text.NUM_CATEGORIES, unit="categories")
            self._sink(event.model_copy(update={"message": "counting values"}))
        return encoders

    def _encode(self, cut: cuts.Cut, pieces: list[_Piece], encoders: list[Vocabulary | Hashing]) -> dict[str, int]:
        """Write each piece's rows, in one file for each folder that they go to."""
        for name in cut.names:
            (self._work / "parts" / name).mkdir(exist_ok=True)

        def write_piece(at: tuple[int, _Piece]) -> np.ndarray:
            number, piece = at
            numbers = cut.numbers(piece.first_row, piece.first_row + piece.num_rows)
            paths = {
                part: self._work / "parts" / cut.names[part] / f"part-{number:05d}.parquet"
                for part in np.unique(numbers).tolist()
            }
            if not all(path.is_file() for path in paths.values()):
                table = self._encoded(piece, encoders)
                for part, path in paths.items():
                    own = table if len(paths) == 1 else table.filter(pa.array(numbers == part))
                    _whole(path, lambda aside, own=own: _write_parquet(own, aside))
            return np.bincount(numbers, minlength=len(cut.names))

        counts, total = np.zeros(len(cut.names), np.int64), sum(piece.num_rows for piece in pieces)
        for rows in in_order(write_piece, enumerate(pieces)):
            counts += rows
            self._sink(Event(stage="prepare", done=int(counts.sum()), total=total, message="encoding rows"))
        found = dict(zip(cut.names, counts.tolist(), strict=True))
        if empty := [name for name, rows in found.items() if not rows]:
            raise ValueError(f"{self._config.source}: {total} rows, none for {empty[0]}; is it the whole log?")
        return found

    def _encoded(self, piece: _Piece, encoders: list[Vocabulary | Hashing]) -> pa.Table:
        table = _read(piece.path)
        columns: dict[str, Any] = {"label": table["label"].cast(pa.int64())}
        for name in text.INTEGERS:
            columns[name] = table[name] if self._config.integers == "raw" else _log1p(table[name])
        for name, encoder in zip(text.CATEGORIES, encoders, strict=True):
            columns[name] = encode(table[name].chunk(0), encoder)
        return pa.table(columns)

    def _finish(self, counts: dict[str, int], encoders: list[Vocabulary | Hashing]) -> None:
        self._root.mkdir(parents=True, exist_ok=True)
        for name in counts:
            (self._work / "parts" / name).replace(self._root / name)
        if self._config.ids == "vocabulary":
            (self._work / VOCABULARY).replace(self._root / VOCABULARY)
        sizes = {name: encoder.num_embeddings for name, encoder in zip(text.CATEGORIES, encoders, strict=True)}
        write_text(self._root / SIZES, json.dumps({"num_rows": counts, "num_embeddings": sizes}, indent=1))
        shutil.rmtree(self._work)


def _names(archive: _archive.Archive) -> list[str]:
    """Return the log's files, in the order of their rows.

    Raises:
        ValueError: there is neither train.txt nor day_0, or a day is missing between others.
    """
    days = [f"day_{number}" for number in range(_MOST_DAYS) if archive.holds(f"day_{number}")]
    if archive.holds("train.txt"):
        if days:
            raise ValueError(f"{archive.source}: holds train.txt and {days[0]}; name a folder with one of both logs")
        return ["train.txt"]
    if not days:
        raise ValueError(
            f"{archive.source}: holds neither train.txt, as the Kaggle challenge has it, nor day_0, as the terabyte "
            "has it (each may be gzipped)"
        )
    if days != [f"day_{number}" for number in range(int(days[0][4:]), int(days[0][4:]) + len(days))]:
        raise ValueError(f"{archive.source}: has {', '.join(days)}; a day between them is missing")
    return days


def _state(archive: _archive.Archive, names: list[str]) -> list[Any]:
    """Return what tells whether files are still the same: names, sizes and times."""
    if archive.source.is_file():
        found = archive.source.stat()
        return [str(archive.source.absolute()), found.st_size, found.st_mtime_ns]
    members = [path for at in uri.resolve(archive.source, of_any_format=True) if (path := Path(at.path))]
    own = [path for path in members if path.name in {*names, *(f"{name}.gz" for name in names)}]
    return [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in sorted(own)]


@contextlib.contextmanager
def _naming(source: str, name: str) -> Iterator[None]:
    """Put the name of the file before what is wrong with one of its lines."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{source}: {name}, {error}") from None


def _pack(table: pa.Table, path: Path) -> None:
    """Write parsed rows; of each category the distinct values, and which of them each row has."""
    for name in text.CATEGORIES:
        at = table.schema.get_field_index(name)
        table = table.set_column(at, name, table[name].dictionary_encode())

    def save(aside: Path) -> None:
        with pa.ipc.new_file(aside, table.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as file:
            file.write_table(table.combine_chunks())

    _whole(path, save)


def _read(path: Path, columns: list[int] | None = None) -> pa.Table:
    options = pa.ipc.IpcReadOptions(included_fields=columns, use_threads=False)
    with pa.memory_map(str(path)) as file:
        return pa.ipc.open_file(file, options=options).read_all()


def _count(name: str, cut: cuts.Cut, pieces: list[_Piece]) -> Counts:
    """Count a category's values over the rows that are learned from."""
    growing, at = Growing(), text.NAMES.index(name)
    for piece in pieces:
        learned = cut.numbers(piece.first_row, piece.first_row + piece.num_rows) < cut.num_learned
        if learned.any():
            column = _read(piece.path, [at])[name].chunk(0)
            growing.add(Counts.of(column if learned.all() else column.filter(pa.array(learned))))
    return growing.total()


def _log1p(integers: pa.ChunkedArray) -> pa.Array:
    values = pc.fill_null(integers, 0).to_numpy()
    return pa.array(np.log1p(np.maximum(values, 0)).astype(np.float32))


def _write_parquet(table: pa.Table, path: Path) -> None:
    pq.write_table(table, path, compression="zstd", row_group_size=ROW_GROUP_ROWS)


def _whole(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` make a file that appears when it is complete and not before."""
    aside = path.with_name(f".{path.name}.partial")
    write(aside)
    aside.replace(path)
