"""The order, the cut and the shards: every row once, whatever the number of ranks and wherever they stop."""

import itertools
import threading
import time

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_core.loading.epoch_order import EpochOrder
from recsys_core.loading.prefetch import prefetch
from recsys_core.loading.rank_batches import CostLimit, RankBatches
from recsys_core.loading.reading import read
from recsys_core.loading.row_ranges import cut, merge, remaining
from recsys_core.readers import memory
from recsys_core.readers.base import Reader


class Blocks(Reader):
    """A table of one column, 0, 1, 2, …, in blocks of the given sizes; counts its reads."""

    def __init__(self, block_rows: list[int]) -> None:
        self.schema = pa.schema([("row", pa.int64())])
        self.block_rows = np.array(block_rows, dtype=np.int64)
        self.fingerprint = {}
        self.reads: list[int] = []

    def read(self, block, columns):
        self.reads.append(block)
        start = int(self.block_rows[:block].sum())
        return pa.table({"row": np.arange(start, start + self.block_rows[block])}).select(list(columns))

    def state(self):
        return {}


def _shard(reader, order, rank, num_ranks, batch_size, consumed=()):
    return RankBatches(reader, order, ["row"], batch_size=batch_size, rank=rank, num_ranks=num_ranks, consumed=consumed)


def test_merge_and_remaining_by_hand():
    assert merge([(5, 7), (0, 2), (2, 3), (4, 4)]) == [(0, 3), (5, 7)]
    assert remaining([(5, 7), (0, 3)], 9) == [(3, 5), (7, 9)]
    assert remaining([], 4) == [(0, 4)]
    assert remaining([(0, 4)], 4) == []
    with pytest.raises(ValueError, match=r"rows \[1, 2\) were consumed twice"):
        merge([(0, 2), (1, 3)])


def test_cut_by_hand():
    # 5 positions: 0 1 | 10 11 12; two parts of 2 and 3.
    assert cut([(0, 2), (10, 13)], 0, 2) == [(0, 2)]
    assert cut([(0, 2), (10, 13)], 1, 2) == [(10, 13)]
    assert cut([(0, 2), (10, 13)], 1, 3) == [(1, 2), (10, 11)]


@pytest.mark.parametrize("shuffle_rows", [0, 4, 100])
@pytest.mark.parametrize("rank", [0, 1])
def test_every_row_knows_its_number_in_the_table(shuffle_rows, rank):
    reader = Blocks([3, 0, 40, 2, 9])
    order = EpochOrder(reader.block_rows, seed=1, epoch=2, shuffle_rows=shuffle_rows)
    seen = 0
    # What was consumed before leaves gaps, which a batch reaches over.
    for rows in _shard(reader, order, rank, 2, batch_size=7, consumed=[(2, 5), (11, 12)]):
        found = rows.batch.column("row").to_pylist()
        assert [rows.number(row) for row in range(len(found))] == found
        seen += len(found)
    assert seen == 25


def test_unshuffled_order_is_the_tables():
    reader = Blocks([3, 0, 4, 2])
    order = EpochOrder(reader.block_rows, seed=1, epoch=0, shuffle_rows=0)
    rows = pa.Table.from_batches(read(reader, order, [(2, 8)], ["row"])).column("row").to_pylist()
    assert rows == [2, 3, 4, 5, 6, 7]


