"""The contract of a retrieval model: a batch in, embeddings of queries and items out; no loss, rank, path or label."""

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor, nn
from torchrec import EmbeddingBagCollection, KeyedJaggedTensor

from recsys_core.features import SparseFeature


class TowerInputs(NamedTuple):
    """What the feature engine gives one tower."""

    sparse: tuple[SparseFeature, ...]
    num_dense: int


class RetrievalModel(nn.Module, ABC):
    """Two towers over one `EmbeddingBagCollection`; a tower ends in [rows, D], of unit length if cosine.

    Attributes:
        tables: the embedding tables of both towers, replaced by their sharded form in training.
        query: scriptable module, (pooled [B, P], dense [B, F]) → [B, D].
        item: likewise for items.
        embedding_dim: D.
        similarity: `cosine` or `inner_product`: what the dot product of two embeddings means.
    """

    tables: EmbeddingBagCollection
    query: nn.Module
    item: nn.Module
    embedding_dim: int
    similarity: str

    @abstractmethod
    def forward(
        self, sparse: KeyedJaggedTensor, query_dense_BF: Tensor, item_dense_MF: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the embeddings (query [B, D], item [M, D]) of a batch laid out as in `batch`."""
