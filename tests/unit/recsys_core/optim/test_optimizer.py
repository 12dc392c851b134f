"""A sharded model's updates against torch's own optimizers, and against arithmetic where torch has none."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor, PoolingType

from recsys_core import distributed, optim, sharding
from recsys_core.optim import DenseConfig, SparseConfig

ROWS, DIM, BATCH = {"city": 6, "tag": 5}, 4, 8
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="fbgemm has these kernels for GPUs only")


class Small(nn.Module):
    """Two tables and a layer."""

    def __init__(self, tables: nn.Module) -> None:
        super().__init__()
        self.tables = tables
        self.head = nn.Linear(2 * DIM, 1)

    def forward(self, sparse: KeyedJaggedTensor) -> torch.Tensor:
        return self.head(self.tables(sparse).values()).squeeze(1)


class Whole(nn.Module):
    """The same in plain torch."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleDict({name: nn.EmbeddingBag(rows, DIM, mode="sum") for name, rows in ROWS.items()})
        self.head = nn.Linear(2 * DIM, 1)

    def forward(self, sparse: KeyedJaggedTensor) -> torch.Tensor:
        inputs = sparse.to_dict()
        pooled = [bag(inputs[n].values(), inputs[n].offsets()[:-1]) for n, bag in self.tables.items()]
        return self.head(torch.cat(pooled, dim=1)).squeeze(1)

    def table(self, name: str) -> torch.Tensor:
        return self.tables[name].weight  # type: ignore[return-value]


