"""The order of an epoch's rows, which depends on the seed, the epoch and the table alone."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from recsys_core.loading.row_ranges import RowRange

_FEWEST_TURNS = 16  # also where a whole chunk has fewer rows than a turn


class BlockRows(NamedTuple):
    """`num_rows` rows from row `start` on of the permuted block `block`; they stand at `position` of the order."""

    block: int
    start: int
    num_rows: int
    position: int


class EpochOrder:
    """The rows of one epoch in the order of their positions.

    Blocks are permuted and grouped into chunks of about `shuffle_rows` rows. The rows of each block are permuted, and
    a chunk deals its blocks out in turns: every turn takes some of the rows of each of its blocks, as many as keeps
    them in proportion. So a batch mixes rows of all the chunk's blocks, a gather never leaves a block, which a
    processor's cache can hold, and no more than two chunks are in memory. `shuffle_rows=0` keeps the table's order.

        chunk   block 4: d a c b      block 1: p r q s t u
        turns   d a | p r q | c b | s t u                       (two turns)
    """

    def __init__(
        self, block_rows: np.ndarray, *, seed: int, epoch: int, shuffle_rows: int, rows_per_turn: int = 1_024
    ) -> None:
        """Draw the order; costs no reading. A turn has about `rows_per_turn` rows: let it be a batch's or fewer."""
        self._seed, self._epoch, self.shuffles = seed, epoch, shuffle_rows > 0
        self._rows_per_turn = rows_per_turn
        self._block_rows = block_rows
        self._permutations: dict[int, np.ndarray] = {}
        self._offsets = np.random.default_rng((seed, epoch, 0)).integers(np.maximum(block_rows, 1))
        blocks = np.flatnonzero(block_rows)
        if self.shuffles:
            blocks = np.random.default_rng((seed, epoch)).permutation(blocks)
        rows = block_rows[blocks]
        before = np.cumsum(rows) - rows
        chunk_of = before // max(shuffle_rows, 1) if self.shuffles else np.arange(len(blocks))
        starts = np.flatnonzero(np.diff(chunk_of, prepend=-1))
        self._chunks = np.split(blocks, starts[1:]) if len(blocks) else []
        self._starts = np.append(before[starts], rows.sum()).astype(np.int64) if len(blocks) else np.zeros(1, np.int64)
        self.num_rows = int(rows.sum())

    def chunks(self, interval: RowRange) -> Iterator[list[BlockRows]]:
        """Yield the pieces at the positions of `interval`, in order, chunk by chunk."""
        begin, stop = interval
        first = int(np.searchsorted(self._starts, begin, side="right")) - 1
        for chunk in range(first, len(self._chunks)):
            low = int(self._starts[chunk])
            if low >= stop:
                return
            yield [part for piece in self._dealt(chunk) if (part := _clipped(piece, begin, stop)) is not None]

    def permutation(self, block: int) -> np.ndarray | None:
        """Return which row of the block comes when, or None where a block keeps its order.

        Blocks of one size share a permutation, which each turns by an offset of its own: drawing one takes longer than
        reading what it permutes.
        """
        if not self.shuffles:
            return None
        num_rows = int(self._block_rows[block])
        if (shared := self._permutations.get(num_rows)) is None:
            shared = np.random.default_rng((self._seed, self._epoch, num_rows)).permutation(num_rows)
            shared = self._permutations[num_rows] = shared.astype(np.uint32 if num_rows < 2**31 else np.uint64)
        turned = shared + shared.dtype.type(self._offsets[block])
        # What has no row to take away wraps round to a large number.
        return np.minimum(turned, turned - shared.dtype.type(num_rows))

    def row(self, position: int) -> int:
        """Return which row of all blocks, one after another, stands at `position`."""
        (piece,) = next(self.chunks((position, position + 1)))
        rows = self.permutation(piece.block)
        return int(self._block_rows[: piece.block].sum()) + (piece.start if rows is None else int(rows[piece.start]))

    def _dealt(self, chunk: int) -> Iterator[BlockRows]:
        blocks, position = self._chunks[chunk], int(self._starts[chunk])
        rows = self._block_rows[blocks]
        num_turns = max(_FEWEST_TURNS, -(-int(rows.sum()) // self._rows_per_turn)) if self.shuffles else 1
        edges = np.arange(num_turns + 1)[:, None] * rows // num_turns
        for turn in range(num_turns):
            for at, block in enumerate(blocks):
                start, stop = int(edges[turn, at]), int(edges[turn + 1, at])
                if start < stop:
                    yield BlockRows(int(block), start, stop - start, position)
                    position += stop - start


def _clipped(piece: BlockRows, begin: int, stop: int) -> BlockRows | None:
    low, high = max(begin, piece.position), min(stop, piece.position + piece.num_rows)
    if low >= high:
        return None
    return BlockRows(piece.block, piece.start + low - piece.position, high - low, low)
