"""SASRec's modules. Legend: X packed tokens, D width."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from recsys_core.models.blocks.mlp import mlp
from recsys_core.models.blocks.ordered import OrderedModel, require_heads
from recsys_core.models.blocks.packing import causal_attention, places
from recsys_core.models.sasrec import Config


class Block(nn.Module):
    """[X, D] → [X, D]: causal attention and a feed-forward network, each of the normalised input and added to it."""

    def __init__(self, config: Config) -> None:
        """Take the section's options."""
        super().__init__()
        dim = config.output_dim
        self.num_heads: int = config.num_heads
        self.attention_norm, self.forward_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.read, self.write = mlp(dim, (), 3 * dim), mlp(dim, (), dim)
        self.feed_forward = mlp(dim, (config.forward_dim,), dim)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, tokens: Tensor, rows: list[int], widths: list[int]) -> Tensor:
        """Return the tokens' new vectors."""
        query, key, value = self.read(self.attention_norm(tokens)).chunk(3, dim=1)
        found = causal_attention(query, key, value, self.num_heads, rows, widths)
        tokens = tokens + self.dropout(self.write(found))
        return tokens + self.dropout(self.feed_forward(self.forward_norm(tokens)))


class Encoder(nn.Module):
    """(tokens [X, D], blocks' rows, blocks' widths) → states [X, D]."""

    def __init__(self, config: Config) -> None:
        """Take the section's options."""
        super().__init__()
        self.scale: float = config.output_dim**0.5
        self.positions = nn.Parameter(torch.empty(config.max_length + 1, config.output_dim))
        nn.init.normal_(self.positions, std=0.02)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_blocks))
        self.norm = nn.LayerNorm(config.output_dim)

    def forward(self, tokens: Tensor, rows: list[int], widths: list[int]) -> Tensor:
        """Return the state behind each token."""
        # Rows of a table are small, as they are what states are multiplied with.
        positions = functional.embedding(places(rows, widths, tokens.device), self.positions)
        tokens = self.dropout(tokens * self.scale + positions)
        for block in self.blocks:
            tokens = block(tokens, rows, widths)
        return self.norm(tokens)


class Model(OrderedModel[Config]):
    """See `OrderedModel`."""

    def make_encoder(self, config: Config) -> nn.Module:
        """See the base class.

        Raises:
            ValueError: heads that do not divide a state.
        """
        require_heads(config.output_dim, config.num_heads)
        return Encoder(config)
