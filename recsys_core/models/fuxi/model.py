"""FuXi-alpha's modules. Legend: X packed tokens, D width, H heads, T places of a row."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from recsys_core.models.blocks.mlp import mlp
from recsys_core.models.blocks.ordered import OrderedModel, Stack, require_heads
from recsys_core.models.blocks.packing import heads, sizes
from recsys_core.models.fuxi import Config


class Block(nn.Module):
    """[X, D] → [X, D]: o = x + f(norm(Σ SiLU(q·k) v / T, Σ bias v) * u), and o + h(SiLU(g(norm(o))) * g'(norm(o)))."""

    distances: Tensor

    def __init__(self, config: Config) -> None:
        """Take the section's options."""
        super().__init__()
        dim, most = config.output_dim, config.max_length + 1
        self.num_heads: int = config.num_heads
        self.dim: int = dim
        self.norm, self.found_norm, self.forward_norm = nn.LayerNorm(dim), nn.LayerNorm(2 * dim), nn.LayerNorm(dim)
        # Query, key, value, and a gate for each channel.
        self.read, self.write = mlp(dim, (), 5 * dim), mlp(2 * dim, (), dim)
        self.widen, self.narrow = mlp(dim, (), 2 * config.forward_dim), mlp(config.forward_dim, (), dim)
        self.bias = nn.Parameter(torch.empty(most))
        nn.init.normal_(self.bias, std=0.02)
        place_T = torch.arange(most)
        self.register_buffer("distances", place_T[:, None] - place_T, persistent=False)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, tokens: Tensor, rows: list[int], widths: list[int]) -> Tensor:
        """Return the tokens' new vectors."""
        dim = self.dim
        read = functional.silu(self.read(self.norm(tokens)))
        query, key, value, gate = torch.split(read, [dim, dim, dim, 2 * dim], dim=1)
        counts, most = sizes(rows, widths), self.distances.shape[0]
        # What lies behind a token has a weight of 0. The first block has the longest rows.
        distance_TT = self.distances[: widths[0], : widths[0]]
        known_TT = (distance_TT >= 0).to(tokens.dtype)
        bias_TT, causal_TT = self.bias[distance_TT.clamp(min=0)] * known_TT, known_TT / most
        queries, keys, values = torch.split(query, counts), torch.split(key, counts), torch.split(value, counts)
        made: list[Tensor] = []
        for i in range(len(rows)):
            width = widths[i]
            query_BHTD, key_BHTD = heads(queries[i], rows[i], self.num_heads), heads(keys[i], rows[i], self.num_heads)
            value_BHTD = heads(values[i], rows[i], self.num_heads)
            scores = torch.matmul(query_BHTD, key_BHTD.transpose(2, 3))
            by_content = torch.matmul(functional.silu(scores) * causal_TT[:width, :width], value_BHTD)
            by_distance = torch.matmul(bias_TT[:width, :width], value_BHTD)
            # [rows, T, channel, H, D / H].
            both = torch.stack([by_content.transpose(1, 2), by_distance.transpose(1, 2)], dim=2)
            made.append(both.reshape(counts[i], 2 * dim))
        tokens = tokens + self.dropout(self.write(self.found_norm(torch.cat(made)) * gate))
        gates, wide = self.widen(self.forward_norm(tokens)).chunk(2, dim=1)
        return tokens + self.dropout(self.narrow(functional.silu(gates) * wide))


class Model(OrderedModel[Config]):
    """See `OrderedModel`."""

    def make_encoder(self, config: Config) -> nn.Module:
        """See the base class.

        Raises:
            ValueError: heads that do not divide a state.
        """
        require_heads(config.output_dim, config.num_heads)
        return Stack(config, (Block(config) for _ in range(config.num_blocks)))
