"""What retrieval models share that read a query's sequences in their order: tokens in, a state behind each of them.

The first token is the query's own: a vector that all rows share, and its pooled features and dense fields if it has
any. One is there for each entry of its sequences, the oldest first. The state behind a token knows that token and those
before it, so that each is a query of its own: what comes next is to be found with it. The state behind the last is what
is exported. A state of a whole sequence and that of its beginning alone are the same.

Items are rows of the table that the sequence shares, as they are; where they have other features too, or another width
than states, these go through one linear layer side by side, and so do sequences that stand side by side.

Legend: B queries, M items, P pooled widths, F dense fields, N entries of all rows together, X packed tokens, D width of
states, T states that are asked for.
"""

import operator
from abc import abstractmethod
from collections.abc import Iterable
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchrec import KeyedJaggedTensor

from recsys_core.features import TableSpec
from recsys_core.models import base
from recsys_core.models.blocks import behaviours, layout
from recsys_core.models.blocks.embeddings import Embeddings
from recsys_core.models.blocks.jagged import row_numbers
from recsys_core.models.blocks.packing import pack, sizes, total
from recsys_core.models.blocks.sections import Ordered

Settings = TypeVar("Settings", bound=Ordered)


class QueryTower(nn.Module):
    """(pooled [B, P], dense [B, F], sequences' embeddings [N, E] each, their lengths [B]) → [B, D].

    With `rows` and `known` [T] it returns [T, D]: of row `rows[t]` the state that knows its first `known[t]` entries.
    """

    def __init__(self, num_fields: int, widths: list[int], config: Ordered, encoder: nn.Module) -> None:
        """`num_fields` is P + F; `encoder`: (tokens [X, D], blocks' rows, blocks' widths) → states [X, D], causal."""
        super().__init__()
        dim = config.output_dim
        self.most: int = config.max_length + 1
        self.normalise: bool = config.similarity == "cosine"
        self.start = nn.Parameter(torch.empty(dim))
        nn.init.normal_(self.start, std=0.02)
        self.fields = nn.Linear(num_fields, dim, bias=False) if num_fields else None
        self.entries = nn.Linear(sum(widths), dim, bias=False) if widths != [dim] else None
        self.encoder = encoder

    def forward(
        self,
        pooled: Tensor,
        dense: Tensor,
        unpooled: list[Tensor],
        lengths: list[Tensor],
        rows: Tensor | None = None,
        known: Tensor | None = None,
    ) -> Tensor:
        """Return the rows' embeddings, or those of the states that are asked for."""
        lengths_B = lengths[0].to(torch.int64)
        starts_B, block_rows, block_widths = pack(lengths_B + 1, self.most)
        entries_ND = torch.cat(unpooled, dim=1)
        if self.entries is not None:
            entries_ND = self.entries(entries_ND)
        row_N = row_numbers(lengths_B, entries_ND.shape[0])
        # Token 0 of a row is the query's own.
        ahead_B = starts_B + 1 - (torch.cumsum(lengths_B, 0) - lengths_B)
        place_N = torch.arange(entries_ND.shape[0], device=entries_ND.device) + ahead_B.index_select(0, row_N)
        first_BD = self.start.expand(lengths_B.shape[0], -1)
        if self.fields is not None:
            first_BD = first_BD + self.fields(torch.cat([pooled, dense], dim=1))
        tokens_XD = entries_ND.new_zeros(total(sizes(block_rows, block_widths)), entries_ND.shape[1])
        tokens_XD = tokens_XD.index_copy(0, starts_B, first_BD.to(entries_ND.dtype)).index_copy(0, place_N, entries_ND)
        states_XD = self.encoder(tokens_XD, block_rows, block_widths)
        if rows is not None and known is not None:
            wanted = starts_B.index_select(0, rows) + known
        else:
            wanted = starts_B + lengths_B
        states = states_XD.index_select(0, wanted)
        if self.normalise:
            states = functional.normalize(states, dim=1)
        return states


class ItemTower(nn.Module):
    """(pooled [M, P], dense [M, F]) → [M, D]."""

    def __init__(self, widths: tuple[int, ...], num_dense: int, config: Ordered) -> None:
        """`widths` are those of the pooled features."""
        super().__init__()
        self.normalise: bool = config.similarity == "cosine"
        alone = widths == (config.output_dim,) and not num_dense
        self.fields = None if alone else nn.Linear(sum(widths) + num_dense, config.output_dim, bias=False)

    def forward(self, pooled: Tensor, dense: Tensor) -> Tensor:
        """Return the rows' embeddings."""
        output = pooled
        if self.fields is not None:
            output = self.fields(torch.cat([pooled, dense], dim=1))
        if self.normalise:
            output = functional.normalize(output, dim=1)
        return output


