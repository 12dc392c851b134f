"""First weights of tables, drawn so that every number of ranks draws alike."""

import torch
from torch.distributed._shard.sharded_tensor.api import ShardedTensor

from recsys_core.artifacts import digest_of
from recsys_core.features import Initializer
from recsys_core.models.blocks.initializers import fill

_ROWS_PER_DRAW = 65_536


def draw_start(name: str, weight: ShardedTensor, seed: int, initializer: Initializer | None = None) -> None:
    """Draw the start weights of this rank's parts of the table whose weight is called `name`."""
    for piece in weight.local_shards():
        seeds = (seed, int(digest_of(name)[:15], 16))
        _draw(piece.tensor, piece.metadata.shard_offsets, weight.size(), seeds, initializer)


def _draw(
    piece: torch.Tensor,
    offsets: list[int],
    size: torch.Size,
    seeds: tuple[int, int],
    initializer: Initializer | None = None,
) -> None:
    """Fill `piece`, which stands at `offsets` of a [rows, dim] table, as the initializer says."""
    num_rows, dim = size
    first, last = offsets[0], offsets[0] + len(piece)
    for block in range(first // _ROWS_PER_DRAW, -(-last // _ROWS_PER_DRAW)):
        low = block * _ROWS_PER_DRAW
        generator = torch.Generator().manual_seed((seeds[0] * 1_000_003 + seeds[1] + block) % 2**63)
        drawn = torch.empty(min(_ROWS_PER_DRAW, num_rows - low), dim)
        fill(drawn, initializer, num_rows, generator)
        a, b = max(first, low), min(last, low + _ROWS_PER_DRAW)
        columns = slice(offsets[1], offsets[1] + piece.shape[1])
        with torch.no_grad():
            piece[a - first : b - first] = drawn[a - low : b - low, columns]
