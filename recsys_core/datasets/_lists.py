"""Text with a line for each user, `user item item …`, between blanks or tabs; read twice, and never held as a whole."""

from collections.abc import Iterator
from typing import NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys_core import columns
from recsys_core.datasets import base
from recsys_core.progress import Event, Sink
from recsys_core.readers import _csv_text
from recsys_core.uri import Location

# What stays the same when it is read as a number and written again.
_WHOLE = r"^(0|-?[1-9][0-9]{0,17})$"


class _Block(NamedTuple):
    """Some lines [B]: their numbers from 1, their users, how many items [B] each has, and these one after another."""

    numbers: np.ndarray
    users: pa.Array
    lengths: np.ndarray
    items: pa.Array


class Kinds(NamedTuple):
    """Whether ids are whole numbers, all of them; they are text otherwise."""

    users: bool = True
    items: bool = True

    @classmethod
    def of(cls, files: list[Location]) -> Self:
        """Read the files once.

        Raises:
            ValueError: a file is damaged, or no text.
        """
        users, items = True, True
        for file in files:
            for block in _blocks(file):
                users = users and _are_whole(block.users)
                items = items and _are_whole(block.items)
        return cls(users, items)


def read(file: Location, kinds: Kinds, sink: Sink) -> Iterator[tuple[pa.Table, np.ndarray]]:
    """Yield user_id and item_id of a file's lines, and where in its line each item stands, int64 from 0.

    Raises:
        ValueError: a user has two lines; names them.
    """
    users: list[pa.Array] = []
    numbers: list[np.ndarray] = []
    num_empty, done = 0, 0
    for block in _blocks(file):
        users.append(_ids(block.users, is_whole=kinds.users))
        numbers.append(block.numbers)
        num_empty += int((block.lengths == 0).sum())
        done += len(block.items)
        owners = np.repeat(np.arange(len(block.lengths)), block.lengths)
        starts = np.cumsum(block.lengths) - block.lengths
        table = pa.table(
            {"user_id": users[-1].take(pa.array(owners)), "item_id": _ids(block.items, is_whole=kinds.items)}
        )
        yield table, np.arange(len(owners)) - starts[owners]
        sink(Event(stage=base.STAGE, done=done, message=f"reading {file.path}"))
    _refuse_second_lines(file, users, numbers)
    if num_empty:
        text = f"warning: {file.path}: {num_empty:,} users have no items, and are not in the log"
        sink(Event(stage=base.STAGE, message=text))


def _refuse_second_lines(file: Location, users: list[pa.Array], numbers: list[np.ndarray]) -> None:
    every = pa.chunked_array(users, users[0].type if users else pa.int64())
    if pc.count_distinct(every).as_py() == len(every):
        return
    codes = every.combine_chunks().dictionary_encode().indices.to_numpy()
    _, firsts = np.unique(codes, return_index=True)
    second = int(np.setdiff1d(np.arange(len(codes)), firsts)[0])
    lines = np.concatenate(numbers)
    raise ValueError(
        f"{file.path}: line {lines[second]}: user {columns.shown(every[second].as_py())} has line "
        f"{lines[firsts[codes[second]]]} already; write all items of a user on one line"
    )


def _blocks(file: Location) -> Iterator[_Block]:
    for lines in _csv_text.Text(file, None).lines():
        filled = _csv_text.filled_lines(lines.text)
        texts = pa.array(lines.text.decode().split("\n")).take(pa.array(filled))
        fields = pc.ascii_split_whitespace(pc.ascii_trim_whitespace(texts))
        # A line of blanks alone has nothing on it.
        is_any = pc.greater(pc.binary_length(pc.list_element(fields, 0)), 0)
        fields, filled = fields.filter(is_any), filled[is_any.to_numpy(zero_copy_only=False)]
        if len(fields):
            lengths = pc.list_value_length(fields).to_numpy().astype(np.int64) - 1
            every = fields.flatten()
            is_user = np.zeros(len(every), bool)
            is_user[np.cumsum(lengths + 1) - lengths - 1] = True
            yield _Block(
                lines.first_line + filled, every.filter(pa.array(is_user)), lengths, every.filter(pa.array(~is_user))
            )


def _are_whole(texts: pa.Array) -> bool:
    return bool(pc.all(pc.match_substring_regex(texts, _WHOLE), min_count=0).as_py())


def _ids(texts: pa.Array, *, is_whole: bool) -> pa.Array:
    return texts.cast(pa.int64()) if is_whole else texts
