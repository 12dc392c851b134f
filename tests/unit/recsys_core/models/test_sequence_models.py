"""Each model of behaviour sequences against its paper's formulas, row by row and without padding, in numpy."""

import numpy as np
import pytest
import torch

from recsys_core import lookup
from recsys_core.features import NumberFeature, SparseFeature, TableSpec
from recsys_core.models.base import TowerInputs
from recsys_core.models.blocks.behaviours import masked_softmax, padded

LENGTHS = [2, 0, 3, 1]
# Of an item, its category, and how long ago, which is compared with nothing.
DIM = 4 + 4 + 2
BEHAVIOURS = {"sequences": ["clicked", "clicked_cate", "waits"], "targets": ["item", "cate", None]}


def _model(kind, max_length=3, behaviours=BEHAVIOURS, **config):
    tables = tuple(
        TableSpec(name=name, num_embeddings=8, embedding_dim=4, features=((name, "item"), (f"clicked{end}", "query")))
        for name, end in (("item", ""), ("cate", "_cate"))
    )
    section = {"kind": kind, "behaviours": behaviours, "max_length": max_length, "hidden": [5]} | config
    torch.manual_seed(0)
    model = lookup.content("recsys_core.models", kind)(
        lookup.component("recsys_core.models", kind).Config.model_validate(section),
        tables,
        query=TowerInputs(
            (SparseFeature("clicked", "item", "none"), SparseFeature("clicked_cate", "cate", "none")),
            1,
            (NumberFeature("age", 1),),
            (NumberFeature("waits", 2),),
        ),
        item=TowerInputs((SparseFeature("item", "item", "sum"), SparseFeature("cate", "cate", "sum")), 0),
        tables_device=torch.device("cpu"),
    )
    for parameter in model.head.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model.eval()


def _check(kind, reference, **config):
    model = _model(kind, **config)
    pooled, dense = torch.randn(4, 8), torch.randn(4, 1)
    columns = {feature.name: n for n, feature in enumerate(model.tables.pooled_features)}
    sequences, lengths = [torch.randn(6, width) for width in (4, 4, 2)], torch.tensor(LENGTHS)
    found = model.head(pooled, dense, sequences, [lengths] * 3)
    weights = {name: weight.detach().double().numpy() for name, weight in model.head.named_parameters()}
    elements = np.split(torch.cat(sequences, dim=1).double().numpy(), np.cumsum(LENGTHS)[:-1])
    expected = []
    for own, row, number in zip(elements, pooled.double().numpy(), dense.double().numpy(), strict=True):
        parts = [row[columns[name] * 4 : columns[name] * 4 + 4] for name in ("item", "cate")]
        target = np.concatenate([*parts, np.zeros(2)])
        interest = reference(weights, own, target)
        expected.append(_mlp(weights, "deep", np.concatenate([row, number, interest]))[0])
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=2e-4, atol=2e-4)
    scripted = torch.jit.script(model.head)(pooled, dense, sequences, [lengths] * 3)
    torch.testing.assert_close(scripted, found)


def _sigmoid(values):
    return 1 / (1 + np.exp(-values))


def _softmax(values):
    exponentials = np.exp(values - values.max())
    return exponentials / exponentials.sum()


def _linear(w, name, values):
    return values @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0)


def _norm(w, name, values):
    return (values - values.mean()) / np.sqrt(values.var() + 1e-5) * w[f"{name}.weight"] + w[f"{name}.bias"]


def _mlp(w, name, values):
    numbers = sorted({int(key[len(name) + 1 :].split(".")[0]) for key in w if key.startswith(f"{name}.")})
    for number in numbers:
        values = _linear(w, f"{name}.{number}", values)
        values = np.maximum(values, 0) if number != numbers[-1] else values
    return values


def test_dien():
    def run(w, name, inputs, shares):
        state, states = np.zeros(DIM), []
        for one, share in zip(inputs, shares, strict=True):
            x, h = (
                np.split(_linear(w, f"{name}.{of}", values), 3)
                for of, values in (("of_input", one), ("of_state", state))
            )
            update, reset = share * _sigmoid(x[0] + h[0]), _sigmoid(x[1] + h[1])
            state = (1 - update) * state + update * np.tanh(x[2] + reset * h[2])
            states.append(state)
        return states

    def reference(w, elements, target):
        if not len(elements):
            return np.zeros(DIM)
        interests = run(w, "interests", elements, np.ones(len(elements)))
        shares = _softmax(np.array([one @ _linear(w, "compare", target) for one in interests]))
        return run(w, "evolution", interests, shares)[-1]

    _check("dien", reference)


