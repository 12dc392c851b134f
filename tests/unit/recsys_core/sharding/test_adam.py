"""Adam over the rows that a step touches, on a CPU, against torch's SparseAdam: these rows alone learn and decay."""

from typing import Any

import pytest
import torch
from torch import nn
from torchrec import (
    DataType,
    EmbeddingBagCollection,
    EmbeddingBagConfig,
    EmbeddingCollection,
    EmbeddingConfig,
    KeyedJaggedTensor,
    PoolingType,
)

from recsys_core import distributed, optim, sharding
from recsys_core.optim import DenseConfig, SparseConfig

# Two features of one table, between tables of other widths; every table has rows that no batch asks for.
ROWS, DIMS = {"user": 20, "item": 30, "day": 9}, {"user": 4, "item": 8, "day": 12}
FEATURES = {"user": ["user"], "item": ["clicked", "bought"], "day": ["day"]}
TABLE_OF = {feature: table for table, features in FEATURES.items() for feature in features}
BATCH, STEPS, RATE = 16, 6, 0.05


@pytest.fixture(scope="module")
def world():
    with distributed.world("cpu") as world:
        yield world


class Read(nn.Module):
    """Tables, and the sum of what they give times numbers that differ by place, so that every gradient differs."""

    def __init__(self, tables: nn.Module) -> None:
        super().__init__()
        self.tables, self.pooled = tables, isinstance(tables, EmbeddingBagCollection)
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, sparse: KeyedJaggedTensor) -> torch.Tensor:
        found = self.tables(sparse)
        if self.pooled:
            values = found.values()
        else:
            values = torch.cat([found[feature].values().flatten() for feature in TABLE_OF])
        return (torch.sin(torch.arange(values.numel())) * values.flatten().tanh()).sum() * self.scale.sum()


def _ids(number: int) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Return ids and lengths by feature: bags of 0 to 3, of the lower half of the rows, some ids more than once."""
    rng = torch.Generator().manual_seed(number)
    made = {}
    for feature, table in TABLE_OF.items():
        lengths = torch.randint(0, 4, (BATCH,), generator=rng)
        if number == 3 and table == "day":
            lengths.zero_()
        made[feature] = torch.randint(0, ROWS[table] // 2, (int(lengths.sum()),), generator=rng), lengths
    return made


def _jagged(ids: dict[str, tuple[torch.Tensor, torch.Tensor]], weights: torch.Tensor | None = None) -> Any:
    values, lengths = zip(*ids.values(), strict=True)
    return KeyedJaggedTensor(list(ids), torch.cat(values), lengths=torch.cat(lengths).int(), weights=weights)


def _tables(dtype: DataType, *, pooled: bool, weighted: bool = False) -> nn.Module:
    meta = torch.device("meta")
    if pooled:
        configs = [
            EmbeddingBagConfig(
                name=table,
                num_embeddings=ROWS[table],
                embedding_dim=DIMS[table],
                feature_names=FEATURES[table],
                pooling=PoolingType.SUM,
                data_type=dtype,
            )
            for table in ROWS
        ]
        return EmbeddingBagCollection(tables=configs, device=meta, is_weighted=weighted)
    return EmbeddingCollection(
        tables=[
            EmbeddingConfig(
                name=table, num_embeddings=ROWS[table], embedding_dim=8, feature_names=FEATURES[table], data_type=dtype
            )
            for table in ROWS
        ],
        device=meta,
    )


class Trained:
    """A sharded collection with its optimizer."""

    def __init__(self, world: distributed.World, section: dict[str, Any], tables: nn.Module) -> None:
        sparse = SparseConfig.model_validate(section | {"learning_rate": RATE})
        optim.fuse(sparse, tables, world.device)
        self.model = sharding.shard(Read(tables), list(ROWS), sharding.Config(), world, 7)
        self.optimizer = optim.Optimizer(sparse, DenseConfig(kind="sgd", learning_rate=1e-30), self.model)
        self.number = 0

    def step(self, sparse: KeyedJaggedTensor) -> None:
        self.optimizer.begin(self.number, 0)
        self.optimizer.backward(self.model(sparse))
        self.optimizer.end()
        self.number += 1

    def weights(self) -> dict[str, torch.Tensor]:
        found = self.model.state_dict()
        return {
            name.split(".")[-2]: w.local_shards()[0].tensor for name, w in found.items() if name.endswith(".weight")
        }

    def moments(self, table: str) -> list[torch.Tensor]:
        state = self.optimizer.state()["optimizer"]["state"]
        (own,) = (kept for name, kept in state.items() if f".{table}." in name)
        assert [name.rpartition(".")[2] for name in own] == ["momentum1", "exp_avg_sq"]
        return [value.local_shards()[0].tensor for value in own.values()]


class Reference:
    """The same with torch's sparse gradients and SparseAdam, which knows no decay: touched rows are shrunk before."""

    def __init__(self, start: dict[str, torch.Tensor], decay: float, **options: Any) -> None:
        self.weights = {name: nn.Parameter(weight.clone().float()) for name, weight in start.items()}
        self.adam, self.decay = torch.optim.SparseAdam(self.weights.values(), lr=RATE, **options), decay

    def step(self, ids: dict[str, tuple[torch.Tensor, torch.Tensor]], *, pooled: bool, weights: Any = None) -> None:
        found, place = [], 0
        for feature, (values, lengths) in ids.items():
            rows = nn.functional.embedding(values, self.weights[TABLE_OF[feature]], sparse=True)
            if weights is not None:
                rows = rows * weights[place : place + len(values), None]
            place += len(values)
            found.append(torch.stack([part.sum(dim=0) for part in rows.split(lengths.tolist())]) if pooled else rows)
        values = torch.cat(found, dim=1).flatten() if pooled else torch.cat([one.flatten() for one in found])
        self.adam.zero_grad()
        (torch.sin(torch.arange(values.numel())) * values.tanh()).sum().backward()
        with torch.no_grad():
            for weight in self.weights.values():
                assert weight.grad is not None
                touched = weight.grad.coalesce().indices()[0]
                weight[touched] *= 1 - RATE * self.decay
        self.adam.step()


