"""What every model file promises: it builds, its scripted parts compute the same, and every parameter is trained."""

import copy
import functools

import numpy as np
import pyarrow as pa
import pytest
import torch
from pydantic import ValidationError
from torch._dynamo.utils import counters

from recsys_core import lookup, models
from recsys_core.config import description
from recsys_core.exported import scripted
from recsys_core.exported.inputs import ranker_inputs, tower_inputs
from recsys_core.features import Config as Features
from recsys_core.features import Engine
from recsys_core.loading.batch import dense, jagged, numbers
from recsys_core.models.base import RankingModel, RetrievalModel
from recsys_core.ranking.export import Ranker
from recsys_core.retrieval.export import towers
from recsys_core.training import compiling

# The last one is the model of one's own in docs/components.md.
KINDS = (*lookup.kinds("recsys_core.models"), "shop.crossed")
pytestmark = pytest.mark.usefixtures("own_package")
# What a kind needs to be built at all.
NEEDED = {
    "shared_bottom": {"hidden": [8, 6], "tasks": {"click": {"hidden": [4]}, "conversion": {"hidden": []}}},
    "mmoe": {"num_experts": 3, "hidden": [6], "tasks": {"click": {"hidden": [4]}, "conversion": {"hidden": []}}},
    "ple": {
        "layers": [{"num_shared": 1, "hidden": [6]}, {"num_own": 1, "hidden": [5]}],
        "tasks": {"click": {"hidden": [4]}, "conversion": {"hidden": []}},
    },
    "esmm": {"tasks": {"click": {"hidden": [4]}, "conversion": {"hidden": [6]}}},
    "dbmtl": {"hidden": [8], "tasks": {"click": {"hidden": [4]}, "conversion": {"hidden": [6], "reads": ["click"]}}},
    "pepnet": {
        "domain": ["kind"],
        "prior": ["user", "item"],
        "gate_hidden": 5,
        "tasks": {"click": {"hidden": [6, 4]}, "conversion": {"hidden": [4]}},
    },
    "multi_tower_din": {
        "attention": [{"sequences": ["clicked", "clicked_kind"], "targets": ["item", "kind"], "hidden": [8, 4]}],
        "towers": [{"hidden": [8, 4]}, {"features": ["user", "item"], "dense": False, "hidden": [4]}],
    },
    "autoint": {"num_layers": 2, "head_dim": 3, "hidden": [6]},
    "dcn": {"num_crosses": 2, "hidden": [6]},
    "dcnv2": {"num_crosses": 2, "rank": 3, "num_experts": 2, "hidden": [6]},
    "deepfm": {"hidden": [8, 6]},
    "fibinet": {"bilinear": "interaction", "reduction": 1, "hidden": [8]},
    "finalmlp": {
        "first": {"hidden": [8, 6], "gate": ["item"], "gate_hidden": [3]},
        "second": {"hidden": [4]},
        "num_heads": 2,
    },
    "gdcn": {"num_crosses": 2, "hidden": [6], "structure": "stacked"},
    "masknet": {"blocks": [6, 4], "structure": "serial", "hidden": [6]},
    "wide_and_deep": {"wide_only": ["tags"], "hidden": [8, 6]},
    "wukong": {"machine_vectors": 2, "kept_vectors": 3, "rank": 2, "machine_hidden": [6], "hidden": [8]},
    "xdeepfm": {"interactions": [3, 2], "hidden": [8]},
}
_CLICKS = {"sequences": ["clicked", "clicked_kind"], "targets": ["item", "kind"]}
_SEQUENTIAL = {"behaviours": _CLICKS, "max_length": 3, "hidden": [8]}
NEEDED |= {
    "bst": {**_SEQUENTIAL, "forward_dim": 6},
    "dien": _SEQUENTIAL,
    "dmin": {**_SEQUENTIAL, "num_heads": 2, "attention_hidden": [6]},
    "sim": {**_SEQUENTIAL, "num_found": 2},
}
# Of these, whose parts are in no other, the graphs become C++, up to half a minute for each; of the others they are
# traced and derived alike.
TO_CPP = ("dien", "dlrm", "multi_tower_din", "two_tower")
_ORDERED = {"output_dim": 6, "max_length": 3, "dropout": 0.0}
NEEDED |= {
    "fuxi": {**_ORDERED, "num_heads": 2, "forward_dim": 5},
    "gru4rec": {**_ORDERED, "num_layers": 2},
    "hstu": {**_ORDERED, "num_heads": 2},
    "sasrec": {**_ORDERED, "num_heads": 2, "forward_dim": 5},
}
POOLING = dict.fromkeys(("multi_tower_din", "bst", "dien", "dmin", "sim", "fuxi", "gru4rec", "hstu", "sasrec"), "none")
ROWS = pa.table(
    {
        "user": ["a", "b", None, "a"],
        "price": [1.0, 2.0, None, 3.0],
        "tags": [["x", "y"], [], ["y"], ["x", "x", "y"]],
        "item": [1, 2, 3, 1],
        "kind": [1, 1, 2, 1],
        "clicked": [[2, 3], [], [1], [3, 3, 2]],
        "clicked_kind": [[1, 2], [], [1], [2, 2, 1]],
    }
)


