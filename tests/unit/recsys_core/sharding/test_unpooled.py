from typing import Any

import pytest
import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation, PoolingMode
from fbgemm_gpu.split_table_batched_embeddings_ops_training import ComputeDevice, SplitTableBatchedEmbeddingBagsCodegen

from recsys_core.sharding import unpooled

DIM, ROWS = 4, (50, 7)


def tables(optimizer: EmbOptimType, start: torch.Tensor) -> Any:
    """Two tables, the first for two features, the second for one."""
    made: Any = SplitTableBatchedEmbeddingBagsCodegen(
        [(rows, DIM, EmbeddingLocation.HOST, ComputeDevice.CPU) for rows in ROWS],
        feature_table_map=[0, 0, 1],
        pooling_mode=PoolingMode.NONE,
        optimizer=optimizer,
        learning_rate=0.5,
    )
    made.weights_host.data.copy_(start)
    return made


def batch(lengths: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids of three features over rows of these lengths; ids come again within and between features."""
    num_rows = len(lengths) // 3
    counts = [sum(lengths[i * num_rows : (i + 1) * num_rows]) for i in range(3)]
    ids = torch.cat([torch.randint(0, size, (count,)) for size, count in zip((9, 50, 7), counts, strict=True)])
    return ids, torch.tensor([0, *lengths]).cumsum(0)


@pytest.mark.parametrize(
    "optimizer", [EmbOptimType.EXACT_SGD, EmbOptimType.EXACT_ADAGRAD, EmbOptimType.EXACT_ROWWISE_ADAGRAD]
)
def test_bags_of_one_id_are_what_the_unpooled_kernel_makes(optimizer):
    torch.manual_seed(0)
    start = torch.randn(sum(ROWS) * DIM)
    slow, fast = tables(optimizer, start), tables(optimizer, start)
    unpooled.look_up_as_bags(torch.nn.ModuleList([fast]))
    for lengths in ([2, 0, 3, 20, 1, 0, 4, 4, 4], [0, 0, 0, 5, 0, 1, 0, 0, 0], [0] * 9):
        for learning_rate in (0.5, 0.1):
            slow.set_learning_rate(learning_rate)
            fast.set_learning_rate(learning_rate)
            ids, offsets = batch(lengths)
            expected, found = slow(ids, offsets), fast(ids, offsets)
            assert found.shape == (len(ids), DIM)
            torch.testing.assert_close(found, expected)
            gradient = torch.randn_like(expected)
            expected.backward(gradient)
            found.backward(gradient)
            torch.testing.assert_close(fast.weights_host, slow.weights_host)
    states = zip(slow.split_optimizer_states(), fast.split_optimizer_states(), strict=True)
    for expected_state, found_state in states:
        torch.testing.assert_close(found_state, expected_state)
    assert not torch.equal(fast.weights_host, start)


def test_what_pools_already_is_left_alone():
    made = tables(EmbOptimType.EXACT_SGD, torch.zeros(sum(ROWS) * DIM))
    made.pooling_mode = PoolingMode.SUM
    unpooled.look_up_as_bags(torch.nn.ModuleList([made]))
    assert "forward" not in vars(made)