def test_a_shuffle_mixes_rows_of_different_blocks_and_changes_with_the_epoch():
    reader = Blocks([10] * 8)
    rows = {}
    for epoch in (0, 1):
        order = EpochOrder(reader.block_rows, seed=3, epoch=epoch, shuffle_rows=40)
        rows[epoch] = pa.Table.from_batches(read(reader, order, [(0, 80)], ["row"])).column("row").to_pylist()
    assert sorted(rows[0]) == sorted(rows[1]) == list(range(80))
    assert rows[0] != rows[1]
    assert len({row // 10 for row in rows[0][:10]}) > 1


def test_the_order_is_dealt_in_turns_by_hand():
    order = EpochOrder(np.array([4, 0, 6]), seed=0, epoch=0, shuffle_rows=100, rows_per_turn=1)
    (pieces,) = order.chunks((0, 10))
    # 16 turns of blocks of 4 and 6 rows: after turn t, 4t/16 and 6t/16 of their rows are out, rounded down.
    dealt = {0: 0, 2: 0}
    for piece in pieces:
        assert (piece.start, piece.num_rows) == (dealt[piece.block], 1)
        dealt[piece.block] += 1
    assert dealt == {0: 4, 2: 6}
    assert [piece.position for piece in pieces] == list(range(10))
    # Half of the rows are half of each block's, whichever block the chunk begins with.
    assert sorted(piece.block for piece in pieces[:5]) == [0, 0, 2, 2, 2]
    for block, num_rows in ((0, 4), (2, 6)):
        assert sorted(order.permutation(block)) == list(range(num_rows))


def test_blocks_of_one_size_are_permuted_differently():
    order = EpochOrder(np.full(3, 1_000), seed=0, epoch=0, shuffle_rows=3_000)
    first, second = order.permutation(0), order.permutation(1)
    assert sorted(first) == sorted(second) == list(range(1_000))
    assert (first == second).mean() < 0.01


@settings(max_examples=100, deadline=None)
@given(
    costs=st.lists(st.integers(0, 9), min_size=1, max_size=40),
    batch_size=st.integers(1, 6),
    num_ranks=st.integers(1, 3),
    shuffle_rows=st.sampled_from([0, 7]),
)
def test_batches_by_cost_keep_to_the_limit_and_read_every_row_once(costs, batch_size, num_ranks, shuffle_rows):
    table = pa.table({"row": np.arange(len(costs)), "cost": costs})
    reader = memory.Reader(table)
    order = EpochOrder(reader.block_rows, seed=0, epoch=0, shuffle_rows=shuffle_rows)
    budget = CostLimit("cost", 9)
    mine = cut([(0, len(costs))], 0, 1)
    by_rank = [
        budget.batches(read(reader, order, cut(mine, rank, num_ranks), ["cost"]), batch_size)
        for rank in range(num_ranks)
    ]
    shards = [
        RankBatches(
            reader,
            order,
            ["row", "cost"],
            batch_size=batch_size,
            rank=rank,
            num_ranks=num_ranks,
            budget=budget,
            gather=lambda _: by_rank,
        )
        for rank in range(num_ranks)
    ]
    seen = []
    for step in zip(*shards, strict=True):
        sizes = [rows.table.num_rows for rows in step]
        assert {(rows.most_rows, rows.global_rows) for rows in step} == {(max(sizes), sum(sizes))}
        for rows in step:
            assert sum(rows.table["cost"].to_pylist()) <= 9
            assert rows.table.num_rows <= batch_size
            seen += rows.table["row"].to_pylist()
    assert sorted(seen) == list(range(len(costs)))


def test_batches_by_cost_by_hand():
    tables = [pa.table({"cost": [3, 3, 4, 1]}), pa.table({"cost": [0, 9, 2]})]
    # 3 3 4 | 1 0 9 | 2: ten fit exactly, and the next would be eleven.
    assert CostLimit("cost", 10).batches(tables, 100) == [3, 3, 1]
    assert CostLimit("cost", 10).batches(tables, 2) == [2, 2, 2, 1]
    lists = pa.table({"history": pa.array([[1, 2], None, [3], [4, 5, 6]], pa.list_(pa.int64()))})
    assert CostLimit("history", 3).batches([lists], 100) == [3, 1]


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array([1.0, 12.0, 3.0]), r"cost is 12, which alone is more than the 10 of a batch \(row 1 of"),
        (pa.array([1.0, None]), "null, a NaN or a number below 0"),
        (pa.array([1.0, -1.0]), "null, a NaN or a number below 0"),
        (pa.array(["a"]), "'cost' is string; name a column of numbers or of lists"),
    ],
)
def test_costs_that_cannot_be_kept_to_are_refused(column, message):
    with pytest.raises(ValueError, match=message):
        CostLimit("cost", 10).batches([pa.table({"cost": column})], 100)


def test_a_rank_reads_only_the_chunks_it_owns():
    reader = Blocks([10] * 8)
    order = EpochOrder(reader.block_rows, seed=3, epoch=0, shuffle_rows=20)
    list(_shard(reader, order, 0, 4, 5))
    assert len(reader.reads) == 2


@settings(max_examples=150, deadline=None)
@given(
    block_rows=st.lists(st.integers(0, 12), min_size=1, max_size=7).filter(any),
    shuffle_rows=st.sampled_from([0, 1, 5, 1000]),
    seed=st.integers(0, 3),
    stops=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 7), st.integers(0, 4)), max_size=3),
)
def test_any_sequence_of_interruptions_reads_every_row_once(block_rows, shuffle_rows, seed, stops):
    reader = Blocks(block_rows)
    order = EpochOrder(reader.block_rows, seed=seed, epoch=0, shuffle_rows=shuffle_rows)
    consumed, seen = [], []
    for num_ranks, batch_size, num_steps in [*stops, (2, 3, None)]:
        shards = [_shard(reader, order, rank, num_ranks, batch_size, consumed) for rank in range(num_ranks)]
        assert len({shard.num_batches for shard in shards}) == 1
        for step in itertools.islice(zip(*shards, strict=True), num_steps):
            sizes = [rows.table.num_rows for rows in step]
            assert {(rows.most_rows, rows.global_rows) for rows in step} == {(max(sizes), sum(sizes))}
            assert 1 <= max(sizes) <= batch_size
            for rows in step:
                kept = rows.table.column("row").to_pylist()
                assert len(kept) == sum(b - a for a, b in rows.consumed)
                seen += kept
                consumed = merge([*consumed, *rows.consumed])
    assert sorted(seen) == list(range(reader.num_rows))
    assert consumed == [(0, reader.num_rows)]


def test_prefetch_yields_in_order_and_passes_errors_on():
    def items():
        yield from range(10)
        raise ValueError("bad row")

    taken = []
    with pytest.raises(ValueError, match="bad row"):
        taken.extend(prefetch(items(), depth=2))
    assert list(prefetch(iter(range(5)))) == [0, 1, 2, 3, 4]


def test_prefetch_works_in_several_threads_and_keeps_the_order():
    inside, most, both = [0], [0], threading.Barrier(2)

    def items():
        for number in range(20):
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            time.sleep(0.001)
            inside[0] -= 1
            yield number

    def square(number):
        # Two items are worked at, at the same time; the first of them is done last.
        both.wait(timeout=300)
        time.sleep(0.002 * (number % 2 == 0))
        return number**2

    assert list(prefetch(items(), square, num_threads=2)) == [number**2 for number in range(20)]
    assert most == [1]

    def refuse(number):
        if number == 3:
            raise ValueError("bad batch")
        return number

    taken = []
    with pytest.raises(ValueError, match="bad batch"):
        taken.extend(prefetch(iter(range(9)), refuse, num_threads=2))
    assert taken == [0, 1, 2]


def test_a_consumer_that_stops_early_stops_the_thread():
    closed = []

    def items():
        try:
            yield from itertools.count()
        finally:
            closed.append(True)

    source = items()
    ahead = prefetch(source, depth=2)
    assert next(ahead) == 0
    ahead.close()
    source.close()
    assert closed == [True]
