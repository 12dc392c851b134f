"""CSV and TSV files, plain or gzipped; a block is a few megabytes of whole lines.

Opening a table reads all files once: it counts the lines and finds out the types of the columns that `types` does not
name. A plain file's blocks are read from their offsets; a gzipped one keeps the decompressor's state at the start of
each block, so that any block can be read without those before it.
"""

import csv
import functools
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple, NoReturn, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
from pydantic import Field, field_validator, model_validator

from recsys_core import uri
from recsys_core.artifacts import ComponentConfig, Frozen
from recsys_core.columns import refuse_twice
from recsys_core.readers import _csv_text, _csv_types, _files, base

_OPENING_THREADS = 4
_MAX_SHOWN = 80
_OTHER_DELIMITERS = (";", "\t", "|")
_ROW = re.compile(r"Row #(\d+)")


class Options(Frozen):
    """YAML section `csv`: how CSV files are written. A value that is quoted may not hold line breaks.

    A column that `types` does not name has the type that holds all of its values: int64, double, bool, a date or a
    time, and else text. Ids with leading zeros are text.
    """

    delimiter: str | None = Field(
        default=None, min_length=1, max_length=1, description="null: a tab for .tsv, else a comma"
    )
    quote: str | None = Field(default='"', min_length=1, max_length=1, description="null: values are never quoted")
    escape: str | None = Field(
        default=None, min_length=1, max_length=1, description="null: a quote in a quoted value is written twice"
    )
    header: bool = Field(default=True, description="whether the first line of each file names the columns")
    column_names: tuple[str, ...] | None = Field(default=None, description="needed without a header")
    types: dict[str, str] = Field(default={}, description="Arrow type by column, such as int64, string, decimal(10,2)")
    null_values: tuple[str, ...] = ("", "NULL", "null", r"\N")
    encoding: str | None = Field(
        default=None, description="such as latin-1 or gb18030; null: what a byte order mark says, else UTF-8"
    )

    @field_validator("encoding")
    @classmethod
    def _is_known(cls, encoding: str | None) -> str | None:
        return None if encoding is None else _csv_text.check_encoding(encoding)

    @field_validator("delimiter", "quote", "escape")
    @classmethod
    def _is_one_byte(cls, sign: str | None) -> str | None:
        if sign is not None and (not sign.isascii() or sign in "\r\n"):
            raise ValueError(f"{sign!r}: write one character of ASCII that ends no line")
        return sign

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        refuse_twice("column_names", self.column_names or ())
        if self.header and self.column_names:
            raise ValueError("column_names: the header names the columns; leave them out, or say header: false")
        signs = [sign for sign in (self.delimiter, self.quote, self.escape) if sign is not None]
        if len(set(signs)) < len(signs):
            raise ValueError(f"delimiter, quote and escape are {', '.join(map(repr, signs))}; they are different signs")
        for name, kind in self.types.items():
            _csv_types.named(name, kind)
        return self


class Config(ComponentConfig):
    """`path` is anything that `uri.Source` may be.

    With `is_shared`, `options` are those of several tables, of which this one may lack a column that `types` names.
    """

    kind: Literal["csv"] = "csv"
    path: uri.Source
    options: Options = Options()
    is_shared: bool = False


class _Block(NamedTuple):
    """Bytes `start` to `stop` of a file, whole lines from number `first_line` on, `num_rows` of which hold something.

    `first_row` counts the rows of the file before them.
    """

    file: int
    start: int
    stop: int
    num_rows: int
    first_line: int
    first_row: int


class _Scanned(NamedTuple):
    """What reading a file once finds out."""

    names: list[str]
    blocks: list[_Block]
    kinds: _csv_types.Kinds


