"""GRU4Rec's modules. Legend: X packed tokens, D width."""

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from recsys_core.models.blocks.ordered import OrderedModel
from recsys_core.models.blocks.packing import places, sizes
from recsys_core.models.gru4rec import Config


class Encoder(nn.Module):
    """(tokens [X, D], blocks' rows, blocks' widths) → states [X, D]."""

    def __init__(self, config: Config) -> None:
        """Take the section's options."""
        super().__init__()
        dim, count = config.output_dim, config.num_layers
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.GRU(dim, dim, count, batch_first=True, dropout=config.dropout if count > 1 else 0.0)
        self.scale: float = dim**0.5
        self.write = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor, rows: list[int], widths: list[int]) -> Tensor:
        """Return the state behind each token."""
        # Rows of a table are small, as they are what states are multiplied with.
        tokens = self.dropout(tokens * self.scale)
        return self.write(self.dropout(self._states(tokens, rows, widths)))

    def _states(self, tokens: Tensor, rows: list[int], widths: list[int]) -> Tensor:
        if torch.jit.is_scripting():  # pyright: ignore[reportPrivateImportUsage]
            return self._by_block(tokens, rows, widths)
        else:  # noqa: RET505 - TorchScript compiles a branch that is not taken unless it is an `else`
            packs = len(rows) > 1 and not torch.compiler.is_compiling()
            return self._all_rows(tokens, rows, widths) if packs else self._by_block(tokens, rows, widths)

    def _by_block(self, tokens: Tensor, rows: list[int], widths: list[int]) -> Tensor:
        blocks = torch.split(tokens, sizes(rows, widths))
        made: list[Tensor] = []
        for i in range(len(rows)):
            states, _ = self.layers(blocks[i].view(rows[i], -1, tokens.shape[1]))
            made.append(states.reshape(-1, tokens.shape[1]))
        return torch.cat(made)

    @torch.jit.unused
    def _all_rows(self, tokens_XD: Tensor, rows: list[int], widths: list[int]) -> Tensor:
        """Step through all rows at once, of which fewer are left with each place; the longest stand first."""
        place_X = places(rows, widths, tokens_XD.device)
        order_X = torch.argsort(place_X, stable=True)
        back_X = torch.empty_like(order_X)
        back_X[order_X] = torch.arange(len(order_X), device=order_X.device)
        # A copy to places has a gather for its gradient, and a gather a slow scatter.
        by_place_XD = torch.empty_like(tokens_XD).index_copy(0, back_X, tokens_XD)
        states, _ = self.layers(PackedSequence(by_place_XD, torch.bincount(place_X).cpu()))
        return torch.empty_like(tokens_XD).index_copy(0, order_X, states.data)


class Model(OrderedModel[Config]):
    """See `OrderedModel`."""

    def make_encoder(self, config: Config) -> nn.Module:
        """See the base class."""
        return Encoder(config)
