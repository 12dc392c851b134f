"""Each ranking model against its paper's formulas, example by example in plain loops over numpy's vectors."""

import itertools

import numpy as np
import pytest
import torch
from references import DIM, FEATURES, check, mlp, model, norm, relu, sigmoid, softmax

from recsys_core import lookup
from recsys_core.features import SparseFeature, TableSpec
from recsys_core.models.base import TowerInputs
from recsys_core.models.blocks.factorization import pairs_sum


def _vectors(weights, pooled, dense):
    own = [pooled[n * DIM : n * DIM + DIM] for n in range(len(FEATURES))]
    return own + [number * vector for number, vector in zip(dense, weights["fields.numbers.weight"], strict=True)]


def _pairs(vectors):
    return itertools.combinations(range(len(vectors)), 2)


def test_logistic_regression():
    def reference(w, pooled, dense):
        return w["bias"][0] + sum(pooled) + sum(w["numbers.weight"] * dense)

    check("lr", reference)


def _fm(w, pooled, dense):
    vectors = _vectors(w, pooled, dense)
    products = [sum(vectors[i][1:] * vectors[j][1:]) for i, j in _pairs(vectors)]
    return sum(vector[0] for vector in vectors) + sum(products)


def test_a_factorisation_machine():
    check("fm", lambda w, *row: w["bias"][0] + _fm(w, *row))


def test_pairs_by_hand():
    # (1, 2)·(3, 1) + (1, 2)·(0, 2) + (3, 1)·(0, 2) = 5 + 4 + 2
    assert pairs_sum(torch.tensor([[[1.0, 2.0], [3.0, 1.0], [0.0, 2.0]]])).tolist() == [11.0]


def test_deepfm():
    def reference(w, *row):
        deep = np.concatenate([vector[1:] for vector in _vectors(w, *row)])
        return _fm(w, *row) + mlp(w, "deep", deep)[0]

    check("deepfm", reference, hidden=[5, 3])


def test_wide_and_deep():
    def reference(w, pooled, dense):
        user, city, item = np.split(pooled, 3)
        wide = user[0] + item[0] + sum(city) + sum(w["numbers.weight"] * dense)
        return wide + mlp(w, "deep", np.concatenate([user[1:], item[1:], dense]))[0]

    check("wide_and_deep", reference, hidden=[5], wide_only=["city"])


def _crossed(w, pooled, dense, cross, structure):
    first = np.concatenate([pooled, dense])
    crossed = first
    for number in range(2):
        crossed = cross(f"crosses.{number}", first, crossed)
    if structure == "stacked":
        return mlp(w, "deep", crossed)[0]
    return w["output.weight"][0] @ crossed + mlp(w, "deep", first)[0]


@pytest.mark.parametrize("structure", ["parallel", "stacked"])
def test_dcn(structure):
    def reference(w, *row):
        def cross(name, first, crossed):
            return first * (w[f"{name}.weight"] @ crossed) + w[f"{name}.bias"] + crossed

        return _crossed(w, *row, cross, structure)

    check("dcn", reference, num_crosses=2, hidden=[5], structure=structure)


@pytest.mark.parametrize(("rank", "num_experts"), [(None, 1), (3, 1), (3, 2)])
def test_dcnv2(rank, num_experts):
    def reference(w, *row):
        def cross(name, first, crossed):
            if rank is None:
                return first * (w[f"{name}.linear.weight"] @ crossed + w[f"{name}.linear.bias"]) + crossed
            if num_experts == 1:
                low = w[f"{name}.down.weight"] @ crossed
                return first * (w[f"{name}.up.weight"] @ low + w[f"{name}.up.bias"]) + crossed
            shares, made = softmax(w[f"{name}.gate.weight"] @ crossed), crossed
            for number, share in enumerate(shares):
                own = f"{name}.experts.{number}"
                low = np.tanh(w[f"{own}.middle.weight"] @ np.tanh(w[f"{own}.down.weight"] @ crossed))
                made = made + share * first * (w[f"{own}.up.weight"] @ low + w[f"{own}.up.bias"])
            return made

        return _crossed(w, *row, cross, "parallel")

    check("dcnv2", reference, num_crosses=2, rank=rank, num_experts=num_experts, hidden=[5])


