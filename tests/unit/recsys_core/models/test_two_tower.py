"""Two towers with weights a person can multiply."""

import pytest
import torch
from torchrec import KeyedJaggedTensor

from recsys_core.features import SparseFeature, TableSpec
from recsys_core.models.base import TowerInputs
from recsys_core.models.blocks.mlp import mlp
from recsys_core.models.two_tower import Config
from recsys_core.models.two_tower.model import Model

TABLE = TableSpec(
    name="item_id", num_embeddings=3, embedding_dim=2, features=(("history", "query"), ("item_id", "item"))
)


def _model(pooling="mean", item_pooling="mean", **config) -> Model:
    return Model(
        Config(output_dim=2, query_hidden=(), item_hidden=(), **config),
        (TABLE,),
        query=TowerInputs((SparseFeature("history", "item_id", pooling),), 1),
        item=TowerInputs((SparseFeature("item_id", "item_id", item_pooling),), 0),
        tables_device=torch.device("cpu"),
    )


def _set_weights(model: Model) -> None:
    with torch.no_grad():
        model.tables.bags.embedding_bags["item_id"].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 4.0]]))
        model.query.layers[0].weight.copy_(torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]))
        model.item.layers[0].weight.copy_(torch.eye(2))
        model.query.layers[0].bias.zero_()
        model.item.layers[0].bias.zero_()


def _batch():
    # history: [0 1] [], item: [2] [0]
    keys = ["query.history", "item.item_id"]
    return KeyedJaggedTensor(keys, torch.tensor([0, 1, 2, 0]), lengths=torch.tensor([2, 0, 1, 1]))


def test_forward_by_hand():
    model = _model(similarity="inner_product")
    _set_weights(model)
    query, item = model(_batch(), torch.tensor([[10.0], [20.0]]), torch.zeros(2, 0))
    # Query 0 pools ([1,0]+[0,2])/2 = [.5,1] and adds its dense 10 to the first output; query 1 pools nothing.
    assert query.tolist() == [[10.5, 1.0], [20.0, 0.0]]
    assert item.tolist() == [[3.0, 4.0], [1.0, 0.0]]


def test_cosine_towers_end_in_unit_vectors():
    model = _model()
    _set_weights(model)
    _, item = model(_batch(), torch.tensor([[10.0], [20.0]]), torch.zeros(2, 0))
    assert item[0].tolist() == pytest.approx([0.6, 0.8])


def test_features_of_one_table_may_pool_differently():
    model = _model(pooling="sum", similarity="inner_product")
    _set_weights(model)
    query, item = model(_batch(), torch.tensor([[10.0], [20.0]]), torch.zeros(2, 0))
    assert query.tolist() == [[11.0, 2.0], [20.0, 0.0]]
    assert item.tolist() == [[3.0, 4.0], [1.0, 0.0]]


@pytest.mark.parametrize(
    ("feature", "pooled"),
    [
        # Rows [1, 0] and [0, 2], weighed by 3 and -1.
        (SparseFeature("history", "item_id", "max"), [[1.0, 2.0], [0.0, 0.0]]),
        (SparseFeature("history", "item_id", "max", weighted=True), [[3.0, 0.0], [0.0, 0.0]]),
        (SparseFeature("history", "item_id", "sum", weighted=True), [[3.0, -2.0], [0.0, 0.0]]),
        (SparseFeature("history", "item_id", "mean", weighted=True), [[1.5, -1.0], [0.0, 0.0]]),
        (SparseFeature("history", "item_id", "tile", 3), [[1.0, 0.0, 0.0, 2.0, 0.0, 0.0], [0.0] * 6]),
        (SparseFeature("history", "item_id", "tile", 1, weighted=True), [[3.0, 0.0], [0.0, 0.0]]),
    ],
)
def test_weights_maxima_and_tiles_by_hand(feature, pooled):
    width = len(pooled[0])
    model = Model(
        Config(output_dim=width, query_hidden=(), item_hidden=(), similarity="inner_product"),
        (TABLE,),
        query=TowerInputs((feature,), 0),
        item=TowerInputs((SparseFeature("item_id", "item_id", "mean"),), 0),
        tables_device=torch.device("cpu"),
    )
    (weight,) = model.tables.parameters()
    with torch.no_grad():
        weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 4.0]]))
        for tower, identity in ((model.query, torch.eye(width)), (model.item, torch.eye(width, 2))):
            tower.layers[0].weight.copy_(identity)
            tower.layers[0].bias.zero_()
    weights = torch.tensor([3.0, -1.0, 1.0, 1.0]) if feature.weighted else None
    batch = KeyedJaggedTensor(
        ["query.history", "item.item_id"],
        torch.tensor([0, 1, 2, 0]),
        weights=weights,
        lengths=torch.tensor([2, 0, 1, 1]),
    )
    query, item = model(batch, torch.zeros(2, 0), torch.zeros(2, 0))
    assert query.tolist() == pooled
    assert item[:, :2].tolist() == [[3.0, 4.0], [1.0, 0.0]]


def test_a_tower_without_ids_is_refused():
    with pytest.raises(ValueError, match=r"features\.query: none of ids that is pooled"):
        Model(
            Config(),
            (TABLE,),
            query=TowerInputs((), 1),
            item=TowerInputs((SparseFeature("item_id", "item_id", "mean"),), 0),
            tables_device=torch.device("cpu"),
        )


def test_mlp_ends_linearly():
    layers = mlp(3, (5, 4), 2, dropout=0.5)
    assert [type(layer).__name__ for layer in layers] == ["Linear", "ReLU", "Dropout"] * 2 + ["Linear"]
    assert layers[-1].out_features == 2
