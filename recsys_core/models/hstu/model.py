"""HSTU's modules. Legend: X packed tokens, D width, H heads, T places of a row."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from recsys_core.models.blocks.mlp import mlp
from recsys_core.models.blocks.ordered import OrderedModel, Stack, require_heads
from recsys_core.models.blocks.packing import heads, sizes
from recsys_core.models.hstu import Config


class Block(nn.Module):
    """[X, D] → [X, D]: x + f(norm(Σ SiLU(q·k + bias) v / T) * u), of u, v, q, k = SiLU(g(norm(x)))."""

    distances: Tensor

    def __init__(self, config: Config) -> None:
        """Take the section's options."""
        super().__init__()
        dim, most = config.output_dim, config.max_length + 1
        self.num_heads: int = config.num_heads
        self.norm, self.found_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.read, self.write = mlp(dim, (), 4 * dim), mlp(dim, (), dim)
        self.bias = nn.Parameter(torch.empty(most))
        nn.init.normal_(self.bias, std=0.02)
        place_T = torch.arange(most)
        self.register_buffer("distances", place_T[:, None] - place_T, persistent=False)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, tokens: Tensor, rows: list[int], widths: list[int]) -> Tensor:
        """Return the tokens' new vectors."""
        gate, value, query, key = functional.silu(self.read(self.norm(tokens))).chunk(4, dim=1)
        counts, most = sizes(rows, widths), self.distances.shape[0]
        # What lies behind a token has a weight of 0. The first block has the longest rows.
        distance_TT = self.distances[: widths[0], : widths[0]]
        bias_TT, causal_TT = self.bias[distance_TT.clamp(min=0)], (distance_TT >= 0).to(tokens.dtype) / most
        queries, keys, values = torch.split(query, counts), torch.split(key, counts), torch.split(value, counts)
        made: list[Tensor] = []
        for i in range(len(rows)):
            width = widths[i]
            query_BHTD, key_BHTD = heads(queries[i], rows[i], self.num_heads), heads(keys[i], rows[i], self.num_heads)
            scores = torch.matmul(query_BHTD, key_BHTD.transpose(2, 3)) + bias_TT[:width, :width]
            weights = functional.silu(scores) * causal_TT[:width, :width]
            found = torch.matmul(weights, heads(values[i], rows[i], self.num_heads))
            made.append(found.transpose(1, 2).reshape(counts[i], tokens.shape[1]))
        return tokens + self.dropout(self.write(self.found_norm(torch.cat(made)) * gate))


class Model(OrderedModel[Config]):
    """See `OrderedModel`."""

    def make_encoder(self, config: Config) -> nn.Module:
        """See the base class.

        Raises:
            ValueError: heads that do not divide a state.
        """
        require_heads(config.output_dim, config.num_heads)
        return Stack(config, (Block(config) for _ in range(config.num_blocks)))