class Reader(base.Reader):
    """Parses blocks of lines, each by itself.

    Attributes:
        kinds: the types of the files' own columns as far as their values show them: null, where there are none.
    """

    def __init__(self, config: Config, state: dict[str, Any] | None = None) -> None:
        """Open `config.path`'s files.

        Raises:
            ValueError: no such file, no columns' names, files that name other columns, a line that is not as the others
                are, or a damaged gzip file.
        """
        self._options = options = config.options
        self._files = _files.Files(config.path, state["files"] if state else None)
        self._paths = [location.path for location in self._files.locations]
        forms = [_csv_text.Form(*form) for form in state["forms"]] if state else [None] * len(self._paths)
        self._texts = [
            _csv_text.Text(location, options.encoding, form)
            for location, form in zip(self._files.locations, forms, strict=True)
        ]
        if state is None:
            self._given = {name: _csv_types.named(name, kind) for name, kind in options.types.items()}
            with ThreadPoolExecutor(_OPENING_THREADS) as pool:
                found = list(pool.map(self._scan, range(len(self._texts))))
            self._blocks = [block for scanned in found for block in scanned.blocks]
            self._own, self.kinds = self._schema(found, is_shared=config.is_shared)
        else:
            self._blocks = [_Block(*block) for block in state["blocks"]]
            self._own = _files.schema_from(state["schema"])
            self.kinds = dict(zip(self._own.names, self._own.types, strict=True))
        self._kinds = dict(zip(self._own.names, self._own.types, strict=True))
        self.schema = self._files.with_partitions(self._own)
        self.fingerprint = self._files.fingerprint
        self.block_rows = np.array([block.num_rows for block in self._blocks], dtype=np.int64)

    def read(self, block: int, columns: Sequence[str]) -> pa.Table:
        """See `base.Reader.read`."""
        at = self._blocks[block]
        own = [name for name in columns if name in self._kinds]
        text = self._texts[at.file].read(at.start, at.stop)
        table = self._parse(at, text, self._own.names, own or self._own.names[:1], self._kinds)
        return self._files.completed(table, at.file, columns)

    def place(self, block: int) -> base.Place:
        """See `base.Reader.place`."""
        at = self._blocks[block]
        return base.Place(self._paths[at.file], at.first_row)

    def state(self) -> dict[str, Any]:
        """See `base.Reader.state`."""
        return {
            "files": self._files.state(),
            "forms": [list(text.form) for text in self._texts],
            "schema": _files.schema_to_text(self._own),
            "blocks": [list(block) for block in self._blocks],
        }

    def _scan(self, file: int) -> _Scanned:
        """Read a file once."""
        names = list(self._options.column_names or ())
        blocks: list[_Block] = []
        kinds: _csv_types.Kinds = {}
        is_header, first_row = self._options.header, 0
        for lines in self._texts[file].lines():
            text, start, first_line = lines.text, lines.start, lines.first_line
            if is_header:
                end = text.find(b"\n") + 1 or len(text)
                names = self._header(file, text[:end].decode().rstrip("\r\n"))
                start += self._texts[file].num_bytes(text[:end])
                text, first_line, is_header = text[end:], first_line + 1, False
            if not (num_rows := _csv_text.num_lines(text)):
                continue
            block = _Block(file, start, lines.stop, num_rows, first_line, first_row)
            if set(names) - set(self._given):
                kinds = _csv_types.joined(kinds, self._found(block, text, names))
            blocks.append(block)
            first_row += num_rows
        if not names:
            raise ValueError(
                f"{self._paths[file]}: no names of columns: the file is empty, or has no header; give column_names "
                "with header: false"
            )
        return _Scanned(names, blocks, kinds)

    def _header(self, file: int, line: str) -> list[str]:
        options, delimiter = self._options, self._delimiter(file)
        quoting = csv.QUOTE_NONE if options.quote is None else csv.QUOTE_MINIMAL
        try:
            (names,) = csv.reader(
                [line],
                delimiter=delimiter,
                quotechar=options.quote,
                escapechar=options.escape,
                doublequote=options.escape is None,
                quoting=quoting,
            )
        except csv.Error as error:
            raise ValueError(
                f"{self._paths[file]}: line 1: {line[:_MAX_SHOWN]!r} is no header ({error}); write the columns' names, "
                "or say csv.delimiter or csv.quote"
            ) from None
        others = [sign for sign in _OTHER_DELIMITERS if len(names) == 1 and options.delimiter is None and sign in line]
        if others:
            raise ValueError(
                f"{self._paths[file]}: the header {line[:_MAX_SHOWN]!r} is one column if values are split at "
                f"{delimiter!r}; say csv.delimiter, such as {others[0]!r}"
            )
        refuse_twice(self._paths[file], names)
        return names

    def _found(self, block: _Block, text: bytes, names: list[str]) -> _csv_types.Kinds:
        """Return the types of a block's columns as far as its own lines show them."""
        wanted = [name for name in names if name not in self._given]
        kinds = _csv_types.narrowed(self._parse(block, text, names, wanted, {}))
        numbers = _csv_types.numbers(kinds)
        if numbers and _csv_types.doubtful(text, self._delimiter(block.file), self._options.quote):
            as_text = dict.fromkeys(numbers, pa.string())
            kinds = _csv_types.corrected(kinds, self._parse(block, text, names, numbers, as_text))
        return kinds

    def _schema(self, found: list[_Scanned], *, is_shared: bool) -> tuple[pa.Schema, _csv_types.Kinds]:
        schemas = [pa.schema([(name, pa.null()) for name in scanned.names]) for scanned in found]
        rows = [sum(block.num_rows for block in scanned.blocks) for scanned in found]
        names = _files.same_schema(list(zip(self._paths, schemas, rows, strict=True))).names
        unknown = [name for name in self._given if name not in names]
        if unknown and not is_shared:
            raise ValueError(f"types: there is no column {unknown[0]!r}; there are {', '.join(names)}")
        kinds = functools.reduce(_csv_types.joined, [scanned.kinds for scanned in found if scanned.kinds], {})
        given = {name: kind for name, kind in self._given.items() if name in names}
        kinds = dict.fromkeys(names, pa.null()) | kinds
        settled = _csv_types.settled(kinds) | given
        return pa.schema([(name, settled[name]) for name in names]), kinds | given

    def _parse(
        self, block: _Block, text: bytes, names: list[str], wanted: list[str], kinds: _csv_types.Kinds
    ) -> pa.Table:
        invalid: list[pacsv.InvalidRow] = []
        try:
            table = self._read(block.file, text, names, wanted, kinds, invalid)
        except pa.ArrowException as error:
            self._refuse(block, text, len(names), invalid, error)
        if table.num_rows != block.num_rows or self._is_open(block.file, text, names):
            self._refuse_open_quote(block, text)
        return table

    def _read(
        self,
        file: int,
        text: bytes,
        names: list[str],
        wanted: list[str],
        kinds: _csv_types.Kinds,
        invalid: list[pacsv.InvalidRow],
    ) -> pa.Table:
        options = self._options

        def refuse(row: pacsv.InvalidRow) -> str:
            invalid.append(row)
            return "error"

        return pacsv.read_csv(
            pa.BufferReader(text),
            pacsv.ReadOptions(column_names=names, use_threads=False, block_size=max(len(text), 1)),
            pacsv.ParseOptions(
                delimiter=self._delimiter(file),
                quote_char=options.quote or False,
                double_quote=options.escape is None,
                escape_char=options.escape or False,
                invalid_row_handler=refuse,
            ),
            pacsv.ConvertOptions(
                column_types=kinds,
                include_columns=wanted,
                null_values=list(options.null_values),
                strings_can_be_null=True,
            ),
        )

    def _refuse(
        self, block: _Block, text: bytes, num_columns: int, invalid: list[pacsv.InvalidRow], error: Exception
    ) -> NoReturn:
        """Raise an error that names the line at which a block cannot be parsed."""
        place = self._paths[block.file]
        if invalid and self._options.quote and invalid[0].text.count(self._options.quote) % 2:
            self._refuse_open_quote(block, text)
        if invalid:
            # Arrow counts rows from 1.
            row = (invalid[0].number or 1) - 1
            shown = invalid[0].text[:_MAX_SHOWN]
            raise ValueError(
                f"{place}: line {self._line(block, text, row)}: {invalid[0].actual_columns} values where there are "
                f"{num_columns} columns: {shown!r}; mend the line, or say csv.delimiter or csv.quote"
            ) from None
        found = _ROW.search(str(error))
        line = f"line {self._line(block, text, int(found[1]) - 1)}" if found else f"from line {block.first_line} on"
        reason = str(error).rpartition(": CSV ")[2]
        raise ValueError(f"{place}: {line}: {reason}; mend it, or say the column's type in csv.types") from None

    def _line(self, block: _Block, text: bytes, row: int) -> int:
        return block.first_line + int(_csv_text.filled_lines(text)[row])

    def _is_open(self, file: int, text: bytes, names: list[str]) -> bool:
        """Return whether the last line ends inside of a quoted value, which Arrow takes for its end."""
        if self._options.quote is None:
            return False
        end = len(text.rstrip(b"\r\n"))
        last = text[text.rfind(b"\n", 0, end) + 1 : end]
        if last.count(self._options.quote.encode()) % 2 == 0:
            return False
        # A quote inside of a value that is not quoted is a sign like others.
        alone = self._read(file, last + b"\n", names, names, dict.fromkeys(names, pa.string()), [])
        return any(pc.any(pc.ends_with(column, "\n")).as_py() for column in alone.columns)

    def _refuse_open_quote(self, block: _Block, text: bytes) -> NoReturn:
        quote = (self._options.quote or "").encode()
        odd = [number for number, line in enumerate(text.split(b"\n")) if quote and line.count(quote) % 2]
        line = f"line {block.first_line + odd[0]}" if odd else f"from line {block.first_line} on"
        raise ValueError(
            f"{self._paths[block.file]}: {line}: a quoted value does not end on its line; close the quote, take line "
            "breaks out of values, or say csv.quote: null if quotes are signs like others"
        )

    def _delimiter(self, file: int) -> str:
        path = self._paths[file].lower()
        return self._options.delimiter or ("\t" if path.removesuffix(".gz").endswith(".tsv") else ",")