class Stack(nn.Module):
    """(tokens [X, D], blocks' rows, blocks' widths) → states [X, D]: an encoder of layers, one behind the other."""

    def __init__(self, config: Ordered, layers: Iterable[nn.Module]) -> None:
        """`layers`: (tokens [X, D], blocks' rows, blocks' widths) → tokens [X, D], causal."""
        super().__init__()
        self.scale: float = config.output_dim**0.5
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(config.output_dim)

    def forward(self, tokens: Tensor, rows: list[int], widths: list[int]) -> Tensor:
        """Return the state behind each token."""
        # Rows of a table are small, as they are what states are multiplied with.
        tokens = self.dropout(tokens * self.scale)
        for block in self.blocks:
            tokens = block(tokens, rows, widths)
        return self.norm(tokens)


class OrderedModel(base.SequenceModel, Generic[Settings]):
    """Sequences of ids in their order; a kind says what makes states of tokens."""

    def __init__(
        self,
        config: Settings,
        tables: tuple[TableSpec, ...],
        query: base.TowerInputs,
        item: base.TowerInputs,
        *,
        tables_device: torch.device,
    ) -> None:
        """Build on the CPU; tables on `tables_device` (`meta` where they are to be sharded).

        Raises:
            ValueError: the query has no sequence, or an item has one; or see `make_encoder` of the kind.
        """
        super().__init__()
        self.embedding_dim, self.similarity = config.output_dim, config.similarity
        if not any(feature.pooling == "none" for feature in query.sparse):
            raise ValueError(
                f"features.query: no sequence that is not pooled, and model.kind {config.kind} reads one in its "
                "order; give it one of kind sequence with pooling: none, or use model.kind: two_tower"
            )
        for feature in item.sparse:
            if feature.pooling == "none":
                raise ValueError(
                    f"feature {feature.name!r}: pooling none, and {config.kind} reads sequences of queries, not of "
                    "items; pool it (mean, sum, max, tile)"
                )
        self.tables = Embeddings(tables, {"query": query.sparse, "item": item.sparse}, tables_device, apart=True)
        self._dense = query.dense, item.dense
        of_query, of_item = self.tables.pooled
        self.query = QueryTower(
            sum(of_query.widths) + query.num_dense, self.tables.unpooled_widths, config, self.make_encoder(config)
        )
        self.item = ItemTower(of_item.widths, item.num_dense, config)

    @abstractmethod
    def make_encoder(self, config: Settings) -> nn.Module:
        """Return what makes states of tokens, see `QueryTower`."""

    def layout(self) -> layout.Layout:
        """See `base.RetrievalModel.layout`."""
        of_query, of_item = self.tables.pooled
        state = layout.units("state", self.embedding_dim)
        axes = {
            "query.fields": layout.pooled(of_query.features, of_query.widths) + layout.numbers(self._dense[0]),
            "query.entries": layout.pooled(self.tables.unpooled_features, self.tables.unpooled_widths),
            "item.fields": layout.pooled(of_item.features, of_item.widths) + layout.numbers(self._dense[1]),
        }
        assert isinstance(self.query, QueryTower)
        found = behaviours.of_hidden("query", self.query, "fields", "entries")
        for name, inputs in axes.items():
            # Where nothing has to be brought together there is no such layer.
            if (layer := operator.attrgetter(name)(self)) is not None:
                found |= layout.of_linear(name, name, layer, state, inputs)
        return found

    def forward(
        self,
        sparse: KeyedJaggedTensor,
        query_dense_BF: Tensor,
        item_dense_MF: Tensor,
        rows_T: Tensor | None = None,
        known_T: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """See `base.SequenceModel.forward`."""
        (_, item_MP), found = self.tables.by_side_and_row(sparse, (len(query_dense_BF), len(item_dense_MF)))
        queries = self.query(found.pooled_BP, query_dense_BF, found.unpooled_ND, found.lengths_B, rows_T, known_T)
        return queries, self.item(item_MP, item_dense_MF)


def require_heads(dim: int, num_heads: int) -> None:
    """Check that the width of states is divided evenly among the heads.

    Raises:
        ValueError: it is not.
    """
    if dim % num_heads:
        raise ValueError(
            f"model.num_heads: {num_heads} heads, and model.output_dim is {dim}, of which each has the same part; take "
            "a number that divides it"
        )
