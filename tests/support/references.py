"""A ranking model against its formulas, example by example in plain loops over numpy's vectors."""

import numpy as np
import torch

from recsys_core import lookup
from recsys_core.features import NumberFeature, SparseFeature, TableSpec
from recsys_core.models.base import TowerInputs

DIM, FEATURES = 4, ("user", "city", "item")
DENSE = (NumberFeature("age", 1), NumberFeature("place", 2))


def model(kind, dim=DIM, dense=DENSE, **config):
    sides = {"user": "query", "city": "query", "item": "item"}
    tables = tuple(
        TableSpec(name=name, num_embeddings=8, embedding_dim=dim, features=((name, sides[name]),)) for name in FEATURES
    )
    inputs = {
        side: tuple(SparseFeature(name, name, "mean") for name in FEATURES if sides[name] == side)
        for side in ("query", "item")
    }
    torch.manual_seed(0)
    made = lookup.content("recsys_core.models", kind)(
        lookup.component("recsys_core.models", kind).Config.model_validate({"kind": kind} | config),
        tables,
        query=TowerInputs(inputs["query"], sum(one.dim for one in dense), dense),
        item=TowerInputs(inputs["item"], 0),
        tables_device=torch.device("cpu"),
    )
    # Every parameter counts: none is zero, or one.
    for parameter in made.head.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return made.eval()


def check(kind, reference, **config):
    made = model(kind, **config)
    pooled, dense = torch.randn(5, len(FEATURES) * DIM), torch.randn(5, 3)
    weights = {name: weight.detach().double().numpy() for name, weight in made.head.named_parameters()}
    found = made.head(pooled, dense, [], [])
    expected = [reference(weights, *row) for row in zip(pooled.double().numpy(), dense.double().numpy(), strict=True)]
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=2e-4, atol=2e-4)


def relu(values):
    return np.maximum(values, 0)


def sigmoid(values):
    return 1 / (1 + np.exp(-values))


def softmax(values):
    return np.exp(values) / np.exp(values).sum()


def norm(values, weights, name):
    scaled = (values - values.mean()) / np.sqrt(values.var() + 1e-5)
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def mlp(weights, name, values, *, activated=False):
    numbers = sorted({int(key[len(name) + 1 :].split(".")[0]) for key in weights if key.startswith(f"{name}.")})
    for number in numbers:
        values = weights[f"{name}.{number}.weight"] @ values + weights[f"{name}.{number}.bias"]
        values = relu(values) if activated or number != numbers[-1] else values
    return values
