"""The scale of the loss: tables and layers learn as without it, or not at all from a batch that overflows."""

from typing import Any

import pytest
import torch
from torch import nn
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor, PoolingType

from recsys_core import distributed, optim, sharding
from recsys_core.optim import DenseConfig, Scaler, SparseConfig, scaling

WEIGHT = "tables.embedding_bags.city.weight"


class Small(nn.Module):
    def __init__(self, tables: nn.Module) -> None:
        super().__init__()
        self.tables = tables
        self.head = nn.Linear(4, 1)

    def forward(self, sparse: KeyedJaggedTensor) -> torch.Tensor:
        return self.head(self.tables(sparse).values()).squeeze(1)


class Training:
    """A table and a layer; `multiplied` stands for what overflows."""

    def __init__(self, world: distributed.World, *, scaled: bool, still: bool = False, **dense: Any) -> None:
        torch.manual_seed(3)
        city = EmbeddingBagConfig(
            name="city", num_embeddings=6, embedding_dim=4, feature_names=["city"], pooling=PoolingType.SUM
        )
        tables = EmbeddingBagCollection(device=torch.device("meta"), tables=[city])
        model = Small(tables)
        sparse = SparseConfig(learning_rate=0.1, by_table={"city": 0.0} if still else {})
        optim.fuse(sparse, tables, world.device)
        self.model = sharding.shard(model, ["city"], sharding.Config(device="cpu"), world, 0)
        self.scaler = Scaler([model.head], world) if scaled else None
        config = DenseConfig.model_validate({"kind": "adam", "learning_rate": 0.1} | dense)
        self.optimizer = optim.Optimizer(sparse, config, self.model, self.scaler)

    def step(self, number: int, multiplied: float = 1.0) -> None:
        rng = torch.Generator().manual_seed(number)
        ids, label = torch.randint(0, 6, (8,), generator=rng), torch.randn(8, generator=rng)
        sparse = KeyedJaggedTensor(keys=["city"], values=ids, lengths=torch.ones(8, dtype=torch.int32))
        self.optimizer.begin(number, 0)
        self.optimizer.backward(((self.model(sparse) - label) ** 2).mean() * multiplied)
        self.optimizer.end()

    def weights(self) -> dict[str, torch.Tensor]:
        dense = {name: weight.detach().clone() for name, weight in self.optimizer.parameters.items()}
        return dense | {WEIGHT: self.model.state_dict()[WEIGHT].local_shards()[0].tensor.clone()}


@pytest.fixture(scope="module")
def world():
    with distributed.world("cpu") as world:
        yield world


def test_with_a_scale_everything_learns_as_without(world):
    options = {"accumulate_batches": 2, "max_gradient_norm": 0.1}
    plain, scaled = (Training(world, scaled=scaled, **options) for scaled in (False, True))
    for number in range(5):
        plain.step(number)
        scaled.step(number)
        torch.testing.assert_close(scaled.weights(), plain.weights(), rtol=1e-5, atol=1e-6)
        norms = [float(one.optimizer.norms()["gradient_norm"]) for one in (plain, scaled)]
        assert norms[0] == pytest.approx(norms[1], rel=1e-4)
    assert scaled.optimizer.learning_rates()["gradient_scale"] == 65_536
    assert "gradient_scale" not in plain.optimizer.learning_rates()


def test_a_batch_that_overflows_changes_nothing_but_the_scale(world):
    training, undisturbed = (Training(world, scaled=True) for _ in range(2))
    training.step(0)
    undisturbed.step(0)
    before = training.weights()
    for multiplied in (float("inf"), float("nan"), 1e36):
        training.step(1, multiplied)
    assert all(torch.equal(weight, before[name]) for name, weight in training.weights().items())
    assert training.scaler.scale == 65_536 / 8
    assert float(training.optimizer.norms()["gradient_norm"]) == 0
    training.step(2)
    undisturbed.step(2)
    # Adam has not counted what it did not see.
    torch.testing.assert_close(training.weights(), undisturbed.weights(), rtol=1e-5, atol=1e-6)


def test_an_update_is_the_mean_of_the_batches_after_an_overflow(world):
    training, expected = (Training(world, scaled=True, still=True, accumulate_batches=n) for n in (3, 2))
    for number, multiplied in ((0, 1.0), (1, float("inf")), (2, 1.0)):
        training.step(number, multiplied)
    expected.step(2)
    expected.optimizer.finish()
    found = training.weights()
    torch.testing.assert_close(found, expected.weights(), rtol=1e-5, atol=1e-6)
    assert not torch.equal(found["head.weight"], Training(world, scaled=True).weights()["head.weight"])
    for number in range(3, 6):
        training.step(number, float("inf"))
    assert all(torch.equal(weight, found[name]) for name, weight in training.weights().items())
    assert training.scaler.scale == 65_536 / 2**4


def test_one_rank_s_overflow_is_every_rank_s(world):
    class Two(distributed.World):
        """A world whose other rank has an overflow."""

        def sum(self, values: torch.Tensor) -> torch.Tensor:
            return values + 1

    training = Training(world, scaled=True)
    before = training.weights()
    training.scaler._world = Two(0, 2, 2, torch.device("cpu"))
    training.step(0)
    assert all(torch.equal(weight, before[name]) for name, weight in training.weights().items())


def test_the_scale_grows_after_many_finite_batches_and_is_in_the_state(world, monkeypatch):
    monkeypatch.setattr(scaling, "_GROW_AFTER", 3)
    training = Training(world, scaled=True)
    for number in range(5):
        training.step(number)
    state = training.optimizer.state()["training"]
    assert (float(state["gradient_scale"]), int(state["num_finite"])) == (2 * 65_536, 2)
    # A checkpoint is read into these tensors.
    state["gradient_scale"].fill_(8)
    assert training.scaler.scale == 8


def test_gradients_that_are_never_finite_end_the_training(world):
    training = Training(world, scaled=True)
    # From 2**16 to 2**-10.
    for number in range(26):
        training.step(number, float("inf"))
    with pytest.raises(ValueError, match=r"train\.precision: .* not finite even of a loss scaled by 0\.000488; set"):
        training.step(26, float("inf"))