def _engine(kind):
    def id_(name):
        return {"kind": "id", "name": name, "num_embeddings": 8}

    pooling = POOLING.get(kind, "mean")
    config = {
        "embedding_dim": 4,
        "query": [
            id_("user"),
            {"kind": "raw", "name": "price"},
            id_("tags"),
            {"kind": "sequence", "name": "clicked", "table": "item", "pooling": pooling},
            {"kind": "sequence", "name": "clicked_kind", "table": "kind", "pooling": pooling},
        ],
        "item": [id_("item"), id_("kind")],
    }
    engine = Engine.build(Features.model_validate(config))
    engine.fit([ROWS], [ROWS])
    return engine


def _config(kind, **changes):
    return lookup.component("recsys_core.models", kind).Config.model_validate(
        {"kind": kind} | NEEDED.get(kind, {}) | changes
    )


def _encoded(engine, rows=ROWS):
    return engine.transform(rows, "query"), engine.transform(rows, "item")


def _contract(kind):
    model = lookup.content("recsys_core.models", kind)
    return RankingModel if issubclass(model, RankingModel) else RetrievalModel


@pytest.fixture(params=KINDS)
def built(request, own_package):
    torch.manual_seed(0)
    engine = _engine(request.param)
    return models.build(_config(request.param), engine, _contract(request.param)), engine


def _outputs(model, engine, num_rows=4, rows=ROWS):
    query, item = _encoded(engine, rows)
    sparse = jagged(query, item, num_rows)
    if isinstance(model, RankingModel):
        return [model(sparse, dense(query, item))]
    return list(model(sparse, torch.from_numpy(query.dense), torch.from_numpy(item.dense)))


@pytest.mark.parametrize("kind", KINDS)
def test_the_config_round_trips_and_rejects_unknown_keys(kind):
    config = _config(kind)
    assert type(config).model_validate_json(config.model_dump_json()) == config
    with pytest.raises(ValidationError, match="widht"):
        _config(kind, widht=1)


def test_a_row_s_output_does_not_depend_on_empty_rows_after_it(built):
    for plain, padded in zip(_outputs(*built), _outputs(*built, num_rows=7), strict=True):
        assert len(plain) == 4
        torch.testing.assert_close(plain, padded)


def test_a_row_s_output_does_not_depend_on_the_rows_beside_it(built):
    """So a batch may be cut among ranks, and a request answered by itself."""
    built[0].eval()
    for number in range(ROWS.num_rows):
        for whole, alone in zip(_outputs(*built), _outputs(*built, 1, ROWS.slice(number, 1)), strict=True):
            torch.testing.assert_close(alone, whole[number : number + 1])


def test_every_parameter_gets_a_gradient(built):
    model, engine = built
    sum(
        (output * torch.linspace(1, 2, output.numel()).view_as(output)).sum() for output in _outputs(model, engine)
    ).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_the_layout_says_which_columns_read_what(built):
    model, engine = built
    layout, weights = model.layout(), dict(model.named_parameters())
    if not layout:
        # A model of a user's own may leave it out: weights of the same name and shape are taken over then.
        assert not type(model).__module__.startswith("recsys_core.")
        return
    assert {name for name in weights if not name.startswith("tables.")} == layout.keys()
    assert len({weight.place for weight in layout.values()}) == len(layout)
    for name, weight in layout.items():
        assert weight.shape == weights[name].shape, name
    # Columns that read zeros get no gradient: those of what looks up a table of zeros, or multiplies by that.
    table_of = {f.name: f.table for side in ("query", "item") for f in engine.sparse_features(side)}
    for table in engine.encoders:
        held = next(weight for name, weight in weights.items() if name.split(".")[-2] == table)
        kept = held.detach().clone()
        held.data.zero_()
        model.zero_grad()
        sum(
            (output * torch.linspace(1, 2, output.numel()).view_as(output)).sum() for output in _outputs(*built)
        ).backward()
        held.data.copy_(kept)
        for name, weight in layout.items():
            if len(weight.axes) < 2:
                continue
            start = 0
            for block in weight.axes[1]:
                size = block.width * block.repeats
                gradient = weights[name].grad[:, start : start + size]
                if any(table_of.get(feature) == table for feature in block.features):
                    assert not gradient.any(), (name, block.label)
                elif block.features:
                    assert gradient.any(), (name, block.label)
                start += size