CASES = [
    pytest.param({"kind": "adam"}, {}, True, id="adam"),
    pytest.param({"kind": "adam", "betas": [0.5, 0.7]}, {"betas": (0.5, 0.7)}, False, id="unpooled"),
    pytest.param({"kind": "adamw", "weight_decay": 0.3}, {}, True, id="adamw"),
    pytest.param({"kind": "adamw", "weight_decay": 0.3}, {}, False, id="adamw-unpooled"),
]


@pytest.mark.parametrize(("section", "options", "pooled"), CASES)
def test_touched_rows_learn_as_with_torchs_sparse_adam_and_the_others_stay(world, section, options, pooled):
    trained = Trained(world, section, _tables(DataType.FP32, pooled=pooled))
    start = {name: weight.clone() for name, weight in trained.weights().items()}
    reference = Reference(start, section.get("weight_decay", 0.0), **options)
    for number in range(STEPS):
        trained.step(_jagged(_ids(number)))
        reference.step(_ids(number), pooled=pooled)
        with torch.no_grad():
            trained.model(_jagged(_ids(99)))  # Looking does not count as a step.
    for table, weight in trained.weights().items():
        torch.testing.assert_close(weight, reference.weights[table].detach(), rtol=1e-5, atol=1e-6)
        untouched = slice(ROWS[table] // 2, None)
        assert torch.equal(weight[untouched], start[table][untouched])
        for mine, torchs in zip(trained.moments(table), ("exp_avg", "exp_avg_sq"), strict=True):
            expected = reference.adam.state[reference.weights[table]][torchs]
            torch.testing.assert_close(mine, expected, rtol=1e-5, atol=1e-7)
            assert not mine[untouched].any()


def test_weighted_ids_get_their_share_of_the_gradient(world):
    trained = Trained(world, {"kind": "adam"}, _tables(DataType.FP32, pooled=True, weighted=True))
    reference = Reference(trained.weights(), 0.0)
    for number in range(STEPS):
        ids = _ids(number)
        weights = torch.rand(sum(len(one) for one, _ in ids.values()), generator=torch.Generator().manual_seed(number))
        trained.step(_jagged(ids, weights))
        reference.step(ids, pooled=True, weights=weights)
    for table, weight in trained.weights().items():
        torch.testing.assert_close(weight, reference.weights[table].detach(), rtol=1e-5, atol=3e-5)


def test_a_gradient_is_cut_before_ids_share_it(world):
    trained = Trained(world, {"kind": "adam", "max_gradient": 0.25}, _tables(DataType.FP32, pooled=True))
    nothing = torch.zeros(BATCH).long()
    ids = {feature: (torch.empty(0).long(), nothing) for feature in TABLE_OF}
    # Row 4 of `user` stands twice in the first bag, once in the second: of gradients beyond the limit it gets 3 limits.
    ids["user"] = torch.tensor([4, 4, 4]), torch.tensor([2, 1] + [0] * (BATCH - 2))
    trained.optimizer.begin(0, 0)
    trained.optimizer.backward(trained.model.module.tables(_jagged(ids)).values()[:2, :4].sum() * 10)
    trained.optimizer.end()
    assert torch.allclose(trained.moments("user")[0][4], torch.full((4,), 0.1 * 3 * 0.25))
    assert not trained.moments("item")[0].any()


def test_weights_of_float16_have_moments_of_float32(world):
    trained = Trained(world, {"kind": "adamw", "weight_decay": 0.1}, _tables(DataType.FP16, pooled=True))
    reference = Reference(trained.weights(), 0.1)
    for number in range(STEPS):
        trained.step(_jagged(_ids(number)))
        reference.step(_ids(number), pooled=True)
    for table, weight in trained.weights().items():
        assert weight.dtype == torch.float16
        assert trained.moments(table)[0].dtype == torch.float32
        torch.testing.assert_close(weight.float(), reference.weights[table].detach(), rtol=0, atol=3e-3)


def test_a_state_taken_over_goes_on_as_the_one_that_never_stopped(world):
    section = {"kind": "adamw", "weight_decay": 0.1}
    whole, resumed = (Trained(world, section, _tables(DataType.FP32, pooled=True)) for _ in range(2))
    for number in range(3):
        whole.step(_jagged(_ids(number)))
    resumed.number = whole.number
    for table, weight in resumed.weights().items():
        weight.copy_(whole.weights()[table])
        for mine, other in zip(resumed.moments(table), whole.moments(table), strict=True):
            mine.copy_(other)
    state = resumed.optimizer.state()
    state["optimizer"]["num_batches"].copy_(whole.optimizer.state()["optimizer"]["num_batches"])
    resumed.optimizer.restored(state)
    for number in range(3, STEPS):
        whole.step(_jagged(_ids(number)))
        resumed.step(_jagged(_ids(number)))
    for table, weight in whole.weights().items():
        assert torch.equal(weight, resumed.weights()[table])