def test_gdcn():
    def reference(w, *row):
        def cross(name, first, crossed):
            passed = sigmoid(w[f"{name}.gate.weight"] @ crossed)
            return first * (w[f"{name}.cross.weight"] @ crossed + w[f"{name}.cross.bias"]) * passed + crossed

        return _crossed(w, *row, cross, "stacked")

    check("gdcn", reference, num_crosses=2, hidden=[5], structure="stacked")


def test_xdeepfm():
    def reference(w, *row):
        vectors = _vectors(w, *row)
        first = before = [vector[1:] for vector in vectors]
        sums = []
        for number in range(2):
            made = []
            for weight in w[f"interactions.{number}.weight"]:
                products = [one * other for one in before for other in first]
                made.append(sum(own * product for own, product in zip(weight, products, strict=True)))
            before = made
            sums += [sum(vector) for vector in made]
        linear = sum(vector[0] for vector in vectors)
        return linear + w["output.weight"][0] @ sums + mlp(w, "deep", np.concatenate(first))[0]

    check("xdeepfm", reference, interactions=[3, 2], hidden=[5])


@pytest.mark.parametrize("hidden", [[], [5]])
def test_autoint(hidden):
    def reference(w, *row):
        vectors = first = _vectors(w, *row)
        for number in range(2):
            name, made = f"layers.{number}", []
            for vector in vectors:
                heads = []
                for head in (slice(0, 3), slice(3, 6)):
                    query = w[f"{name}.query.weight"][head] @ vector
                    shares = softmax(np.array([query @ (w[f"{name}.key.weight"][head] @ other) for other in vectors]))
                    values = [w[f"{name}.value.weight"][head] @ other for other in vectors]
                    heads.append(sum(share * value for share, value in zip(shares, values, strict=True)))
                made.append(relu(np.concatenate(heads) + w[f"{name}.residual.weight"] @ vector))
            vectors = made
        logit = w["output.weight"][0] @ np.concatenate(vectors) + w["output.bias"][0]
        return logit + (mlp(w, "deep", np.concatenate(first))[0] if hidden else 0)

    check("autoint", reference, num_layers=2, num_heads=2, head_dim=3, hidden=hidden)


@pytest.mark.parametrize("kind", ["all", "each", "interaction"])
def test_fibinet(kind):
    def reference(w, *row):
        vectors = _vectors(w, *row)
        linear, vectors = sum(vector[0] for vector in vectors), [vector[1:] for vector in vectors]
        means = np.array([vector.mean() for vector in vectors])
        shares = relu(w["senet.excite.weight"] @ relu(w["senet.squeeze.weight"] @ means))
        weighed = [share * vector for share, vector in zip(shares, vectors, strict=True)]
        products = []
        for part, read in (("plain", vectors), ("weighed", weighed)):
            for number, (i, j) in enumerate(_pairs(read)):
                matrix = w[f"{part}.weight"][{"all": 0, "each": i, "interaction": number}[kind]]
                products.append((read[i] @ matrix) * read[j])
        return linear + mlp(w, "deep", np.concatenate(products))[0]

    check("fibinet", reference, bilinear=kind, hidden=[5])


@pytest.mark.parametrize("structure", ["parallel", "serial"])
def test_masknet(structure):
    def reference(w, *row):
        vectors = _vectors(w, *row)
        features = np.concatenate(vectors)
        normed = np.concatenate([norm(vector, w, "norm") for vector in vectors])
        outputs, read = [], normed
        for number in range(2):
            name = f"blocks.{number}"
            masked = mlp(w, f"{name}.mask", features) * (normed if structure == "parallel" else read)
            read = relu(norm(w[f"{name}.linear.weight"] @ masked, w, f"{name}.norm"))
            outputs.append(read)
        return mlp(w, "deep", np.concatenate(outputs) if structure == "parallel" else read)[0]

    check("masknet", reference, blocks=[6, 5], structure=structure, hidden=[4])


