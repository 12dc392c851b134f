"""Tables that start from a file: embeddings that were learnt elsewhere, by raw id.

Every rank reads the whole file, a block at a time, and takes what lies in its own pieces of the table. So the start
does not depend on ranks or plan. It takes the memory of a block, and on the first rank eight bytes per row of the file.

Legend: N rows of a block, D numbers of an embedding.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch.distributed._shard.sharded_tensor.api import ShardedTensor

from recsys_core.columns import RowError, ids, is_list, plain
from recsys_core.distributed import World
from recsys_core.features import Engine
from recsys_core.features.columns.flat import bags
from recsys_core.features.encoders.hashed import Hash
from recsys_core.loading.embedding_files import EmbeddingFile, from_files, place_of

# Of ids of either type; that the ids behind equal ones are equal too is looked up.
_FINGERPRINT = Hash(1 << 62)
_BRACKETS = "[] "


def fill(
    weights: Mapping[str, Any],
    engine: Engine,
    world: World,
    *,
    known: Mapping[str, str],
    continuing: Collection[str] | None = None,
) -> list[str]:
    """Write the rows of the files into this rank's shards of `weights`; return a message for each table.

    `known` are the `fingerprints` that the training was asked for with. Of a training that continues another, only
    tables of `continuing` take rows, where their ids are new; every rank calls this.

    Raises:
        ValueError: a file has changed, an id is there twice, an embedding is not of the table's width or not finite, or
            no id of the table is there.
    """
    messages: list[str] = []
    for table in from_files(engine):
        if continuing is not None and table.name not in continuing:
            continue
        (weight,) = (w for name, w in weights.items() if name.endswith(f".{table.name}.weight"))
        config, state, fingerprint = world.share(lambda table=table: _Source(table, engine).state())
        if known.get(table.name, fingerprint) != fingerprint:
            raise ValueError(f"{place_of(table)}: its file has changed since the run began; start the run again")
        source = _Source(table, engine, (config, state))
        num_taken = source.into(weight, world)
        if not num_taken and continuing is None:
            raise ValueError(
                f"{source.place}: none of its {source.reader.num_rows:,} ids has a row of table {table.name!r} "
                f"({engine.encoders[table.name].spec}); write the ids as the features' column has them"
            )
        messages.append(
            f"table {table.name} starts from {source.path}: {num_taken:,} of {source.reader.num_rows:,} ids"
        )
    return messages


class _Source(EmbeddingFile):
    """The file of one table."""

    def into(self, weight: ShardedTensor, world: World) -> int:
        """Fill this rank's pieces of the table; return how many of the file's ids have a row."""
        pieces = [(s.tensor, s.metadata.shard_offsets, torch.zeros(len(s.tensor))) for s in weight.local_shards()]
        seen: list[np.ndarray] = []
        num_taken = 0
        for named, vectors_ND in self._blocks():
            if world.is_first:
                seen.append(_FINGERPRINT.encode(named))
            rows_N = torch.from_numpy(np.array(self._rows(named)))
            own_N = rows_N >= (self.encoder.first_id_row or 0)
            num_taken += int(own_N.sum())
            for piece, offsets, counts in pieces:
                _take(piece, offsets, counts, rows_N[own_N], vectors_ND[own_N])
        world.share(lambda: self._refuse_twice(seen))
        return num_taken

    def _rows(self, named: pa.Array) -> np.ndarray:
        try:
            return self.encoder.encode(named)
        except ValueError as error:
            raise ValueError(f"{self.place}: column {self.id!r}: {error}") from None

    def _blocks(self) -> Iterator[tuple[pa.Array, torch.Tensor]]:
        """Yield the ids [N] and float32 [N, D] of each block."""
        start, width, dtype = 0, self.table.embedding_dim, getattr(torch, self.table.dtype)
        for block in range(len(self.reader.block_rows)):
            table = self.reader.read(block, [self.id, self.embedding])
            named, lists = (plain(table[name].combine_chunks()) for name in (self.id, self.embedding))
            try:
                named = ids(named)
            except RowError as error:
                raise ValueError(f"{self.place}: row {start + error.row}: {self.id!r}: {error.reason}") from None
            if named.null_count:
                row = start + pc.index(named.is_null(), True).as_py()
                raise ValueError(f"{self.place}: row {row}: {self.id!r} is null; leave the row out of the file")
            numbers, lengths_N = self._numbers(lists, start)
            if (wrong := np.flatnonzero(lengths_N != width)).size:
                reason = f"has {lengths_N[wrong[0]]} numbers, without nulls; table {self.table.name!r} is {width} wide"
                raise self._refusal(named, int(wrong[0]), start, f"{reason} (embedding_dim)")
            vectors_ND = torch.from_numpy(numbers.reshape(-1, width))
            finite_N = vectors_ND.to(dtype).isfinite().all(dim=1).numpy()
            if not finite_N.all():
                reason = f"is not all finite numbers of {self.table.dtype}; mend it, or leave the row out of the file"
                raise self._refusal(named, int(np.argmin(finite_N)), start, reason)
            yield named, vectors_ND
            start += len(named)

    def _numbers(self, lists: pa.Array, start: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the numbers of all rows, float32, and how many each has."""
        if not is_list(lists.type):
            # As Dayline writes lists to CSV, [0.5, 1.0], or without brackets.
            texts = pc.utf8_trim(lists.cast(pa.string()), characters=_BRACKETS)
            lists = pc.split_pattern(texts, self.separator)
        values, lengths_N = bags(lists)
        if pa.types.is_string(values.type):
            try:
                values = pc.utf8_trim_whitespace(values).cast(pa.float64())
            except pa.ArrowInvalid as error:
                rows = f"rows {start} to {start + len(lists)}"
                raise ValueError(
                    f"{self.place}: {self.embedding!r} in {rows}: {error}; write numbers, split by {self.separator!r}"
                ) from None
        with np.errstate(over="ignore"):
            return np.array(values.to_numpy(zero_copy_only=False), np.float32), lengths_N

    def _refusal(self, named: pa.Array, row: int, start: int, reason: str) -> ValueError:
        return ValueError(f"{self.place}: row {start + row}, id {named[row].as_py()!r}: {self.embedding!r} {reason}")

    def _refuse_twice(self, seen: list[np.ndarray]) -> None:
        prints = np.concatenate(seen) if seen else np.zeros(0, np.int64)
        order = np.argsort(prints, kind="stable")
        for place in np.flatnonzero(np.diff(prints[order]) == 0):
            rows = int(order[place]), int(order[place + 1])
            one, other = (self._id_at(row) for row in rows)
            if one == other:
                raise ValueError(
                    f"{self.place}: id {one!r} is there twice, in rows {rows[0]} and {rows[1]}; name each id once"
                )

    def _id_at(self, row: int) -> Any:
        ends = np.cumsum(self.reader.block_rows)
        block = int(np.searchsorted(ends, row, side="right"))
        return self.reader.read(block, [self.id])[self.id][row - int(ends[block])].as_py()


def _take(
    piece: torch.Tensor, offsets: list[int], counts: torch.Tensor, rows_N: torch.Tensor, vectors_ND: torch.Tensor
) -> None:
    """Write what of the rows lies in `piece`; a row of several ids (a hash has such) gets the mean of theirs.

    `counts` [rows of the piece] are how many ids each row had so far.
    """
    columns = slice(offsets[1], offsets[1] + piece.shape[1])
    inside_N = (rows_N >= offsets[0]) & (rows_N < offsets[0] + len(piece))
    places, which, num_ids = (rows_N[inside_N] - offsets[0]).unique(return_inverse=True, return_counts=True)
    sums = torch.zeros(len(places), piece.shape[1]).index_add_(0, which, vectors_ND[inside_N][:, columns])
    with torch.no_grad():
        there = places.to(piece.device)
        before = piece[there].cpu().float() * counts[places, None]
        counts[places] += num_ids
        piece[there] = ((before + sums) / counts[places, None]).to(piece.device, piece.dtype)