def test_the_parts_of_a_description_have_all_dense_weights(built):
    model, engine = built
    parts = description.parts_of(model, engine, entries=3)
    dense = [weight.numel() for name, weight in model.named_parameters() if not name.startswith("tables.")]
    assert sum(part.num_parameters for part in parts) == sum(dense)
    layers = [module.weight.numel() for module in model.modules() if isinstance(module, torch.nn.Linear)]
    assert sum(part.flops for part in parts) >= 2 * sum(layers)


def test_scripted_equals_eager(built):
    model, engine = built
    model.eval()
    outputs = _outputs(model, engine)
    query, item = _encoded(engine)
    if isinstance(model, RetrievalModel):
        sides = zip(outputs, towers(model, scripted.table_weights(model.tables)).values(), (query, item), strict=True)
        for output, tower, encoded in sides:
            torch.testing.assert_close(torch.jit.script(tower)(tower_inputs(encoded)), output)
            assert output.shape == (4, model.embedding_dim)
        return
    weights = {name.split(".")[-2]: weight for name, weight in model.tables.state_dict().items()}
    found = torch.jit.script(Ranker(model, weights))
    torch.testing.assert_close(found(ranker_inputs(query, item)), outputs[0])


def _program_equals_eager(model, engine, rows, folder):
    """Export each part by torch.export, and compare what is loaded back with the model, on all rows and on one."""
    query, item = engine.transform(rows, "query"), engine.transform(rows, "item")
    weights, outputs = scripted.table_weights(model.tables), _outputs(model.eval(), engine, rows=rows)
    if isinstance(model, RankingModel):
        parts = [(Ranker(model, weights), ranker_inputs(query, item))]
    else:
        sides = zip(towers(model, weights).values(), (query, item), strict=True)
        parts = [(tower, tower_inputs(encoded)) for tower, encoded in sides]
    for (module, inputs), expected in zip(parts, outputs, strict=True):
        size = max(1.0, float(expected.detach().abs().max()))
        scripted.save(module, folder, inputs, expected, 1e-4 * size, called="part", signature={}, form="pt2")


def test_a_program_of_torch_export_equals_eager(built, tmp_path):
    _program_equals_eager(*built, ROWS, tmp_path)


def test_compiled_equals_eager_and_other_sizes_of_batches_compile_nothing(built, request, monkeypatch):
    model, engine = built
    if request.node.callspec.params["built"] not in TO_CPP:
        compile_ = torch.nn.Module.compile
        monkeypatch.setattr(torch.nn.Module, "compile", functools.partialmethod(compile_, backend="aot_eager"))
    eager = copy.deepcopy(model)
    ranks = isinstance(model, RankingModel)
    compiling.compile_in_place((model.head,) if ranks else (model.query, model.item), torch.device("cpu"))
    assert model.state_dict().keys() == eager.state_dict().keys()
    graphs = []
    for num_rows in (4, 3, 4, 2):
        rows = ROWS.slice(0, num_rows)
        encoded = engine.transform(rows, "query"), engine.transform(rows, "item")
        parts = (dense(*encoded),) if ranks else tuple(torch.from_numpy(side.dense) for side in encoded)
        gradients = []
        for one in (model, eager):
            one.zero_grad()
            found = one(jagged(*encoded, num_rows), *parts)
            # Weighed: of outputs that are normalised, the sum and that of the squares are always the same.
            weighed = ((own, torch.linspace(1, 2, own.numel()).view_as(own)) for own in ([found] if ranks else found))
            loss = sum(((output.square() + output) * weights).sum() for output, weights in weighed)
            loss.backward()
            gradients.append({name: weight.grad for name, weight in one.named_parameters()} | {"loss": loss.detach()})
        # Kernels that sum in another order round as the largest numbers do.
        size = max(1.0, *(float(gradient.abs().max()) for gradient in gradients[1].values()))
        torch.testing.assert_close(*gradients, rtol=5e-5, atol=4e-6 * size)
        graphs.append(counters["stats"]["unique_graphs"])
    # Of two rows one has an empty sequence, and the other all elements there are: still the same graph.
    assert graphs[0] == graphs[-1] > 0


