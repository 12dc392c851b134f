"""Each model of several tasks against its paper's formulas, example by example in plain loops over numpy's vectors."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from references import check, mlp, model, relu, sigmoid, softmax

from recsys_core.models.blocks.experts import Gate

TASKS = {"click": {"hidden": [3]}, "sale": {"hidden": []}}


def _features(pooled, dense):
    return np.concatenate([pooled, dense])


def _experts(w, name, values):
    numbers = sorted({int(key[len(name) :].split(".")[2]) for key in w if key.startswith(f"{name}.networks.")})
    return [relu(mlp(w, f"{name}.networks.{number}.0", values)) for number in numbers]


def _mixed(w, name, values, experts):
    shares = softmax(w[f"{name}.linear.weight"] @ values)
    return sum(share * expert for share, expert in zip(shares, experts, strict=True))


def test_a_gate_by_hand():
    gate = Gate(1, 2)
    gate.linear.weight.data = torch.tensor([[1.0], [0.0]])
    # Shares of softmax(log 3, 0): 3/4 and 1/4.
    mixed = gate(torch.tensor([[3.0]]).log(), torch.tensor([[[4.0, 8.0], [0.0, 4.0]]]))
    torch.testing.assert_close(mixed, torch.tensor([[3.0, 7.0]]))


def test_shared_bottom():
    def reference(w, *row):
        shared = relu(mlp(w, "bottom", _features(*row)))
        return [mlp(w, f"towers.{task}", shared)[0] for task in TASKS]

    check("shared_bottom", reference, hidden=[5, 4], tasks=TASKS)


def test_mmoe():
    def reference(w, *row):
        inputs = _features(*row)
        experts = _experts(w, "experts", inputs)
        return [mlp(w, f"towers.{task}", _mixed(w, f"gates.{task}", inputs, experts))[0] for task in TASKS]

    check("mmoe", reference, num_experts=3, hidden=[5, 4], tasks=TASKS)


@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_ple(num_layers):
    def reference(w, *row):
        together = _features(*row)
        made = dict.fromkeys(TASKS, together)
        for number in range(num_layers):
            name = f"layers.{number}"
            shared = _experts(w, f"{name}.shared", together)
            own = {task: _experts(w, f"{name}.tasks.{task}.experts", made[task]) for task in TASKS}
            made = {task: _mixed(w, f"{name}.tasks.{task}.gate", made[task], own[task] + shared) for task in TASKS}
            if number < num_layers - 1:
                every = [expert for experts in (shared, *own.values()) for expert in experts]
                together = _mixed(w, f"{name}.gate", together, every)
        return [mlp(w, f"towers.{task}", made[task])[0] for task in TASKS]

    layers = [{"num_shared": 2, "num_own": 1, "hidden": [5, 4]}, {"num_shared": 1, "num_own": 2, "hidden": [4]}]
    check("ple", reference, layers=[layers[number % 2] for number in range(num_layers)], tasks=TASKS)


def test_esmm():
    def reference(w, *row):
        return [mlp(w, f"towers.{task}", _features(*row))[0] for task in TASKS]

    check("esmm", reference, tasks=TASKS)


def test_dbmtl():
    reads = {"click": [], "cart": ["click"], "sale": ["cart", "click"]}

    def reference(w, *row):
        shared = relu(mlp(w, "bottom", _features(*row)))
        hidden = {}
        for task, others in reads.items():
            hidden[task] = relu(mlp(w, f"tasks.{task}.own.0", shared))
            if others:
                read = np.concatenate([hidden[task], *(hidden[other] for other in others)])
                hidden[task] = relu(mlp(w, f"tasks.{task}.relation.0", read))
        outputs = ((w[f"tasks.{task}.output.weight"], w[f"tasks.{task}.output.bias"]) for task in reads)
        return [(weight @ hidden[task] + bias)[0] for task, (weight, bias) in zip(reads, outputs, strict=True)]

    tasks = {task: {"hidden": [5, 3], "reads": others, "relation": [4]} for task, others in reads.items()}
    check("dbmtl", reference, hidden=[6], tasks=tasks | {"click": {"hidden": [2]}})


@pytest.mark.parametrize("domain", [["city"], []])
def test_pepnet(domain):
    columns = {"user": slice(0, 4), "city": slice(4, 8), "item": slice(8, 12)}
    widths = {"click": [5, 3], "sale": [4]}

    def factors(w, name, read):
        hidden = relu(w[f"{name}.hidden.weight"] @ read + w[f"{name}.hidden.bias"])
        return 2 * sigmoid(w[f"{name}.output.weight"] @ hidden + w[f"{name}.output.bias"])

    def reference(w, *row):
        features = _features(*row)
        scaled = features
        if domain:
            scaled = features * factors(w, "domain", np.concatenate([features[columns["city"]], features]))
        prior = np.concatenate([features[columns["item"]], features[columns["user"]], scaled])
        outputs = []
        for task, hidden in widths.items():
            by_layer = np.split(factors(w, f"gates.{task}", prior), np.cumsum(hidden)[:-1])
            values = scaled
            for number, scale in enumerate(by_layer):
                layer = f"towers.{task}.layers.{number}"
                values = relu(w[f"{layer}.weight"] @ values + w[f"{layer}.bias"]) * scale
            output = f"towers.{task}.output"
            outputs.append((w[f"{output}.weight"] @ values + w[f"{output}.bias"])[0])
        return outputs

    tasks = {task: {"hidden": hidden} for task, hidden in widths.items()}
    check("pepnet", reference, domain=domain, prior=["item", "user"], gate_hidden=6, tasks=tasks)


def test_pepnet_of_one_domain_is_scripted():
    head = model("pepnet", prior=["user"], tasks={"click": {}, "sale": {}}).head
    inputs = torch.randn(5, 12), torch.randn(5, 3), list[torch.Tensor](), list[torch.Tensor]()
    torch.testing.assert_close(torch.jit.script(head)(*inputs), head(*inputs))


def test_no_gradient_goes_through_what_a_gate_of_pepnet_is_made_of():
    made = model("pepnet", domain=["city"], prior=["user"], tasks=TASKS | {"sale": {"hidden": [4]}}).head
    # With all features scaled alike nothing but the gates is left that depends on the item.
    for tower in made.towers.values():
        tower.layers[0].weight.data.zero_()
    pooled = torch.randn(5, 12, requires_grad=True)
    made(pooled, torch.randn(5, 3), [], []).sum().backward()
    user, city, item = pooled.grad.split(4, dim=1)
    assert user.any()
    assert not city.any()
    assert not item.any()


@pytest.mark.parametrize(
    ("kind", "config", "message"),
    [
        ("mmoe", {"tasks": TASKS, "num_experts": 1}, "num_experts"),
        ("mmoe", {"tasks": {"click": {}}}, "tasks"),
        ("ple", {"tasks": TASKS, "layers": []}, "layers"),
        (
            "dbmtl",
            {"tasks": {"click": {"reads": ["sale"]}, "sale": {}}},
            r"tasks\.click\.reads: 'sale' is no earlier task \(it is the first and reads none\)",
        ),
        (
            "dbmtl",
            {"tasks": {"click": {}, "sale": {"reads": ["sale"]}}},
            r"tasks\.sale\.reads: 'sale' is no earlier task \(those before it are click\)",
        ),
        ("pepnet", {"tasks": {"click": {}, "sale": {}}, "prior": []}, "prior"),
    ],
)
def test_what_makes_no_model_is_refused_by_the_config(kind, config, message):
    with pytest.raises(ValidationError, match=message):
        model(kind, **config)


@pytest.mark.parametrize("key", ["domain", "prior"])
def test_gates_depend_on_features_that_are_there(key):
    with pytest.raises(ValueError, match=rf"model\.{key}: there is no feature 'town' of that kind \(there are: user"):
        model("pepnet", **({"prior": ["user"]} | {key: ["town"]}), tasks={"click": {}, "sale": {}})
