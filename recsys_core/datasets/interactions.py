"""Text or CSV with a line for each interaction, `user item [rating] timestamp`, and no tables of users and items.

Interactions of one second stay in the order of the file. Users and items are known from the day on which they first
act. Ids are whole numbers if all of a column are, and else text; times are Unix seconds, a finer unit, or ISO 8601.

Lines may lack the time, as in `user item`: then each user's stand in their order, and are dated from `first_day` on, a
second apart; all users and items are known from that day on.
"""

import csv as fields_of
import datetime
import re
from pathlib import Path
from typing import Literal, NamedTuple, Self

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from recsys_core import columns, uri
from recsys_core.datasets import _bare, base
from recsys_core.progress import Sink
from recsys_core.readers import _csv_text, csv

_DELIMITERS = ("\t", "::", ",", ";", "|", " ")
_BY_WIDTH = {2: ("user_id", "item_id"), 3: _bare.ACTING, 4: ("user_id", "item_id", _bare.RATING, "timestamp")}
_QUOTED = ","
_LEFT_OUT = "-"
# Where columns are not named, a rating must not pass for a time: of this size it would be of January 1970.
_FIRST_PLAIN_SECOND = 1_000_000
_MAX_SHOWN = 80


class Config(base.Config):
    """`source` is a file of any name, plain or gzipped, or several; `min_rating` drops what was rated lower."""

    kind: Literal["interactions"] = "interactions"
    source: str = Field(description="path of the file; a list with commas, a glob or a folder are several")
    columns: tuple[str, ...] | None = Field(
        default=None,
        description="what the fields are, in order: user_id, item_id, timestamp, rating, any other name, or - for one "
        "that is left out; null: as the header says, or user_id, item_id, and of 3 fields timestamp, of 4 rating too",
    )
    first_day: datetime.date | None = Field(
        default=None, description="of each user's first line, where lines have no time; null: 2000-01-01"
    )
    header: bool = Field(default=False, description="whether the first line names the columns")
    delimiter: str | None = Field(
        default=None,
        min_length=1,
        description="between fields, one character or the same several times; null: the first of tab, ::, comma, ;, | "
        "and blank that the first line has",
    )
    encoding: str | None = Field(default=None, description="see data.csv.encoding of kind tables")
    min_rating: float | None = Field(default=None, description="null: all are kept")

    @model_validator(mode="after")
    def _names_what_is_needed(self) -> Self:
        if self.encoding is not None:
            _csv_text.check_encoding(self.encoding)
        if self.delimiter is not None and len(set(self.delimiter)) > 1:
            raise ValueError(
                f"delimiter: {self.delimiter!r} has several characters; write one, or one repeated as in ::"
            )
        if self.columns is None:
            return self
        columns.refuse_twice("columns", [name for name in self.columns if name != _LEFT_OUT])
        if missing := [name for name in ("user_id", "item_id") if name not in self.columns]:
            raise ValueError(f"columns: {', '.join(self.columns)} lacks {missing[0]}; say which field it is")
        if "timestamp" in self.columns and self.first_day is not None:
            raise ValueError("first_day: columns has a timestamp, so nothing reads it; leave it out")
        if self.min_rating is not None and _bare.RATING not in self.columns:
            raise ValueError(
                "min_rating: there is no rating among columns; say which field it is, or remove min_rating"
            )
        return self


class _Form(NamedTuple):
    """How the files are to be read, and what their columns are in the log."""

    options: csv.Options
    names: dict[str, str]


def fingerprint(config: Config) -> str:
    """Return a digest that changes when a file does; no content is read."""
    return uri.fingerprint(uri.resolve(config.source, of_any_format=True))


def write(config: Config, root: Path, sink: Sink) -> base.Counts:
    """Stream the source into a log below `root`.

    Raises:
        ValueError: a file is missing, damaged or of another form, or a line of it is; names the file and the row.
    """
    form = _form(config)
    reader = csv.Reader(csv.Config(path=config.source, options=form.options))
    if config.columns is None and not config.header and "timestamp" in form.names.values():
        _refuse_small_times(reader, form)
    bare = _bare.Bare(base.LogWriter(root, keeps_order=True))
    _bare.read(bare, reader, form.names, config.min_rating, sink, config.first_day or _bare.FIRST_DAY)
    return bare.close()


