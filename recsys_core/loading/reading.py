"""Rows at the positions of an epoch's order, read ahead by threads."""

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import pyarrow as pa
import pyarrow.compute as pc

from recsys_core.loading.epoch_order import BlockRows, EpochOrder
from recsys_core.loading.prefetch import half_of_the_cores
from recsys_core.loading.row_ranges import RowRange
from recsys_core.readers.base import Reader


def read(
    reader: Reader,
    order: EpochOrder,
    intervals: Iterable[RowRange],
    columns: Sequence[str],
    num_threads: int | None = None,
) -> Iterator[pa.RecordBatch]:
    """Yield the rows at the positions of `intervals`, in order.

    Blocks are read by `num_threads` threads (Arrow releases the interpreter's lock), which run one chunk ahead of the
    consumer, or a few blocks where nothing is shuffled; no further, so memory is bounded. By default half of the cores
    read, for to permute and encode takes about as long: more threads than cores would pass each other the
    interpreter's lock.
    """
    threads = num_threads or half_of_the_cores()
    chunks = (chunk for interval in intervals for chunk in order.chunks(interval))
    ahead: deque[tuple[list[BlockRows], dict[int, _Reading]]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="read")

    def start_next() -> None:
        if (chunk := next(chunks, None)) is not None:
            blocks = dict.fromkeys(piece.block for piece in chunk)
            reading = {block: _Reading(reader, block, columns) for block in blocks}
            ahead.append((chunk, reading))
            for one in reading.values():
                pool.submit(one.run)

    try:
        for _ in range(1 if order.shuffles else threads + 2):
            start_next()
        while ahead:
            chunk, reading = ahead.popleft()
            start_next()
            permuted: dict[int, pa.RecordBatch] = {}
            for piece in chunk:
                if (block := permuted.get(piece.block)) is None:
                    wanted = reading.pop(piece.block)
                    later = (one for held in (reading, *(held for _, held in ahead)) for one in held.values())
                    block = permuted[piece.block] = _permuted(_result(wanted, later), order, piece.block)
                yield block.slice(piece.start, piece.num_rows)
    finally:
        pool.shutdown(cancel_futures=True)


class _Reading:
    """One block that is to be read, by the first thread that comes."""

    def __init__(self, reader: Reader, block: int, columns: Sequence[str]) -> None:
        self.future: Future[pa.Table] = Future()
        self._read = lambda: reader.read(block, columns)
        self._lock = threading.Lock()

    def run(self) -> None:
        """Read it, unless another thread does already."""
        if not self._lock.acquire(blocking=False):
            return
        try:
            self.future.set_result(self._read())
        except BaseException as error:  # noqa: BLE001 - raised where the block is wanted
            self.future.set_exception(error)


def _result(wanted: _Reading, later: Iterable[_Reading]) -> pa.Table:
    # A thread that would wait reads as well, so that no core is idle.
    for one in (wanted, *later):
        if wanted.future.done():
            break
        one.run()
    return wanted.future.result()


def _permuted(table: pa.Table, order: EpochOrder, block: int) -> pa.RecordBatch:
    # A batch is sliced and permuted in less time than a table.
    batches = table.combine_chunks().to_batches()
    if len(batches) > 1:
        raise ValueError("a column has more than 2 GB of text in one block; write the table in smaller row groups")
    whole = batches[0]
    permutation = order.permutation(block)
    if permutation is None:
        return whole
    # A permutation never leaves the block; to check that took Arrow as long for each column as to permute it.
    return pc.take(whole, pa.array(permutation), boundscheck=False)