class Both:
    """A sharded model with its optimizer, and the whole one with the same start weights."""

    def __init__(self, world: distributed.World, sparse: dict[str, Any], dense: dict[str, Any]) -> None:
        torch.manual_seed(3)
        tables = EmbeddingBagCollection(
            device=torch.device("meta"),
            tables=[
                EmbeddingBagConfig(
                    name=name, num_embeddings=rows, embedding_dim=DIM, feature_names=[name], pooling=PoolingType.SUM
                )
                for name, rows in ROWS.items()
            ],
        )
        model = Small(tables)
        self.device = world.device
        self.sparse, self.dense = SparseConfig.model_validate(sparse), DenseConfig.model_validate(dense)
        optim.fuse(self.sparse, tables, world.device)
        self.model = sharding.shard(model, list(ROWS), sharding.Config(), world, 0)
        self.optimizer = optim.Optimizer(self.sparse, self.dense, self.model)
        self.whole = Whole().to(world.device)
        with torch.no_grad():
            for name in ROWS:
                self.whole.table(name).copy_(self.table(name))
            for name, weight in self.whole.head.named_parameters():
                weight.copy_(self.optimizer.parameters[f"head.{name}"])

    def table(self, name: str) -> torch.Tensor:
        return self.model.state_dict()[f"tables.embedding_bags.{name}.weight"].local_shards()[0].tensor

    def batch(self, number: int) -> tuple[KeyedJaggedTensor, torch.Tensor]:
        """Every row of every table is in it, once or twice."""
        rng = torch.Generator().manual_seed(number)
        values = [torch.cat([torch.randperm(rows, generator=rng), torch.zeros(1).long()]) for rows in ROWS.values()]
        lengths = [torch.bincount(torch.arange(len(ids)) % BATCH, minlength=BATCH) for ids in values]
        sparse = KeyedJaggedTensor(keys=list(ROWS), values=torch.cat(values), lengths=torch.cat(lengths).int())
        return sparse.to(self.device), torch.randn(BATCH, generator=rng).to(self.device)

    def step(self, number: int, epoch: int = 0) -> None:
        sparse, label = self.batch(number)
        self.optimizer.begin(number, epoch)
        self.optimizer.backward(((self.model(sparse) - label) ** 2).mean())
        self.optimizer.end()

    def gradients(self, number: int) -> None:
        """Add the batch's gradients to the whole model's."""
        sparse, label = self.batch(number)
        ((self.whole(sparse) - label) ** 2).mean().backward()

    def same(self) -> None:
        for name in ROWS:
            torch.testing.assert_close(self.table(name), self.whole.table(name).detach(), rtol=1e-5, atol=1e-6)
        for name, weight in self.whole.head.named_parameters():
            torch.testing.assert_close(self.optimizer.parameters[f"head.{name}"], weight, rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def world():
    """The only rank."""
    with distributed.world("auto") as world:
        yield world


class RowWiseAdagrad:
    """Duchi et al. 2011 with one sum of squares for each row, as fbgemm has it."""

    def __init__(self, weights: list[torch.Tensor], lr: float, start: float = 0.0, eps: float = 1e-8) -> None:
        self.weights, self.lr, self.eps = weights, lr, eps
        self.sums = [torch.full((len(weight), 1), start, device=weight.device) for weight in weights]

    def step(self) -> None:
        with torch.no_grad():
            for weight, total in zip(self.weights, self.sums, strict=True):
                assert weight.grad is not None
                total.add_((weight.grad**2).mean(dim=1, keepdim=True))
                weight.sub_(self.lr * weight.grad / (total.sqrt() + self.eps))


class PartialRowWiseAdam:
    """Kingma and Ba 2015 with one second moment for each row."""

    def __init__(self, weights: list[torch.Tensor], lr: float, betas: tuple[float, float] = (0.9, 0.999)) -> None:
        self.weights, self.lr, self.betas, self.steps = weights, lr, betas, 0
        self.first = [torch.zeros_like(weight) for weight in weights]
        self.second = [torch.zeros(len(weight), 1, device=weight.device) for weight in weights]

    def step(self) -> None:
        self.steps += 1
        (b1, b2), n = self.betas, self.steps
        with torch.no_grad():
            for weight, first, second in zip(self.weights, self.first, self.second, strict=True):
                assert weight.grad is not None
                first.lerp_(weight.grad, 1 - b1)
                second.lerp_((weight.grad**2).mean(dim=1, keepdim=True), 1 - b2)
                weight.sub_(self.lr * (first / (1 - b1**n)) / ((second / (1 - b2**n)).sqrt() + 1e-8))


SPARSE: list[Any] = [
    ({"kind": "sgd"}, torch.optim.SGD, {}),
    ({"kind": "adagrad", "eps": 1e-6}, torch.optim.Adagrad, {"eps": 1e-6}),
    (
        {"kind": "adagrad", "initial_accumulator": 0.1},
        torch.optim.Adagrad,
        {"initial_accumulator_value": 0.1, "eps": 1e-8},
    ),
    ({"kind": "rowwise_adagrad"}, RowWiseAdagrad, {}),
    ({"kind": "rowwise_adagrad", "initial_accumulator": 0.5, "eps": 0.1}, RowWiseAdagrad, {"start": 0.5, "eps": 0.1}),
    ({"kind": "adam"}, torch.optim.Adam, {}),
    ({"kind": "adam", "betas": [0.5, 0.8], "eps": 0.01}, torch.optim.Adam, {"betas": (0.5, 0.8), "eps": 0.01}),
    ({"kind": "adamw", "weight_decay": 0.1}, torch.optim.AdamW, {"weight_decay": 0.1}),
    pytest.param({"kind": "partial_rowwise_adam"}, PartialRowWiseAdam, {}, marks=needs_gpu),
]


@pytest.mark.parametrize(("section", "reference", "options"), SPARSE)
def test_tables_learn_as_the_reference_does(
    world: distributed.World, section: dict[str, Any], reference: Callable[..., Any], options: dict[str, Any]
) -> None:
    both = Both(world, section | {"learning_rate": 0.1}, {"kind": "sgd", "learning_rate": 0.05})
    tables = reference([both.whole.table(name) for name in ROWS], lr=0.1, **options)
    head = torch.optim.SGD(both.whole.head.parameters(), lr=0.05)
    for number in range(4):
        both.step(number)
        both.whole.zero_grad()
        both.gradients(number)
        tables.step()
        head.step()
    both.same()


def test_each_examples_gradient_of_a_table_is_cut_element_by_element(world: distributed.World) -> None:
    both = Both(world, {"kind": "sgd", "learning_rate": 0.1, "max_gradient": 0.05}, {"kind": "sgd"})
    both.step(0)
    cut = []

    def clamp(_module: nn.Module, _inputs: Any, pooled: torch.Tensor) -> None:
        pooled.register_hook(lambda gradient: cut.append(gradient.abs().max()) or gradient.clamp(-0.05, 0.05))

    for bag in both.whole.tables.values():
        bag.register_forward_hook(clamp)
    both.gradients(0)
    assert max(cut) > 0.05
    torch.optim.SGD(both.whole.tables.parameters(), lr=0.1).step()
    torch.optim.SGD(both.whole.head.parameters(), lr=0.001).step()
    both.same()


def test_tables_have_learning_rates_of_their_own_under_one_schedule(world: distributed.World) -> None:
    schedule = {"kind": "manual", "boundaries": [1, 2], "shares": [0.5, 0]}
    section = {"kind": "sgd", "learning_rate": 0.1, "by_table": {"tag": 0.3}, "schedule": schedule}
    both = Both(
        world, section, {"kind": "sgd", "learning_rate": 0.02, "schedule": {"kind": "constant", "warmup_steps": 2}}
    )
    for number, (table_share, head_share) in enumerate([(1.0, 0.5), (0.5, 1.0), (0.0, 1.0)]):
        both.step(number)
        both.whole.zero_grad()
        both.gradients(number)
        for rate, weights in (
            (0.1 * table_share, [both.whole.table("city")]),
            (0.3 * table_share, [both.whole.table("tag")]),
            (0.02 * head_share, list(both.whole.head.parameters())),
        ):
            torch.optim.SGD(weights, lr=rate).step()
        both.same()
    assert both.optimizer.learning_rates() == {"sparse_learning_rate": 0.0, "dense_learning_rate": 0.02}


def test_a_table_of_learning_rate_0_stays_as_it_is(world: distributed.World) -> None:
    both = Both(world, {"by_table": {"tag": 0}, "initial_accumulator": 0.1}, {})
    before = {name: both.table(name).clone() for name in ROWS}
    for number in range(3):
        both.step(number)
    assert torch.equal(before["tag"], both.table("tag"))
    assert not torch.equal(before["city"], both.table("city"))
    assert [key for key, state in both.optimizer.state()["optimizer"]["state"].items() if "tag" in key and state] == []


DENSE: list[Any] = [
    ({"kind": "sgd", "momentum": 0.9, "nesterov": True}, torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    ({"kind": "adagrad", "initial_accumulator_value": 0.1}, torch.optim.Adagrad, {"initial_accumulator_value": 0.1}),
    ({"kind": "adam", "betas": (0.8, 0.9)}, torch.optim.Adam, {"betas": (0.8, 0.9)}),
    ({"kind": "adam", "weight_decay": 0.1}, torch.optim.Adam, {"weight_decay": 0.1}),
    ({"kind": "adamw", "weight_decay": 0.1, "eps": 1e-6}, torch.optim.AdamW, {"weight_decay": 0.1, "eps": 1e-6}),
    ({"kind": "adadelta", "rho": 0.8}, torch.optim.Adadelta, {"rho": 0.8}),
    ({"kind": "rmsprop", "alpha": 0.9, "momentum": 0.5}, torch.optim.RMSprop, {"alpha": 0.9, "momentum": 0.5}),
]


@pytest.mark.parametrize(("section", "reference", "options"), DENSE)
def test_the_rest_learns_as_torch_does(
    world: distributed.World, section: dict[str, Any], reference: Any, options: dict[str, Any]
) -> None:
    both = Both(world, {"kind": "sgd", "learning_rate": 0.1}, section | {"learning_rate": 0.03})
    tables = torch.optim.SGD(both.whole.tables.parameters(), lr=0.1)
    head = reference(both.whole.head.parameters(), lr=0.03, **options)
    for number in range(4):
        both.step(number)
        both.whole.zero_grad()
        both.gradients(number)
        tables.step()
        head.step()
    both.same()


def test_groups_take_the_first_pattern_that_matches(world: distributed.World) -> None:
    groups = [{"pattern": "*.bias", "learning_rate": 0.5}, {"pattern": "head.*", "weight_decay": 0.1}]
    both = Both(world, {"kind": "sgd", "learning_rate": 0.1}, {"kind": "sgd", "learning_rate": 0.02, "groups": groups})
    head = both.whole.head
    reference = torch.optim.SGD(
        [{"params": [head.bias], "lr": 0.5}, {"params": [head.weight], "weight_decay": 0.1}], lr=0.02
    )
    both.step(0)
    both.gradients(0)
    reference.step()
    torch.optim.SGD(both.whole.tables.parameters(), lr=0.1).step()
    both.same()


def test_the_gradient_is_cut_to_a_length_and_reported_as_it_was(world: distributed.World) -> None:
    both = Both(world, {"kind": "sgd"}, {"kind": "sgd", "learning_rate": 1.0, "max_gradient_norm": 0.01})
    before = {name: weight.detach().clone() for name, weight in both.optimizer.parameters.items()}
    both.step(0)
    both.gradients(0)
    moved = torch.cat([(weight - before[name]).flatten() for name, weight in both.optimizer.parameters.items()])
    length = torch.cat([weight.grad.flatten() for weight in both.whole.head.parameters()]).norm()  # type: ignore[union-attr]
    assert float(moved.detach().norm()) == pytest.approx(0.01, rel=1e-3)
    norms = both.optimizer.norms()
    assert float(norms["gradient_norm"]) == pytest.approx(float(length), rel=1e-5)
    weights = torch.cat([weight.flatten() for weight in both.optimizer.parameters.values()])
    assert float(norms["weight_norm"]) == pytest.approx(float(weights.detach().norm()), rel=1e-5)


def test_norms_without_a_cut_are_those_of_the_last_gradient(world: distributed.World) -> None:
    both = Both(world, {"kind": "sgd"}, {"kind": "sgd"})
    both.step(0)
    both.gradients(0)
    length = torch.cat([weight.grad.flatten() for weight in both.whole.head.parameters()]).norm()  # type: ignore[union-attr]
    assert float(both.optimizer.norms()["gradient_norm"]) == pytest.approx(float(length), rel=1e-5)


def test_three_batches_make_one_update_and_what_is_left_over_another(world: distributed.World) -> None:
    """Tables stand still here, so that the whole model sees the same batches."""
    still = {"kind": "sgd", "by_table": dict.fromkeys(ROWS, 0)}
    both = Both(world, still, {"kind": "adam", "learning_rate": 0.1, "accumulate_batches": 3})
    reference = torch.optim.Adam(both.whole.head.parameters(), lr=0.1)
    for number in range(5):
        both.step(number)
        both.gradients(number)
        if number == 2:
            for weight in both.whole.head.parameters():
                assert weight.grad is not None
                weight.grad /= 3
            reference.step()
            both.whole.zero_grad()
    both.optimizer.finish()
    for weight in both.whole.head.parameters():
        assert weight.grad is not None
        weight.grad /= 2
    reference.step()
    both.same()
    both.optimizer.finish()
    both.same()


@pytest.mark.parametrize("kind", ["rowwise_adagrad", "adagrad"])
def test_rows_that_were_ever_updated_are_counted(world: distributed.World, kind: str) -> None:
    both = Both(world, {"kind": kind, "initial_accumulator": 0.1}, {})
    assert both.optimizer.touched_rows() == {"city": (0, 6), "tag": (0, 5)}
    lengths = torch.tensor([1, 0, 2, 0, 0, 0, 0, 0] + [1] + [0] * 7, dtype=torch.int32)
    sparse = KeyedJaggedTensor(keys=list(ROWS), values=torch.tensor([1, 3, 1, 4]), lengths=lengths).to(world.device)
    both.optimizer.begin(0, 0)
    both.optimizer.backward(both.model(sparse).sum())
    both.optimizer.end()
    assert both.optimizer.touched_rows() == {"city": (2, 6), "tag": (1, 5)}
    assert Both(world, {"kind": "sgd"}, {}).optimizer.touched_rows() == {}


def test_a_schedule_counts_updates_and_not_batches(world: distributed.World) -> None:
    schedule = {"kind": "manual", "boundaries": [1], "shares": [0.5]}
    both = Both(world, {}, {"learning_rate": 0.1, "accumulate_batches": 2, "schedule": schedule})
    rates = []
    for number in range(4):
        both.step(number)
        rates.append(both.optimizer.learning_rates()["dense_learning_rate"])
    assert rates == [0.1, 0.1, 0.05, 0.05]


def test_the_average_moves_by_its_decay(world: distributed.World) -> None:
    both = Both(world, {"kind": "sgd"}, {"kind": "sgd", "learning_rate": 0.1, "average_decay": 0.75})
    expected = {name: weight.detach().clone() for name, weight in both.optimizer.parameters.items()}
    for number in range(3):
        both.step(number)
        for name, weight in both.optimizer.parameters.items():
            expected[name] = 0.75 * expected[name] + 0.25 * weight.detach()
    for name, average in both.optimizer.state()["average"].items():
        torch.testing.assert_close(average, expected[name])


def test_state_taken_back_goes_on_as_if_never_stopped(world: distributed.World) -> None:
    dense = {"accumulate_batches": 2, "average_decay": 0.9, "max_gradient_norm": 0.1}
    straight, stopped = (Both(world, {}, dense) for _ in range(2))
    for number in range(3):
        straight.step(number)
    kept = copy.deepcopy(straight.optimizer.state()["training"]), copy.deepcopy(straight.optimizer.state()["average"])
    state = stopped.optimizer.state()
    stopped.model.load_state_dict(straight.model.state_dict())
    for name, weight in stopped.optimizer.parameters.items():
        assert weight.grad is not None
        weight.grad.copy_(kept[0]["gradients"][name])
        state["average"][name].copy_(kept[1][name])
    for name in ("num_accumulated", "num_held"):
        state["training"][name].copy_(kept[0][name])
    state["optimizer"]["num_batches"].copy_(straight.optimizer.state()["optimizer"]["num_batches"])
    stopped.optimizer.restored({**state, "optimizer": straight.optimizer.state()["optimizer"]})
    for number in range(3, 6):
        straight.step(number)
        stopped.step(number)
    for name in ROWS:
        assert torch.equal(straight.table(name), stopped.table(name))
    left, right = straight.optimizer.state()["average"], stopped.optimizer.state()["average"]
    assert all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({"kind": "sgd", "eps": 1e-3}, "eps: sgd has no such option; it takes none of the options"),
        ({"kind": "adagrad", "weight_decay": 0.1}, "weight_decay: adagrad has no such option; it takes eps, initial"),
        ({"kind": "adam", "weight_decay": 0.1}, "weight_decay: adam has no such option"),
        ({"by_table": {"city": -1}}, "the learning rate of city is below 0"),
        ({"kind": "adam", "betas": [0.9, 1.5]}, r"betas: \[0.9, 1.5\] are not in"),
    ],
)
def test_what_the_kernels_of_a_kind_do_not_take_is_refused(section: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValidationError, match=expected):
        SparseConfig.model_validate(section)


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({"kind": "adam", "momentum": 0.9}, "momentum: adam has no such option; it takes eps, betas"),
        ({"kind": "sgd", "nesterov": True}, "nesterov: needs a momentum"),
        ({"betas": [1.0, 0.5]}, "are not in"),
    ],
)
def test_what_torchs_optimizer_does_not_take_is_refused(section: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValidationError, match=expected):
        DenseConfig.model_validate(section)


