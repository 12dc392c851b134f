"""From a rank's rows to its batches, made ahead by threads."""

from abc import ABC, abstractmethod
from collections.abc import Generator
from typing import Generic

from recsys_core.loading.batch import B, pinned
from recsys_core.loading.prefetch import half_of_the_cores, prefetch
from recsys_core.loading.rank_batches import RankBatches, Rows
from recsys_core.loading.row_ranges import RowRange


class Source(ABC, Generic[B]):
    """Makes one rank's batches of its rows.

    Attributes:
        columns: what the rows need.
    """

    columns: list[str]

    @abstractmethod
    def batch(self, rows: Rows, *, epoch: int, step: int) -> B:
        """Make the batch of one step; several threads may do so for different steps at once."""

    def batches(
        self, shard: RankBatches, *, epoch: int, step: int, pins: bool = False
    ) -> Generator[tuple[B, list[RowRange]], None, None]:
        """Yield the batches of `shard`, the first of which is step number `step`, with the positions each consumed.

        Threads make them ahead; with `pins` where a GPU copies from. Close the generator to end them early.
        """

        def made(numbered: tuple[int, Rows]) -> tuple[B, list[RowRange]]:
            number, rows = numbered
            batch = self.batch(rows, epoch=epoch, step=number)
            return pinned(batch) if pins else batch, rows.consumed

        return prefetch(enumerate(shard, step), made, num_threads=half_of_the_cores())