def test_a_pooled_mean_is_the_mean_of_the_ids_rows():
    engine = _engine("dlrm")
    model = models.build(_config("dlrm"), engine, RankingModel)
    query, item = _encoded(engine)
    found = model.tables(jagged(query, item, 4), 4).pooled_BP
    weight = model.tables.state_dict()["bags.embedding_bags.item.weight"].numpy()
    start = [f.name for f in model.tables.pooled_features].index("clicked") * 4
    rows = np.split(query.sparse["clicked"].values, np.cumsum(query.sparse["clicked"].lengths)[:-1])
    expected = np.array([weight[r].mean(axis=0) if len(r) else np.zeros(4) for r in rows])
    np.testing.assert_allclose(found[:, start : start + 4].detach().numpy(), expected, rtol=1e-6)


RICH = {
    "embedding_dim": 4,
    "query": [
        {"kind": "id", "name": "user", "num_embeddings": 8},
        {"kind": "id", "name": "tags", "num_embeddings": 8, "pooling": "max"},
        {"kind": "id", "name": "liked", "num_embeddings": 8, "weighted": True},
        {"kind": "id", "name": "total", "column": "liked", "table": "liked", "num_embeddings": 8, "pooling": "sum"}
        | {"weighted": True},
        {"kind": "id", "name": "first", "column": "liked", "num_embeddings": 8, "weighted": True, "pooling": "tile"}
        | {"tile_length": 2},
        {"kind": "sequence", "name": "clicked", "table": "item", "pooling": "tile", "tile_length": 2},
        {"kind": "raw", "name": "price", "boundaries": [2.0], "table": "item"},
    ],
    "item": [{"kind": "id", "name": "item", "num_embeddings": 8}],
    "tables": [{"name": "liked", "dtype": "float16"}, {"name": "item", "dtype": "bfloat16"}],
}


@pytest.fixture(params=["multi_tower", "two_tower"])
def rich(request):
    """A model of every way to pool, with weights and narrow tables."""
    rows = ROWS.append_column("liked", pa.array([["a:0.5", "b:2"], [], ["b:-1"], ["a", "a:3", "c:0.25"]]))
    engine = Engine.build(Features.model_validate(RICH))
    engine.fit([rows], [rows])
    torch.manual_seed(0)
    return models.build(_config(request.param), engine, _contract(request.param)), engine, rows


def test_weights_maxima_and_tiles_are_those_of_plain_python(rich):
    model, engine, rows = rich
    query, item = engine.transform(rows, "query"), engine.transform(rows, "item")
    sparse = jagged(query, item, 6)
    if isinstance(model, RetrievalModel):
        found = torch.cat(model.tables.by_side(sparse, (4, 4)), dim=1).detach().numpy()
    else:
        found = model.tables(sparse, 4).pooled_BP.detach().numpy()
    assert found.dtype == np.float32
    weights = {n.split(".")[-2]: w.detach().float().numpy() for n, w in model.tables.state_dict().items()}
    start = 0
    for feature, width in zip(model.tables.pooled_features, model.tables.pooled_widths, strict=True):
        own = (query.sparse | item.sparse)[feature.name]
        by_id = np.ones(len(own.values)) if own.weights is None else own.weights
        ends = np.cumsum(own.lengths)
        for row, (end, length) in enumerate(zip(ends, own.lengths, strict=True)):
            places = range(end - length, end)
            vectors = [by_id[n] * weights[feature.table][own.values[n]] for n in places]
            expected = np.zeros(width)
            if feature.pooling == "tile":
                for place, vector in enumerate(vectors[:2]):
                    expected[place * 4 : place * 4 + 4] = vector
            elif vectors:
                total = sum(by_id[n] for n in places) if feature.pooling == "mean" else 1
                expected = np.max(vectors, axis=0) if feature.pooling == "max" else np.sum(vectors, axis=0) / total
            np.testing.assert_allclose(found[row, start : start + width], expected, rtol=2e-3, atol=1e-6)
        start += width