def test_kernels_that_cpus_do_not_have_are_refused_before_the_run() -> None:
    optim.check(SparseConfig(kind="lamb"), "cuda")
    optim.check(SparseConfig(kind="adamw", weight_decay=0.1), "cpu")
    with pytest.raises(ValueError, match=r"kind: lamb has no fused kernel for CPUs; use one of rowwise_adagrad.*adamw"):
        optim.check(SparseConfig(kind="lamb"), "cpu")
    with pytest.raises(ValueError, match=r"weight_decay: the kernel for CPUs of rowwise_adagrad ignores it"):
        optim.check(SparseConfig(weight_decay=0.1), "cpu")


@pytest.mark.parametrize(
    ("sparse", "dense", "expected"),
    [
        ({"by_table": {"town": 0.1}}, {}, "by_table: no table town; there are city, tag"),
        (
            {},
            {"groups": [{"pattern": "tower.*"}]},
            r"groups\[0\].pattern: 'tower.\*' matches no parameter; there are head",
        ),
        (
            {},
            {"groups": [{"pattern": "*"}, {"pattern": "*.bias"}]},
            r"groups\[1\].pattern: '\*.bias' matches no parameter that an earlier group has not",
        ),
    ],
)
def test_what_names_nothing_says_what_there_is(
    world: distributed.World, sparse: dict[str, Any], dense: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ValueError, match=expected):
        Both(world, sparse, dense)
