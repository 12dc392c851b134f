"""Tables go to a checkpoint and come back piece by piece, and may have grown in between."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, PoolingType

from recsys_core import checkpoint, distributed, optim, sharding
from recsys_core.checkpoint import chunks as chunking
from recsys_core.checkpoint import files, storage
from recsys_core.distributed import World

DIM = 4
WEIGHT = "tables.embedding_bags.city.weight"
KEYS = (f"model.{WEIGHT}", f"optimizer.{WEIGHT}.city.momentum1")


class Model(nn.Module):
    def __init__(self, num_rows: int) -> None:
        super().__init__()
        tables = [
            EmbeddingBagConfig(
                name=name, num_embeddings=rows, embedding_dim=DIM, feature_names=[name], pooling=PoolingType.SUM
            )
            for name, rows in (("city", num_rows), ("tag", 3))
        ]
        self.tables = EmbeddingBagCollection(device=torch.device("meta"), tables=tables)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with distributed.world("cpu") as world:
        yield world


def state(num_rows: int, world: World, seed: int) -> dict[str, Any]:
    """The weights are drawn; the optimizer's numbers count up from the seed."""
    model = Model(num_rows)
    optim.fuse(optim.SparseConfig(), model.tables, world.device)
    sharded = sharding.shard(model, ["city", "tag"], sharding.Config(), world, seed)
    moments = sharded.fused_optimizer.state_dict()["state"]
    for held in moments.values():
        for value in held.values():
            tensor = value.local_shards()[0].tensor
            tensor.copy_(torch.arange(len(tensor)) + seed)
    return {"model": sharded.state_dict(), "optimizer": moments}


def tensor(held: dict[str, Any], key: str) -> torch.Tensor:
    return chunking.flat(held)[key].local_shards()[0].tensor


@pytest.mark.parametrize(("piece_bytes", "expected"), [(1, 50), (7 * 4 * DIM, 8), (1 << 26, 1)])
def test_a_table_in_pieces_comes_back_whole(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece_bytes: int, expected: int
) -> None:
    monkeypatch.setattr(chunking, "_CHUNK_BYTES", piece_bytes)
    saved, loaded = state(50, world, 1), state(50, world, 2)
    checkpoint.save(tmp_path / "saved", saved, checkpoint.TrainProgress(), world)
    chunks = storage.layout(tmp_path / "saved").tensors[KEYS[0]].chunks
    assert len(chunks) == expected
    assert sorted(chunk.offsets[0] for chunk in chunks)[:2] == ([0, -(-50 // expected)] if expected > 1 else [0])
    checkpoint.load(tmp_path / "saved", loaded)
    for key in (*KEYS, "model.tables.embedding_bags.tag.weight"):
        assert torch.equal(tensor(loaded, key), tensor(saved, key)), key
    shapes = {record.key: record.shape for record in files.describe(tmp_path / "saved")}
    assert [shapes[key] for key in KEYS] == [(50, DIM), (50,)]
    assert not list(files.diff(tmp_path / "saved", tmp_path / "saved"))


def test_a_table_that_has_grown_keeps_its_new_rows(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunking, "_CHUNK_BYTES", 7 * 4 * DIM)
    saved, grown = state(50, world, 1), state(60, world, 2)
    checkpoint.save(tmp_path / "saved", saved, checkpoint.TrainProgress(), world)
    fresh = {key: tensor(grown, key)[50:].clone() for key in KEYS}
    with pytest.raises(ValueError, match=r"another model:\n  model.*city\.weight: checkpoint \(50, 4\), model \(60"):
        checkpoint.load(tmp_path / "saved", grown)
    checkpoint.load(tmp_path / "saved", grown, grown=KEYS)
    for key in KEYS:
        assert torch.equal(tensor(grown, key)[:50], tensor(saved, key))
        assert torch.equal(tensor(grown, key)[50:], fresh[key])
    with pytest.raises(ValueError, match=r"checkpoint \(50, 4\), model \(40, 4\)"):
        checkpoint.load(tmp_path / "saved", state(40, world, 2), grown=KEYS)
