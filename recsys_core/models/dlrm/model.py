"""DLRM's modules: an MLP over the dense fields, the dot products of all pairs, and an MLP over these.

Legend: B examples, P pooled widths, F dense fields, K vectors (embeddings and the dense fields' one), D their width.
"""

import torch
from torch import Tensor, nn

from recsys_core.features import TableSpec
from recsys_core.models import base
from recsys_core.models.blocks import layout
from recsys_core.models.blocks.embeddings import Embeddings
from recsys_core.models.blocks.interaction import DotInteraction
from recsys_core.models.blocks.mlp import mlp
from recsys_core.models.dlrm import Config


class Head(nn.Module):
    """(pooled [B, P], dense [B, F], unused lists) → logits [B]."""

    def __init__(self, config: Config, num_features: int, dim: int, num_dense: int) -> None:
        """`num_features` embeddings of width `dim`."""
        super().__init__()
        self.has_dense: bool = num_dense > 0
        self.bottom = (
            nn.Sequential(mlp(num_dense, config.bottom_hidden, dim), nn.ReLU()) if num_dense else nn.Identity()
        )
        num_vectors = num_features + self.has_dense
        kept = num_vectors * dim if config.concat_pooled else dim * self.has_dense
        self.interaction = DotInteraction(num_vectors, kept)
        self.top = mlp(self.interaction.num_outputs, config.top_hidden, 1, config.dropout)

    def forward(self, pooled: Tensor, dense: Tensor, unpooled: list[Tensor], lengths: list[Tensor]) -> Tensor:  # noqa: ARG002
        """Return the examples' logits."""
        parts = [self.bottom(dense), pooled] if self.has_dense else [pooled]
        if torch.jit.is_scripting():  # pyright: ignore[reportPrivateImportUsage]
            return self.top(self.interaction(parts)).squeeze(1)
        else:  # noqa: RET505 - TorchScript compiles a branch that is not taken unless it is an `else`
            return self._eager(parts).squeeze(1)

    @torch.jit.unused
    def _eager(self, parts: list[Tensor]) -> Tensor:
        first, *rest = self.top.layers
        if not rest or not self.top.is_one_step(parts[0]):
            return self.top(self.interaction(parts))
        return self.top.rest(self.interaction.into(first, parts, relu=True), first=1)


class Model(base.RankingModel):
    """All features of ids, of query and item alike, as one set of vectors."""

    def __init__(
        self,
        config: Config,
        tables: tuple[TableSpec, ...],
        query: base.TowerInputs,
        item: base.TowerInputs,
        *,
        tables_device: torch.device,
    ) -> None:
        """Build on the CPU; tables on `tables_device` (`meta` where they are to be sharded).

        Raises:
            ValueError: embeddings of different widths, a sequence that is not pooled, or fewer than two vectors.
        """
        super().__init__()
        self.tables = Embeddings(tables, {"query": query.sparse, "item": item.sparse}, tables_device)
        self.tables.require_pooled("dlrm")
        widths = {f.name: w for f, w in zip(self.tables.pooled_features, self.tables.pooled_widths, strict=True)}
        if len(set(widths.values())) > 1:
            raise ValueError(
                f"dlrm multiplies embeddings with each other, so they have one embedding_dim, not {widths}"
            )
        num_dense = query.num_dense + item.num_dense
        if len(widths) + (num_dense > 0) < 2:
            raise ValueError("dlrm needs two vectors to interact: name another feature of ids, or a dense one")
        self.head = Head(config, len(widths), self.tables.pooled_widths[0], num_dense)
        self._dense, self._keeps_all = (*query.dense, *item.dense), config.concat_pooled

    def layout(self) -> layout.Layout:
        """See `base.RetrievalModel.layout`."""
        head = self.head
        assert isinstance(head, Head)
        vectors = layout.pooled(self.tables.pooled_features, self.tables.pooled_widths)
        found: layout.Layout = {}
        kept: layout.Axis = ()
        if head.has_dense:
            assert isinstance(head.bottom, nn.Sequential)
            found = layout.of_mlp("head.bottom.0", head.bottom[0], layout.numbers(self._dense))
            kept = layout.units("dense", self.tables.pooled_widths[0])
        vectors = kept + vectors
        # As `DotInteraction` has them: each vector with those before it.
        pairs = tuple(
            layout.Block(label=" x ".join(sorted({one.label, other.label})), width=1).model_copy(
                update={"features": one.features + other.features}
            )
            for number, one in enumerate(vectors)
            for other in vectors[:number]
        )
        return found | layout.of_mlp("head.top", head.top, (vectors if self._keeps_all else kept) + pairs)