def test_weights_maxima_and_tiles_script_as_they_are(rich):
    model, engine, rows = rich
    query, item = engine.transform(rows, "query"), engine.transform(rows, "item")
    weights = {name.split(".")[-2]: weight for name, weight in model.tables.state_dict().items()}
    eager = _outputs(model, engine, rows=rows)
    if isinstance(model, RankingModel):
        results = [torch.jit.script(Ranker(model, weights))(ranker_inputs(query, item))]
    else:
        sides = zip(towers(model, weights).values(), (query, item), strict=True)
        results = [torch.jit.script(tower)(tower_inputs(encoded)) for tower, encoded in sides]
    for found, expected in zip(results, eager, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_weights_maxima_and_tiles_are_exported_as_they_are(rich, tmp_path):
    _program_equals_eager(*rich, tmp_path)


def test_two_towers_refuse_what_is_not_pooled():
    with pytest.raises(ValueError, match="feature 'clicked': pooling none, and two_tower reads pooled features"):
        models.build(_config("two_tower"), _engine("multi_tower_din"), RetrievalModel)


@pytest.mark.parametrize(
    ("kind", "features", "changes", "message"),
    [
        ("dlrm", "multi_tower_din", {}, "feature 'clicked': pooling none, and dlrm reads pooled features"),
        ("multi_tower", "multi_tower_din", {}, "feature 'clicked': pooling none, and multi_tower reads pooled"),
        ("multi_tower", "dlrm", {"towers": [{"features": [], "dense": False, "hidden": [4]}]}, "reads no feature"),
        ("multi_tower_din", "dlrm", {}, "no feature 'clicked' of that kind"),
        (
            "multi_tower_din",
            "multi_tower_din",
            {"attention": [{"sequences": ["clicked"], "targets": ["kind"]}]},
            "sequence 'clicked' is of 4 columns of table 'item', its target 'kind' of 4 columns of table 'kind'",
        ),
        (
            "multi_tower_din",
            "multi_tower_din",
            {"attention": [{"sequences": ["clicked"], "targets": ["item"]}]},
            "feature 'clicked_kind': pooling none, and no model.attention names it",
        ),
        (
            "multi_tower_din",
            "multi_tower_din",
            {"attention": [{"sequences": ["clicked"], "targets": ["item", "kind"]}]},
            "1 sequences and 2 targets; name each sequence's target",
        ),
        (
            "multi_tower_din",
            "multi_tower_din",
            {"attention": [{"sequences": ["clicked", "clicked_kind"], "targets": ["item", None]}]},
            "sequence 'clicked_kind' is of 4 columns of table 'kind', its target null; a sequence of ids goes with",
        ),
        (
            "multi_tower_din",
            "multi_tower_din",
            {"towers": [{"features": ["usr"], "hidden": [4]}]},
            r"model.towers\[0\].features: there is no feature 'usr'",
        ),
        (
            "two_tower",
            "two_tower",
            {},
            "model.kind 'two_tower': not a model that scores labelled rows; use one of .*, dlrm, .*multi_tower",
        ),
    ],
)
def test_a_model_that_cannot_be_built_says_what_to_do(kind, features, changes, message):
    with pytest.raises(ValueError, match=message):
        models.build(_config(kind, **changes), _engine(features), RankingModel)


NUMBERED = {
    "embedding_dim": 4,
    "query": [
        {"kind": "id", "name": "user", "num_embeddings": 8},
        {"kind": "raw", "name": "ages", "pooling": "none", "normalizer": "zscore", "group": "clicks"},
        {"kind": "sequence", "name": "clicked", "table": "item", "pooling": "none", "group": "clicks"},
    ],
    "item": [
        {"kind": "id", "name": "item", "num_embeddings": 8},
        {"kind": "raw", "name": "shape", "dim": 2},
        {"kind": "raw", "name": "shapes", "dim": 2, "pooling": "none", "group": "clicks"},
        {"kind": "raw", "name": "price"},
    ],
}
ATTENTION = {"sequences": ["clicked", "shapes", "ages"], "targets": ["item", "shape", None], "hidden": [4]}


@pytest.fixture
def numbered():
    """Sequences of ids and of numbers beside each other; only one of the numbers has something to be compared with."""
    rows = ROWS.append_column("ages", pa.array([[1, 5], [], [2], [3, None, 1]]))
    rows = rows.append_column("shape", pa.array([[1, 2], [3, 4], [5, 6], None]))
    rows = rows.append_column("shapes", pa.array([[[1, 0], [0, 1]], None, [[2, 2]], [None, [3, 1], [1, 1]]]))
    engine = Engine.build(Features.model_validate(NUMBERED))
    engine.fit([rows], [rows])
    return engine, engine.transform(rows, "query"), engine.transform(rows, "item")


def test_a_sequence_s_numbers_stand_beside_its_ids_embeddings(numbered):
    engine, query, item = numbered
    torch.manual_seed(0)
    model = models.build(
        _config("multi_tower_din", attention=[ATTENTION], towers=[{"hidden": [4]}]), engine, RankingModel
    )
    handed = []
    hook = model.head.attended[0].attention.register_forward_pre_hook(lambda _, inputs: handed.append(inputs))
    logits = model(jagged(query, item, 6), dense(query, item), numbers(query, item))
    hook.remove()
    ((targets, elements, lengths),) = handed
    weight = model.tables.state_dict()["rows.0.embeddings.item.weight"].numpy()
    own = query.sparse["clicked"]
    places = [slice(int(end - n), int(end)) for end, n in zip(np.cumsum(own.lengths), own.lengths, strict=True)]
    # A missing entry is filled with 0, after normalising by the mean 2.4.
    ages = (np.array([1, 5, 2, 3, np.nan, 1]) - 2.4) / np.std([1, 5, 2, 3, 1])
    shapes = [[1, 0], [0, 1], [2, 2], [0, 0], [3, 1], [1, 1]]
    expected = np.concatenate([weight[own.values], shapes, np.nan_to_num(ages)[:, None]], axis=1)
    np.testing.assert_allclose(elements.detach().numpy(), expected, rtol=1e-6)
    candidates = np.concatenate([weight[item.sparse["item"].values], item.dense[:, :2], np.zeros((4, 1))], axis=1)
    assert item.dense.tolist() == [[1, 2, 1], [3, 4, 2], [5, 6, 0], [0, 0, 3]]
    np.testing.assert_allclose(targets.detach().numpy(), candidates)
    assert lengths.tolist() == [place.stop - place.start for place in places] == [2, 0, 1, 3]
    logits.sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())
    weights = {name.split(".")[-2]: weight for name, weight in model.tables.state_dict().items()}
    scripted = torch.jit.script(Ranker(model, weights, [*query.numbers, *item.numbers]))
    torch.testing.assert_close(scripted(ranker_inputs(query, item)), logits)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sequences": ["clicked", "ages"], "targets": ["item", None]}, "feature 'shapes': pooling none, and no model"),
        ({"targets": ["item", "price", None]}, "'shapes' is of 2 numbers, its target 'price' of 1 numbers; a sequence"),
        ({"targets": ["item", "shape", "item"]}, "'ages' is of 1 numbers, its target 'item' of 4 columns of table"),
        ({"targets": ["price", "shape", None]}, "'clicked' is of 4 columns of table 'item', its target 'price' of 1"),
        ({"targets": ["item", "shape", "ages"]}, r"targets: there is no feature 'ages' of that kind \(there are: user"),
    ],
)
def test_numbers_are_compared_with_as_many_numbers(numbered, changes, message):
    config = _config("multi_tower_din", attention=[ATTENTION | changes], towers=[{"hidden": [4]}])
    with pytest.raises(ValueError, match=message):
        models.build(config, numbered[0], RankingModel)


def test_an_attention_is_to_something():
    with pytest.raises(ValidationError, match="targets: all are null"):
        _config("multi_tower_din", attention=[{"sequences": ["ages"], "targets": [None]}])


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in POOLING])
def test_other_models_take_no_sequence_of_numbers(numbered, kind):
    with pytest.raises(ValueError, match=f"feature 'ages': a sequence of numbers .*, and {kind} reads none; give it"):
        models.build(_config(kind), numbered[0], _contract(kind))


def test_widths_that_differ_are_refused_where_they_are_multiplied():
    engine = _engine("dlrm")
    narrow = [t.model_copy(update={"embedding_dim": 2}) if t.name == "user" else t for t in engine.tables]
    engine.tables = tuple(narrow)
    with pytest.raises(ValueError, match="so they have one embedding_dim, not"):
        models.build(_config("dlrm"), engine, RankingModel)
