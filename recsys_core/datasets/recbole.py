"""Atomic files as RecBole reads them (Zhao et al. 2021): NAME.inter, and NAME.user and NAME.item if they are there.

Each is text between tabs, whose first line has the columns' names and types: `item_id:token`, `genre:token_seq`,
`rating:float`. Interactions of one second stay in the order of the file. Users and items are known from the day on
which they first act; what a table lacks of them is null. Ids are whole numbers if all of a column are, and else text.
"""

from pathlib import Path
from typing import Literal, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from recsys_core import columns, uri
from recsys_core.datasets import _bare, _rows, base
from recsys_core.progress import Event, Sink
from recsys_core.readers import csv

_TYPES = ("token", "token_seq", "float", "float_seq")
_OPTIONS = csv.Options(delimiter="\t", quote=None, null_values=("",))


class Config(base.Config):
    """`source` is NAME.inter, or a folder with one; `min_rating` drops what was rated lower."""

    kind: Literal["recbole"] = "recbole"
    source: str
    columns: dict[str, str] = Field(
        default={}, description="names in the files to names in the log, as in {business_id: item_id}"
    )
    min_rating: float | None = Field(default=None, description="null: all are kept")


class _Table(NamedTuple):
    """A file with, by its own columns, what they are called in the log, and of what type they are."""

    reader: csv.Reader
    names: dict[str, str]
    types: dict[str, str]


def fingerprint(config: Config) -> str:
    """Return a digest that changes when a file does; no content is read."""
    return uri.fingerprint([uri.resolve(str(path), of_any_format=True)[0] for path in _files(config).values()])


def write(config: Config, root: Path, sink: Sink) -> base.Counts:
    """Stream the source into a log below `root`.

    Raises:
        ValueError: a file is missing, damaged or of another form, or a line of it is; names the file and the row.
    """
    tables = {table: _opened(path, config) for table, path in _files(config).items()}
    inter = tables["inter"]
    needed = (*_bare.ACTING, *([_bare.RATING] if config.min_rating is not None else []))
    for name in needed:
        _require(inter, name)
    wanted = {mine: name for mine, name in inter.names.items() if name in (*_bare.ACTING, _bare.RATING)}
    bare = _bare.Bare(base.LogWriter(root, keeps_order=True))
    _bare.read(bare, inter.reader, wanted, config.min_rating, sink)
    users, items = (
        _side(tables[table], column, known, sink) if table in tables else None
        for table, column, known in (("user", "user_id", bare.users), ("item", "item_id", bare.items))
    )
    left_out = [name for name in inter.names.values() if name not in wanted.values()]
    if left_out:
        sink(Event(stage=base.STAGE, message=f"warning: {_place(inter)}: left out: {', '.join(left_out)}"))
    return bare.close(users, items)


def _files(config: Config) -> dict[str, Path]:
    source = uri.local(config.source)
    found = sorted(source.glob("*.inter")) if source.is_dir() else [source]
    if len(found) != 1 or found[0].suffix != ".inter" or not found[0].is_file():
        there = ", ".join(path.name for path in found) or "none"
        raise ValueError(f"{source}: one file NAME.inter is needed, and there is {there}; name the file")
    sides = {name: found[0].with_suffix(f".{name}") for name in ("user", "item")}
    return {"inter": found[0], **{name: path for name, path in sides.items() if path.is_file()}}


def _opened(path: Path, config: Config) -> _Table:
    reader = csv.Reader(csv.Config(path=str(path), options=_OPTIONS))
    names: dict[str, str] = {}
    types: dict[str, str] = {}
    for field in reader.schema.names:
        name, colon, kind = field.rpartition(":")
        if not colon or kind not in _TYPES:
            raise ValueError(f"{path}: line 1: {field!r} is no NAME:TYPE of the types {', '.join(_TYPES)}; write it so")
        names[field], types[field] = config.columns.get(name) or name, kind
    columns.refuse_twice(f"{path}, renamed by data.columns", list(names.values()))
    return _Table(reader, names, types)


def _require(table: _Table, name: str) -> None:
    if name not in table.names.values():
        raise ValueError(
            f"{_place(table)}: line 1: no column {name!r}, only {', '.join(table.names.values())}; say in data.columns "
            "which it is"
        )


def _place(table: _Table) -> str:
    return str(table.reader.place(0).path) if len(table.reader.block_rows) else "the file"


def _side(table: _Table, column: str, acting: base.FirstDays, sink: Sink) -> pa.Table:
    """Return the table of users or items, ids first, with a row of nulls for each that acts and is not in it."""
    _require(table, column)
    read: list[pa.Table] = []
    for block in range(len(table.reader.block_rows)):
        rows, place = table.reader.read(block, list(table.names)), table.reader.place(block)
        made: dict[str, pa.ChunkedArray] = {}
        for own, name in table.names.items():
            convert = columns.ids if name == column else _OF_TYPE[table.types[own]]
            made[name] = _rows.of_column(convert, rows[own], name, place.path, place.first_row)
        ids = made.pop(column)
        if ids.null_count:
            row = place.first_row + pc.index(ids.is_null(), pa.scalar(True)).as_py()  # noqa: FBT003 - a value
            raise ValueError(f"{place.path}: column {column!r}, row {row}: there is no id; leave such rows out")
        read.append(pa.table({column: ids} | made))
    ids = acting.table()["id"]
    given = pa.concat_tables(read) if read else pa.table({column: pa.array([], ids.type)})
    if given[column].type != ids.type:
        # One of both has an id that is no number.
        given = given.set_column(0, column, given[column].cast(pa.string()))
    if (twice := len(given) - pc.count_distinct(given[column]).as_py()) > 0:
        raise ValueError(f"{_place(table)}: {twice} rows have a {column} that a row before has; keep one of each")
    absent = ids.filter(pc.invert(pc.is_in(ids, value_set=given[column])))
    if len(absent):
        sink(
            Event(
                stage=base.STAGE,
                message=f"warning: {_place(table)}: lacks {len(absent):,} that act; their fields are null",
            )
        )
    absent = pa.table({column: absent.take(pc.sort_indices(absent))})
    return pa.concat_tables([given, absent], promote_options="default")


def _tokens(values: pa.Array) -> pa.Array:
    return pc.ascii_split_whitespace(pc.ascii_trim_whitespace(values.cast(pa.string())))


def _floats(values: pa.Array) -> pa.Array:
    return columns.cast(values, pa.float64(), lambda value: f"{columns.shown(value)} is no number").cast(pa.float32())


def _float_lists(values: pa.Array) -> pa.Array:
    lists = _tokens(values)
    return pa.ListArray.from_arrays(lists.offsets, _floats(lists.values), mask=lists.is_null())


_OF_TYPE = {"token": columns.plain, "token_seq": _tokens, "float": _floats, "float_seq": _float_lists}