def test_finalmlp():
    def reference(w, pooled, dense):
        inputs = np.concatenate([pooled, dense])
        # The first gate depends on `item`, the third feature.
        gates = mlp(w, "first.gate", pooled[2 * DIM :]), w["second.gate.weight"]
        first, second = (
            mlp(w, f"{name}.layers.0", inputs * 2 * sigmoid(gate), activated=True)
            for name, gate in zip(("first", "second"), gates, strict=True)
        )
        logit = w["of_first.weight"][0] @ first + w["of_first.bias"][0] + w["of_second.weight"][0] @ second
        for number, form in enumerate(w["form"]):
            logit += first[number * 3 : number * 3 + 3] @ form @ second[number * 2 : number * 2 + 2]
        return logit

    streams = {"first": {"hidden": [5, 6], "gate": ["item"], "gate_hidden": [3]}, "second": {"hidden": [4]}}
    check("finalmlp", reference, num_heads=2, **streams)


@pytest.mark.parametrize("num_kept", [2, 4])
def test_wukong(num_kept):
    def reference(w, *row):
        vectors = np.array(_vectors(w, *row))
        for number in range(2):
            name = f"layers.{number}"
            compared = w[f"{name}.compared.weight"] @ vectors
            products = np.array([[one @ other for other in compared] for one in vectors])
            made = mlp(w, f"{name}.machine", norm(products.flatten(), w, f"{name}.products_norm"))
            kept = w[f"{name}.kept.weight"] @ vectors
            # As many vectors as there were need no weights to be added.
            residual = w.get(f"{name}.residual.weight", np.eye(len(vectors))) @ vectors
            summed = np.concatenate([made.reshape(2, DIM), kept]) + residual
            vectors = np.array([norm(vector, w, f"{name}.norm") for vector in summed])
        return mlp(w, "deep", vectors.flatten())[0]

    sizes = {"machine_vectors": 2, "kept_vectors": num_kept, "rank": 3, "machine_hidden": [5]}
    check("wukong", reference, num_layers=2, hidden=[5], **sizes)


@pytest.mark.parametrize("kind", ["fm", "deepfm", "xdeepfm", "fibinet", "autoint", "masknet", "wukong"])
def test_what_is_compared_is_as_wide_and_more_than_one(kind):
    model_class = lookup.content("recsys_core.models", kind)
    config = lookup.component("recsys_core.models", kind).Config()
    tables = [
        TableSpec(name=name, num_embeddings=8, embedding_dim=dim, features=((name, "query"),))
        for name, dim in (("user", 4), ("city", 8))
    ]
    sparse = tuple(SparseFeature(table.name, table.name, "mean") for table in tables)

    def built(count):
        device = torch.device("cpu")
        query = TowerInputs(sparse[:count], 0)
        return model_class(config, tuple(tables[:count]), query=query, item=TowerInputs((), 0), tables_device=device)

    with pytest.raises(ValueError, match=rf"{kind} compares features .* one width, not {{'user': 4, 'city': 8}}; give"):
        built(2)
    with pytest.raises(ValueError, match=f"{kind} needs two features to compare; name another one"):
        built(1)


@pytest.mark.parametrize("kind", ["fm", "deepfm", "xdeepfm", "fibinet", "wide_and_deep"])
def test_an_embedding_has_factors_behind_its_weight(kind):
    with pytest.raises(ValueError, match=f"{kind}: an embedding is a weight and the factors .* is 1; make it 4"):
        model(kind, dim=1)


@pytest.mark.parametrize(
    ("kind", "config", "message"),
    [
        ("wide_and_deep", {"wide_only": ["town"]}, "model.wide_only: there is no feature 'town'"),
        ("wide_and_deep", {"wide_only": list(FEATURES)}, "names every feature, so the deep part reads none"),
        ("finalmlp", {"first": {"hidden": [4], "gate": ["town"]}}, "model.first.gate: there is no feature 'town'"),
        ("finalmlp", {"second": {"hidden": [5]}, "num_heads": 2}, "num_heads: 2, and second.hidden ends in 5"),
        ("dcnv2", {"num_experts": 2}, "num_experts: 2 experts are of low rank each; set rank"),
    ],
)
def test_what_cannot_be_built_says_what_to_do(kind, config, message):
    with pytest.raises(ValueError, match=message):
        model(kind, **config)
