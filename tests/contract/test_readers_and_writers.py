"""What every reader and writer of files promises: every row and type read back, whatever the layout and the ranks."""

import datetime
import decimal
import gzip
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_core import lookup, readers, writers
from recsys_core.checkpoint import TrainProgress
from recsys_core.loading import rank_batches, reading, row_ranges
from recsys_core.loading.epoch_order import EpochOrder
from recsys_core.loading.rank_batches import RankBatches
from recsys_core.loading.row_ranges import merge
from recsys_core.odps.credentials import Keys
from recsys_core.odps.emulator import Emulator
from recsys_core.readers import memory

FILES = [kind for kind in lookup.kinds("recsys_core.writers") if kind != "odps"]
_DAY = datetime.date(2024, 1, 31)


def write(path, table, kind, num_parts=1, **keys):
    """Write `table` in `num_parts` parts, as that many ranks would; return the number of rows committed."""
    config = lookup.component("recsys_core.writers", kind).Config(path=str(path), **keys)
    place = writers.build(config)
    state = json.loads(json.dumps(place.begin(table.schema)))
    receipts = []
    for part in range(num_parts):
        low, high = (len(table) * at // num_parts for at in (part, part + 1))
        with place.part(state, part) as writer:
            writer.write(table.slice(low, high - low))
        receipts.append(writer.close())
    return place.commit(state, receipts)


def _write_and_die(writer, table):
    writer.write(table)
    raise RuntimeError("killed")


def read_all(reader, columns=None):
    names = columns or reader.schema.names
    return pa.concat_tables([reader.read(block, names) for block in range(len(reader.block_rows))])


def reopened(reader, config):
    return type(reader)(config, json.loads(json.dumps(reader.state())))


@pytest.mark.parametrize("kind", FILES)
def test_what_is_written_is_read_back_in_order_by_any_process(tmp_path, kind):
    table = pa.table({"row": np.arange(1_000), "text": [f"ä{i}" for i in range(1_000)], "x": np.arange(1_000) / 8})
    assert write(tmp_path / "out", table, kind, num_parts=3) == 1_000
    config = readers.infer(str(tmp_path / "out"))
    assert config.kind == kind
    reader = readers.build(config)
    other = reopened(reader, config)
    assert reader.num_rows == other.num_rows == 1_000
    assert reader.fingerprint == other.fingerprint
    assert other.schema == reader.schema
    for opened in (reader, other):
        assert read_all(opened).to_pydict() == table.to_pydict()
    assert read_all(other, ["x", "row"]).column_names == ["x", "row"]


@pytest.mark.parametrize("kind", FILES)
def test_a_second_table_replaces_a_larger_one_and_an_abandoned_one_changes_nothing(tmp_path, kind):
    table = pa.table({"row": np.arange(100)})
    write(tmp_path / "out", table, kind, num_parts=4)
    write(tmp_path / "out", table.slice(0, 10), kind, num_parts=1)
    place = writers.build(lookup.component("recsys_core.writers", kind).Config(path=str(tmp_path / "out")))
    state = place.begin(table.schema)
    with pytest.raises(RuntimeError, match="killed"), place.part(state, 0) as writer:
        _write_and_die(writer, table)
    place.abandon(state)
    reader = readers.build(readers.infer(str(tmp_path / "out")))
    assert read_all(reader).column("row").to_pylist() == list(range(10))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("kind", FILES)
def test_parts_that_are_not_what_the_receipts_say_are_not_committed(tmp_path, kind):
    table = pa.table({"row": np.arange(10)})
    place = writers.build(lookup.component("recsys_core.writers", kind).Config(path=str(tmp_path / "out")))
    state = place.begin(table.schema)
    with place.part(state, 0) as writer:
        writer.write(table)
    receipt = writer.close()
    with pytest.raises(ValueError, match="10 rows where 11 were written"):
        place.commit(state, [receipt.model_copy(update={"num_rows": 11})])
    with pytest.raises(ValueError, match="where the ranks wrote"):
        place.commit(state, [])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", FILES)
def test_a_place_that_cannot_be_written_is_refused(tmp_path, kind):
    (tmp_path / "file").write_text("")
    config = lookup.component("recsys_core.writers", kind).Config
    with pytest.raises(ValueError, match="a file is there"):
        writers.build(config(path=str(tmp_path / "file")))
    with pytest.raises(ValueError, match="local folders and to odps"):
        writers.build(config(path="s3://bucket/table"))
    with pytest.raises(ValueError, match="cannot be written"):
        writers.build(config(path=str(tmp_path / "file" / "below"))).begin(pa.schema([]))


_D = decimal.Decimal
# Values by type, and what it is read as where that is another type: None where a format refuses it, with a message.
_WIDER = {"orc": pa.int16(), "odps": pa.int16()}
_REFUSED = {"orc": None, "odps": None}
_NESTED = {"csv": pa.string()}
_TYPES: list[tuple[pa.Array, dict[str, Any]]] = [
    *((pa.array([1, None, -3], kind), {}) for kind in (pa.int8(), pa.int16(), pa.int32())),
    (pa.array([2**62, None, -3], pa.int64()), {}),
    (pa.array([1, None, 255], pa.uint8()), _WIDER),
    (pa.array([1, None, 65_535], pa.uint16()), {"orc": pa.int32(), "odps": pa.int32()}),
    (pa.array([1, None, 2**32 - 1], pa.uint32()), {"orc": pa.int64(), "odps": pa.int64()}),
    (pa.array([2**63, None, 3], pa.uint64()), _REFUSED),
    (pa.array(np.array([1.5, 2, -3], np.float16)), {"orc": pa.float32(), "odps": pa.float32(), "csv": pa.float32()}),
    (pa.array([1.5, None, -3], pa.float32()), {}),
    (pa.array([1.5, None, -3], pa.float64()), {}),
    (pa.array([True, None, False]), {}),
    (pa.array(["ä", None, "b"]), {}),
    (pa.array(["a", None, "b"], pa.large_string()), {"orc": pa.string(), "odps": pa.string()}),
    (pa.array(["a", None, "a"]).dictionary_encode(), dict.fromkeys(("orc", "odps", "csv"), pa.string())),
    (pa.array([b"\x00\xff", None, b""]), {"csv": None}),
    (pa.array([_DAY, None, _DAY]), {}),
    (pa.array([_DAY, None, _DAY], pa.date64()), dict.fromkeys(("parquet", "orc", "odps", "csv"), pa.date32())),
    (pa.array([1_706_662_923, None, 0], pa.timestamp("s")), {"parquet": "ms", "orc": "ns", "odps": "ns"}),
    (pa.array([1_706_662_923_001, None, 0], pa.timestamp("ms")), {"orc": "ns"}),
    (pa.array([1_706_662_923_000_001, None, 0], pa.timestamp("us")), {"orc": "ns", "odps": "ns"}),
    (pa.array([1_706_662_923_000_000_001, None, 0], pa.timestamp("ns")), {}),
    (pa.array([_D("1.50"), None, _D("-3.25")], pa.decimal128(10, 2)), {}),
    (pa.array([[1, 2], None, []], pa.list_(pa.int64())), _NESTED),
    (pa.array([["a", None], None, []], pa.list_(pa.string())), _NESTED),
    (
        pa.array([[1.5], None, []], pa.large_list(pa.float32())),
        dict.fromkeys(("orc", "odps"), pa.list_(pa.float32())) | _NESTED,
    ),
    (
        pa.array([[1, 2], [3, 4], [5, 6]], pa.list_(pa.float32(), 2)),
        dict.fromkeys(("orc", "odps"), pa.list_(pa.float32())) | _NESTED,
    ),
    (pa.array([[[1], []], None, []], pa.list_(pa.list_(pa.int64()))), _NESTED),
    (pa.array([[("a", 1)], None, []], pa.map_(pa.string(), pa.int64())), _NESTED),
    (pa.array([[("a", [1.5])], None, []], pa.map_(pa.string(), pa.list_(pa.float32()))), _NESTED),
    (pa.array([{"a": 1, "b": "x"}, None, {"a": None, "b": "y"}]), _NESTED),
    (pa.array([[{"a": 1}], None, []]), _NESTED),
    (pa.array([1, None], pa.time32("s")), {"parquet": pa.time32("ms"), "orc": None, "odps": None}),
]


@pytest.fixture(scope="module")
def place_of(tmp_path_factory):
    """Return where a format's tables can be written: folders, or a MaxCompute in this process."""
    folder = tmp_path_factory.mktemp("types")
    (folder / "odps" / "shop").mkdir(parents=True)
    with Emulator(folder / "odps", [Keys("ak", "a secret")]) as running, pytest.MonkeyPatch.context() as patch:
        for name, value in {"ACCESS_ID": "ak", "ACCESS_KEY": "a secret", "ENDPOINT": running.endpoint}.items():
            patch.setenv(f"ODPS_{name}", value)
        patch.setenv("NO_PROXY", "127.0.0.1")
        yield lambda kind, name: f"odps://shop/tables/{name}" if kind == "odps" else str(folder / kind / name)


@pytest.mark.parametrize("kind", ["parquet", "orc", "csv", "odps"])
@pytest.mark.parametrize(("values", "otherwise"), _TYPES, ids=[str(values.type) for values, _ in _TYPES])
def test_every_type_is_read_from_every_format_that_holds_it(place_of, kind, values, otherwise):
    table = pa.table({"row": np.arange(len(values)), "values": values})
    expected = otherwise.get(kind, values.type)
    if isinstance(expected, str):
        expected = pa.timestamp(expected)
    path = place_of(kind, f"t{abs(hash(str(values.type)))}")
    if expected is None:
        with pytest.raises(ValueError, match="column 'values'.*(has no type for|cannot hold)"):
            write(path, table, kind)
        return
    assert write(path, table, kind) == len(table)
    types = {} if pa.types.is_nested(expected) else {"types": {"values": str(expected).replace("128", "")}}
    options = {"options": types} if kind == "csv" else {}
    config = lookup.component("recsys_core.readers", kind).Config.model_validate({"path": path, **options})
    opened = readers.build(config)
    assert opened.schema.field("values").type == expected
    found = read_all(opened)["values"].to_pylist()
    if kind == "csv" and pa.types.is_nested(values.type):
        found = [None if text is None else json.loads(text) for text in found]
        found = [[tuple(pair) for pair in one] if one and pa.types.is_map(values.type) else one for one in found]
    assert found == values.to_pylist()
    assert read_all(memory.Reader(table)).equals(table)


def test_a_csv_holds_flat_values_and_lists_as_json(tmp_path):
    table = pa.table({"id": pa.array([1, None]), "list": pa.array([[1, 2], None])})
    write(tmp_path / "out", table, "csv", delimiter="\t")
    assert (tmp_path / "out" / "part-00000.tsv").read_text() == '"id"\t"list"\n1\t"[1, 2]"\n\t\n'
    with pytest.raises(ValueError, match="'text' holds a text with a line break"):
        write(tmp_path / "out", pa.table({"text": ["a\nb"]}), "csv")


_STOPS = st.lists(
    st.fixed_dictionaries(
        {
            "num_ranks": st.integers(1, 4),
            "num_threads": st.integers(1, 3),
            "batch_size": st.integers(1, 9),
            "num_steps": st.integers(0, 3),
            "num_lost": st.integers(0, 2),
        }
    ),
    max_size=3,
)


@settings(max_examples=60, deadline=None)
@given(
    file_rows=st.lists(st.integers(0, 40), min_size=1, max_size=4).filter(any),
    kind=st.sampled_from(["parquet", "orc", "csv", "csv.gz"]),
    rows_per_block=st.sampled_from([3, 7, 1_000]),
    shuffle=st.tuples(st.sampled_from([0, 5, 1_000]), st.integers(0, 3)),
    kept=st.sampled_from([None, 3, 40]),
    max_cost=st.sampled_from([None, 9, 30]),
    stops=_STOPS,
)
def test_any_layout_ranks_threads_and_stops_read_exactly_the_table(
    tmp_path_factory, file_rows, kind, rows_per_block, shuffle, kept, max_cost, stops
):
    folder = tmp_path_factory.mktemp("layout")
    _lay_out(folder, file_rows, kind, rows_per_block)
    config = readers.infer(str(folder))
    budget = max_cost and rank_batches.CostLimit("cost", max_cost)
    consumed, seen = [], {"row": [], "text": [], "cost": []}
    last = {"num_ranks": 2, "num_threads": 2, "batch_size": 3, "num_steps": None, "num_lost": 0}
    for stop in [*stops, last]:
        # Every attempt opens the table anew, as another process would.
        table = reopened(readers.build(config), config)
        if kept is not None:
            table = readers.Selected(table, readers.Selection(filter=(("row", "<", kept),)))
        order = EpochOrder(table.block_rows, seed=shuffle[1], epoch=0, shuffle_rows=shuffle[0], rows_per_turn=4)
        for taken, step in enumerate(_steps(table, order, consumed, budget, stop)):
            if stop["num_steps"] is not None and taken >= stop["num_steps"]:
                # Steps since the last checkpoint are lost with the process that took them.
                if taken == stop["num_steps"] + stop["num_lost"]:
                    break
                continue
            for part in step:
                assert max_cost is None or sum(part.table.column("cost").to_pylist()) <= max_cost
                for name, values in part.table.to_pydict().items():
                    seen[name] += values
            position = TrainProgress(consumed=tuple(merge([*consumed, *(at for part in step for at in part.consumed)])))
            consumed = list(TrainProgress.model_validate_json(position.model_dump_json()).consumed)
    rows = sum(file_rows) if kept is None else min(kept, sum(file_rows))
    assert sorted(seen["row"]) == list(range(rows))
    assert seen["text"] == [_text(row) for row in seen["row"]]
    assert seen["cost"] == [row % 9 for row in seen["row"]]


def _steps(table, order, consumed, budget, stop):
    """Yield what every rank has at each step."""
    left = row_ranges.remaining(consumed, order.num_rows)
    num_ranks, size = stop["num_ranks"], stop["batch_size"]
    mine = [row_ranges.cut(left, rank, num_ranks) for rank in range(num_ranks)]
    sizes = budget and [budget.batches(reading.read(table, order, part, [budget.column]), size) for part in mine]
    shards = [
        RankBatches(
            table,
            order,
            ["row", "text", "cost"],
            batch_size=size,
            rank=rank,
            num_ranks=num_ranks,
            consumed=consumed,
            budget=budget,
            gather=lambda _: sizes,
            num_threads=stop["num_threads"],
        )
        for rank in range(num_ranks)
    ]
    return zip(*shards, strict=True)


def _text(row):
    return f"t{row}" + "x" * (row * 7 % 90)


def _lay_out(folder, file_rows, kind, rows_per_block):
    start = 0
    for number, num_rows in enumerate(file_rows):
        rows = range(start, start + num_rows)
        columns = [(rows, pa.int64()), ([_text(row) for row in rows], pa.string()), ([n % 9 for n in rows], pa.int64())]
        table = pa.table([pa.array(*column) for column in columns], names=["row", "text", "cost"])
        start += num_rows
        if kind == "parquet":
            pa.parquet.write_table(table, folder / f"{number}.parquet", row_group_size=rows_per_block)
        elif kind == "orc":
            pa.orc.write_table(table, folder / f"{number}.orc")
        else:
            lines = "".join(
                f"{row},{text},{cost}\n" for row, text, cost in zip(*table.to_pydict().values(), strict=True)
            )
            text = f"row,text,cost\n{lines}".encode()
            (folder / f"{number}.{kind}").write_bytes(gzip.compress(text) if kind == "csv.gz" else text)


def test_the_same_seed_gives_the_same_order_with_any_number_of_ranks(tmp_path):
    _lay_out(tmp_path, [50, 30, 40], "parquet", 8)
    table = readers.build(readers.infer(str(tmp_path)))
    order = EpochOrder(table.block_rows, seed=5, epoch=1, shuffle_rows=30, rows_per_turn=10)
    orders = []
    for num_ranks in (1, 2, 3, 7):
        rows = []
        for rank in range(num_ranks):
            mine = row_ranges.cut([(0, 120)], rank, num_ranks)
            tables = reading.read(table, order, mine, ["row"])
            rows += [row for piece in tables for row in piece.column("row").to_pylist()]
        orders.append(rows)
    assert orders[0] != sorted(orders[0])
    assert all(rows == orders[0] for rows in orders)
