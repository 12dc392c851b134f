"""Where tables go and what that takes, against arithmetic; plans that are kept, taken again, or refused."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor, PoolingType
from torchrec.distributed.planner import constants

from recsys_core import distributed, optim, sharding
from recsys_core.distributed import World
from recsys_core.sharding import sizes
from recsys_core.sharding.plans import Plan, piece_bytes, readable

T = TypeVar("T")
TABLES = {"city": (1_000, 16), "tag": (51, 8)}
VARIABLES = ("INTRA_NODE_BANDWIDTH", "CROSS_NODE_BANDWIDTH", "STORAGE_RESERVE_PERCENT")


class Model(nn.Module):
    def __init__(self, kind: str = "rowwise_adagrad", tables: dict[str, tuple[int, int]] = TABLES) -> None:
        super().__init__()
        self.tables = EmbeddingBagCollection(
            device=torch.device("meta"),
            tables=[
                EmbeddingBagConfig(
                    name=name,
                    num_embeddings=rows,
                    embedding_dim=dim,
                    feature_names=[f"query.my_{name}"],
                    pooling=PoolingType.SUM,
                )
                for name, (rows, dim) in tables.items()
            ],
        )
        optim.fuse(optim.SparseConfig.model_validate({"kind": kind}), self.tables, torch.device("cpu"))


class OfMany(World):
    """What the first of several ranks sees, which makes the plan."""

    def gather(self, value: T) -> list[T]:
        return [value] * self.num_ranks


@pytest.fixture(scope="module")
def alone() -> Iterator[World]:
    with distributed.world("cpu") as world:
        yield world


@pytest.fixture
def two(alone: World, monkeypatch: pytest.MonkeyPatch) -> World:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return OfMany(rank=0, num_ranks=2, num_local_ranks=2, device=alone.device)


def config(**keys: object) -> sharding.Config:
    return sharding.Config.model_validate({"device": "cpu"} | keys)


def test_bytes_are_weights_and_what_the_optimizer_keeps(two: World) -> None:
    made, message = sharding.plan(Model(), config(sharding_types=["row_wise"]), two)
    assert message == "fresh"
    city, tag = made.tables
    # 500 rows of 16 weights and a number of row-wise adagrad, 4 bytes each.
    assert [piece.num_bytes for piece in city.pieces] == [500 * 17 * 4] * 2 == [34_000] * 2
    # 51 rows on two ranks: 26 and 25.
    assert [(piece.offset, piece.size) for piece in tag.pieces] == [((0, 0), (26, 8)), ((26, 0), (25, 8))]
    assert [piece.num_bytes for piece in tag.pieces] == [26 * 9 * 4, 25 * 9 * 4] == [936, 900]
    assert [made.num_bytes(rank) for rank in range(2)] == [34_936, 34_900]


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        ("SGD", 40),
        ("Adagrad", 80),
        ("RowWiseAdagrad", 48),
        ("Adam", 120),
        ("PartialRowWiseAdam", 88),
        ("LAMB", 120),
        ("PartialRowWiseLAMB", 88),
    ],
)
def test_bytes_of_two_rows_of_five_by_optimizer(optimizer: str, expected: int) -> None:
    assert piece_bytes(2, 5, optimizer, 4) == expected


@pytest.mark.parametrize("kind", ["sgd", "adagrad", "rowwise_adagrad"])
def test_the_planned_bytes_are_those_that_are_taken(alone: World, kind: str) -> None:
    model = Model(kind)
    made, _ = sharding.plan(model, config(), alone)
    sharded = sharding.shard(model, list(TABLES), config(), alone, 0, planned=made)
    weights = [value.local_shards()[0].tensor for value in sharded.state_dict().values()]
    states = [
        value.local_shards()[0].tensor for state in sharded.fused_optimizer.state.values() for value in state.values()
    ]
    assert made.num_bytes(0) == sum(tensor.numel() * tensor.element_size() for tensor in [*weights, *states])


@pytest.mark.parametrize("bad", [-1, 51])
def test_an_id_outside_of_its_table_is_never_taken_for_row_0(alone: World, bad: int) -> None:
    sharded = sharding.shard(Model(), list(TABLES), config(), alone, 0)

    def ids(tag: int) -> KeyedJaggedTensor:
        return KeyedJaggedTensor(
            ["query.my_city", "query.my_tag"], torch.tensor([0, tag]), lengths=torch.ones(2, dtype=torch.int32)
        )

    assert [*sharded.module.tables(ids(50)).values().shape] == [1, 24]
    with pytest.raises(RuntimeError, match="Expected idx|out of bounds"):
        sharded.module.tables(ids(bad)).values()


def test_the_table_that_is_printed(two: World) -> None:
    keys = {"by_table": {"city": ["row_wise"], "my_tag": {"sharding_types": ["table_wise"]}}}
    made, _ = sharding.plan(Model("adagrad"), config(**keys), two, max_rows={"city": 4_000})
    lines = [line.split("  ") for line in made.text().splitlines()]
    cells = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    assert cells[0] == ["table", "sharding", "kernel", "ranks", "rows x dim", "bytes", "full", "cost ms by rank"]
    assert cells[1][:-1] == ["city", "row_wise", "fused", "0,1", "1,000 x 16", "128 KB", "512 KB"]
    assert cells[2][:3] == ["tag", "table_wise", "fused"]
    assert cells[2][4:6] == ["51 x 8", "3.26 KB"]
    assert [line[0] for line in cells[3:5]] == ["rank 0", "rank 1"]
    costs = [sum(piece.cost_ms for table in made.tables for piece in table.pieces if piece.rank == r) for r in (0, 1)]
    assert [line[-1] for line in cells[3:5]] == [f"{cost:.3g}" for cost in costs]
    assert all(cost > 0 for cost in costs)
    alone_on = made.tables[1].pieces[0].rank
    assert made.most_bytes(alone_on) == 4 * 64_000 + 3_264


def test_what_a_rank_may_take_is_printed(two: World) -> None:
    made, _ = sharding.plan(Model(), config(sharding_types=["row_wise"], storage_reserve_percent=0.5), two)
    memory = made.memory[0]
    assert memory.capacity_bytes // 2 == pytest.approx(memory.reserved_bytes, abs=1)
    assert 100_000_000 < memory.process_bytes < memory.capacity_bytes
    figures = {"capacity_bytes": 10**9, "process_bytes": 2 * 10**8, "reserved_bytes": 10**8}
    batches = sum(table.pieces[0].batch_bytes for table in made.tables)
    known = made.model_copy(update={"memory": (memory.model_copy(update=figures),)})
    assert known.peak_bytes(0) == 34_936 + batches + 3 * 10**8
    both = readable(34_936 + batches)
    last = f"rank 0: 300 MB of 1 GB at most = tables and batches {both} + process 200 MB + reserve 100 MB"
    assert known.text().splitlines()[-1] == last


def test_sizes_are_read_easily() -> None:
    expected = ["0 B", "999 B", "1 KB", "1 MB", "1.25 GB", "3e+03 TB"]
    assert [readable(size) for size in (0, 999, 1_000, 999_600, 1_250_000_000, 3e15)] == expected


def test_columns_are_cut_where_that_is_allowed(two: World) -> None:
    made, _ = sharding.plan(Model(), config(sharding_types=["column_wise"], min_partition=8), two)
    city, tag = made.tables
    assert [piece.size for piece in city.pieces] == [(1_000, 8)] * 2
    # Every part has row-wise numbers of its own.
    assert [piece.num_bytes for piece in city.pieces] == [1_000 * 9 * 4] * 2
    assert [piece.size for piece in tag.pieces] == [(51, 8)]
    assert config(sharding_types=["column_wise"]).splits_rows
    assert config(by_table={"city": {"sharding_types": ["row_wise", "table_column_wise"]}}).splits_rows
    assert not config(by_table={"city": ["row_wise"]}).splits_rows


def test_the_clusters_figures_come_from_the_config_else_from_the_environment(
    two: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    default = config().settings("cuda")
    assert default == {
        "intra_node_bandwidth": constants.INTRA_NODE_BANDWIDTH,
        "cross_node_bandwidth": constants.CROSS_NODE_BANDWIDTH,
        "storage_reserve_percent": 0.15,
    }
    # gloo is slower by orders of magnitude, which decides between plans.
    on_cpu = config().settings("cpu")
    assert all(on_cpu[name] < 1e-2 * default["intra_node_bandwidth"] for name in [*default][:2])
    for name, value in zip(VARIABLES, ("1000", "200", "0.5"), strict=True):
        monkeypatch.setenv(name, value)
    expected = {"intra_node_bandwidth": 1_000.0, "cross_node_bandwidth": 200.0, "storage_reserve_percent": 0.5}
    assert config().settings("cpu") == config().settings("cuda") == expected
    assert config(storage_reserve_percent=0.25).settings("cpu") == expected | {"storage_reserve_percent": 0.25}
    row_wise = config(sharding_types=["row_wise"])
    slow, _ = sharding.plan(Model(), row_wise, two)
    monkeypatch.setenv(VARIABLES[0], "1e9")
    fast, _ = sharding.plan(Model(), row_wise, two)
    # The two ranks are of one node, so this is what their parts wait for.
    assert slow.tables[0].pieces[0].cost_ms > 10 * fast.tables[0].pieces[0].cost_ms


def test_many_small_tables_lie_whole_on_ranks_that_talk_by_gloo(two: World, monkeypatch: pytest.MonkeyPatch) -> None:
    many = {f"small_{number}": (100_000, 16) for number in range(8)}
    whole, _ = sharding.plan(Model("adagrad", many), config(), two, batch_size=4_096)
    assert {table.sharding_type for table in whole.tables} == {"table_wise"}
    # Half of them each, in their order.
    assert [table.pieces[0].rank for table in whole.tables] == [0] * 4 + [1] * 4
    mixed, _ = sharding.plan(Model("adagrad", {**many, "wide": (100_000, 64)}), config(), two, batch_size=4_096)
    ranks = [table.pieces[0].rank for table in mixed.tables if table.sharding_type == "table_wise"]
    assert ranks[:8] == sorted(ranks[:8])
    # One table alone would leave the other rank idle.
    single, _ = sharding.plan(Model("adagrad", {"large": (100_000, 16)}), config(), two, batch_size=4_096)
    assert single.tables[0].sharding_type == "row_wise"
    monkeypatch.setenv(VARIABLES[0], str(constants.INTRA_NODE_BANDWIDTH))
    cut, _ = sharding.plan(Model("adagrad", many), config(), two, batch_size=4_096)
    assert {table.sharding_type for table in cut.tables} == {"row_wise"}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("INTRA_NODE_BANDWIDTH", "fast", "environment variable INTRA_NODE_BANDWIDTH: 'fast' is not bytes per"),
        ("CROSS_NODE_BANDWIDTH", "0", "CROSS_NODE_BANDWIDTH: '0' is not bytes per millisecond, above 0"),
        ("STORAGE_RESERVE_PERCENT", "15", "STORAGE_RESERVE_PERCENT: '15' is not a share from 0 to below 1"),
    ],
)
def test_a_variable_that_makes_no_sense_is_refused(
    two: World, monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        sharding.plan(Model(), config(), two)


def test_constraints_that_name_nothing_or_that_a_cpu_cannot_meet_are_refused(two: World) -> None:
    message = r"by_table: no table or feature 'cite' \(there are: my_city, my_tag, city, tag\)"
    with pytest.raises(ValueError, match=message):
        sharding.plan(Model(), config(by_table={"cite": ["row_wise"]}), two)
    with pytest.raises(ValidationError, match=r"by_table\.city: fused_uvm is for GPUs; on CPUs there are table_wise"):
        config(by_table={"city": {"compute_kernels": ["fused_uvm"]}})
    with pytest.raises(ValueError, match=r"train\.sharding: grid_shard is for GPUs"):
        sharding.plan(Model(), config(device="auto", sharding_types=["grid_shard"]), two)


def test_a_plan_is_taken_again_where_nothing_has_changed(two: World, tmp_path: Path) -> None:
    row_wise = config(sharding_types=["row_wise"])
    made, _ = sharding.plan(Model(), row_wise, two)
    made.save(tmp_path)
    assert Plan.load(tmp_path) == made
    assert (tmp_path / "plan.txt").read_text() == made.text() + "\n"
    empty = tmp_path / "empty"
    again, message = sharding.plan(Model(), row_wise, two, batch_size=7, earlier=[empty, tmp_path])
    assert again.tables == made.tables
    assert message.startswith(f"that of {tmp_path}, whose tables, ranks and settings are the same")
    grown = Model(tables=TABLES | {"tag": (60, 8)})
    other, message = sharding.plan(grown, row_wise, two, earlier=[tmp_path])
    assert other.tables != made.tables
    assert message.startswith(f"fresh, not that of {tmp_path}: table tag was 51 x 8 RowWiseAdagrad in tables")
    assert "and is 60 x 8" in message


def test_a_plan_that_is_asked_for_serves_or_is_refused(two: World, tmp_path: Path) -> None:
    made, _ = sharding.plan(Model(), config(sharding_types=["row_wise"]), two)
    made.save(tmp_path)
    asked = config(sharding_types=["row_wise"], plan=tmp_path / "plan.json")
    assert sharding.plan(Model(), asked, two)[0].tables == made.tables
    three = dataclasses.replace(two, num_ranks=3, num_local_ranks=3)
    message = (
        r"does not serve here: world size was 2 ranks, 2 on a node and is 3 ranks, 3 on a node\. Bring that back, or"
    )
    with pytest.raises(ValueError, match=message):
        sharding.plan(Model(), asked, three)
    with pytest.raises(ValueError, match=r"nowhere: no plan there; name a training's folder"):
        sharding.plan(Model(), config(plan=tmp_path / "nowhere"), two)
    (tmp_path / "plan.json").write_text('{"num_ranks": 2}')
    with pytest.raises(ValueError, match=r"plan\.json: no plan of this version"):
        sharding.plan(Model(), asked, two)


def test_memory_that_cannot_be_had_is_reported_with_the_plan(two: World) -> None:
    made, _ = sharding.plan(Model(), config(), two)
    message = (
        r"(?s)out of memory: can't allocate memory: you tried to allocate \d+ bytes.*city .*lower train\.batch_size"
    )
    with pytest.raises(ValueError, match=message) as refused, sizes.naming_memory(made):
        torch.empty(1 << 60, dtype=torch.int8)
    assert made.text() in str(refused.value)
    with pytest.raises(ValueError, match="out of memory: CUDA out of memory. Tried"), sizes.naming_memory(made):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nMore.")
    with pytest.raises(RuntimeError, match="something else"), sizes.naming_memory(made):
        raise RuntimeError("something else")


def test_tables_that_do_not_fit_are_listed(two: World) -> None:
    huge = Model("adagrad", {"city": (10**12, 16), "tag": (51, 8)})
    with pytest.raises(ValueError, match=r"(?s)no plan puts these tables on 2 ranks") as refused:
        sharding.plan(huge, config(), two)
    lines = str(refused.value).splitlines()
    assert lines[2].split() == ["city", "1,000,000,000,000", "x", "16", "Adagrad", "128", "TB"]
    assert lines[3].split() == ["tag", "51", "x", "8", "Adagrad", "3.26", "KB"]
    assert "allow row_wise in train.sharding" in str(refused.value)