def _attended(w, name, vectors, num_heads):
    """Each vector's heads, by scaled dot products."""
    size, made = DIM // num_heads, []
    query, key, value = (_linear(w, f"{name}.{part}", vectors) for part in ("query", "key", "value"))
    for one in query:
        heads = []
        for head in range(num_heads):
            own = slice(head * size, head * size + size)
            shares = _softmax(np.array([one[own] @ other[own] for other in key]) / np.sqrt(size))
            heads.append(shares @ value[:, own])
        made.append(heads)
    return made


def test_bst():
    def reference(w, elements, target):
        # The last element stands 1 before the target.
        count = len(elements)
        slots = [target + w["positions"][0], *(one + w["positions"][count - n] for n, one in enumerate(elements))]
        for number in range(2):
            name, made = f"blocks.{number}", []
            for slot, heads in zip(slots, _attended(w, name, np.array(slots), 2), strict=True):
                one = _norm(w, f"{name}.attention_norm", slot + _linear(w, f"{name}.output", np.concatenate(heads)))
                wide = _linear(w, f"{name}.wide", one)
                wide = np.where(wide > 0, wide, 0.01 * wide)
                made.append(_norm(w, f"{name}.norm", one + _linear(w, f"{name}.narrow", wide)))
            slots = made
        return np.concatenate([*slots, np.zeros(DIM * (3 - count))])

    _check("bst", reference, num_blocks=2, num_heads=2, forward_dim=3)


def test_dmin():
    def reference(w, elements, target):
        if not len(elements):
            return np.zeros(DIM)
        refined = _attended(w, "refine", elements, 2)
        vectors = [
            _norm(w, "norm", one + _linear(w, "refined", np.concatenate(heads)))
            for one, heads in zip(elements, refined, strict=True)
        ]
        made, own = np.array(_attended(w, "interests", np.array(vectors), 2)), _linear(w, "target", target)
        interests = []
        for head in range(2):
            compared = [np.concatenate([one, own, one - own, one * own]) for one in made[:, head]]
            shares = _softmax(np.array([_mlp(w, "compare", one)[0] for one in compared]))
            interests.append(shares @ made[:, head])
        return np.concatenate(interests)

    _check("dmin", reference, num_heads=2, attention_hidden=[3])


def test_sim():
    def reference(w, elements, target):
        if not len(elements):
            return np.zeros(3 * DIM)
        sought = _linear(w, "search_target", target)
        relevance = np.array([_linear(w, "search_element", one) @ sought for one in elements]) / np.sqrt(DIM)
        overall = relevance @ elements / len(elements)
        found = elements[np.argsort(-relevance)[:2]]
        interests = []
        for head in range(2):
            own = slice(head * DIM, head * DIM + DIM)
            query = _linear(w, "query", target)[own]
            shares = _softmax(np.array([_linear(w, "key", one)[own] @ query for one in found]) / np.sqrt(DIM))
            interests.append(shares @ found)
        return np.concatenate([overall, *interests])

    _check("sim", reference, num_found=2, num_heads=2)


def test_padding_and_a_softmax_over_what_is_there():
    elements, mask = padded(torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([2, 0, 1]), 2)
    assert elements[:, :, 0].tolist() == [[1, 2], [0, 0], [3, 0]]
    assert mask.tolist() == [[True, True], [False, False], [True, False]]
    assert masked_softmax(torch.tensor([[0.0, 0.0], [5.0, 5.0], [7.0, 9.0]]), mask).tolist() == [
        [0.5, 0.5],
        [0, 0],
        [1, 0],
    ]


@pytest.mark.parametrize(
    ("kind", "config", "message"),
    [
        (
            "bst",
            {"num_heads": 4},
            "model.num_heads: 4 heads, and an element of model.behaviours is 10 wide, of which bst",
        ),
        ("dmin", {"num_heads": 3}, "model.num_heads: 3 heads, .* take a number that divides it"),
        ("sim", {"num_found": 4}, "num_found: 4, of at most max_length 3; lower it"),
        (
            "dien",
            {"behaviours": {"sequences": ["clicked"], "targets": ["item"]}},
            "feature 'clicked_cate': pooling none, and no model.behaviours names it",
        ),
        (
            "sim",
            {"num_found": 2, "behaviours": {"sequences": ["viewed"], "targets": ["item"]}},
            r"model.behaviours.sequences \(pooling: none\): there is no feature 'viewed' of that kind",
        ),
    ],
)
def test_what_cannot_be_built_says_what_to_do(kind, config, message):
    with pytest.raises(ValueError, match=message):
        _model(kind, **config)