def _form(config: Config) -> _Form:
    """Find out the form from the first line.

    Raises:
        ValueError: it does not go together with what the config says.
    """
    path, line = _first_line(config)
    delimiter = config.delimiter or next((sign for sign in _DELIMITERS if sign in line), None)
    fields = _split(line, delimiter)
    named = config.columns or (None if config.header else _BY_WIDTH.get(len(fields)))
    if delimiter is None or (named is None and not config.header):
        raise ValueError(
            f"{path}: line 1: {line[:_MAX_SHOWN]!r} has {len(fields)} fields, where user item [rating] [timestamp] has "
            "2 to 4; say in delimiter what is between them, or in columns what they are"
        )
    own = fields if config.header else [f"field {at}" for at in range(len(fields))]
    named = named or tuple(own)
    if len(named) != len(own):
        raise ValueError(
            f"{path}: line 1: {len(own)} fields, where columns names {len(named)}; name each, - for one to leave out"
        )
    # Times under another name must not pass for none.
    needed = [*(_bare.ACTING if config.header and config.columns is None else ("user_id", "item_id"))]
    needed += [] if config.min_rating is None else [_bare.RATING]
    if missing := [name for name in needed if name not in named]:
        raise ValueError(f"{path}: line 1: no {missing[0]} among {', '.join(named)}; say in columns what each field is")
    if "timestamp" in named and config.first_day is not None:
        raise ValueError(f"{path}: line 1: has a time, so nothing reads first_day; leave it out")
    if not config.header and "timestamp" in named and not re.search(r"\d", fields[named.index("timestamp")]):
        raise ValueError(
            f"{path}: line 1: {line[:_MAX_SHOWN]!r} has no time; if it names the columns, say header: true"
        )
    if config.header and len(delimiter) > 1:
        raise ValueError(
            f"{path}: line 1: a header between {delimiter!r} cannot be read; take the line out, and say it in columns"
        )
    # Between the parts of a delimiter that is one character repeated, to Arrow there are fields.
    gaps = len(delimiter) - 1
    wide = [
        name for at, field in enumerate(own) for name in (*(f"gap {at} {n}" for n in range(gaps if at else 0)), field)
    ]
    options = csv.Options(
        delimiter=delimiter[0],
        quote='"' if delimiter == _QUOTED else None,
        header=config.header,
        column_names=None if config.header else tuple(wide),
        encoding=config.encoding,
    )
    return _Form(options, {mine: name for mine, name in zip(own, named, strict=True) if name != _LEFT_OUT})


def _split(line: str, delimiter: str | None) -> list[str]:
    if delimiter is None:
        return [line]
    if delimiter != _QUOTED:
        return line.split(delimiter)
    return next(fields_of.reader([line], delimiter=delimiter))


def _first_line(config: Config) -> tuple[str, str]:
    first = uri.resolve(config.source, of_any_format=True)[0]
    for lines in _csv_text.Text(first, config.encoding).lines():
        return first.path, lines.text.partition(b"\n")[0].decode().rstrip("\r")
    raise ValueError(f"{first.path}: is empty; is it complete?")


def _refuse_small_times(reader: csv.Reader, form: _Form) -> None:
    (name,) = (own for own, meant in form.names.items() if meant == "timestamp")
    times = reader.read(0, [name])[name]
    if not (pa.types.is_integer(times.type) or pa.types.is_floating(times.type)) or not len(times):
        return
    largest = pc.max(times).as_py()
    if largest is not None and largest < _FIRST_PLAIN_SECOND:
        raise ValueError(
            f"{reader.place(0).path}: the last of {len(form.names)} fields is {largest:g} at most in its first rows, "
            "which is no time that interactions have; say in columns what each field is"
        )
