"""The contracts of models: a batch in, embeddings (retrieval) or logits (ranking) out; no loss, rank, path or label.

A model file has a `Config` and a `Model` of one of the two contracts. Legend: B queries or examples, M items,
P pooled widths, F dense fields, D embedding, N ids of all rows together.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

from torch import Tensor, nn
from torchrec import KeyedJaggedTensor

from recsys_core.features import NumberFeature, SparseFeature
from recsys_core.models.blocks.embeddings import Embeddings
from recsys_core.models.blocks.layout import Layout


class TowerInputs(NamedTuple):
    """What the feature engine gives one tower: `dense` are the features of its `num_dense` fields, in their order.

    `numbers` are the sequences of numbers, for a model that `reads_number_sequences`; others get none.
    """

    sparse: tuple[SparseFeature, ...]
    num_dense: int
    dense: tuple[NumberFeature, ...] = ()
    numbers: tuple[NumberFeature, ...] = ()


class RetrievalModel(nn.Module, ABC):
    """Two towers over tables that they share; a tower ends in [rows, D], of unit length if cosine.

    Attributes:
        tables: what looks both sides' features up, `apart`; its collections are replaced by their sharded form in
            training.
        query: scriptable module, (pooled [B, P], dense [B, F]) → [B, D]; the features stand as in `tables.pooled`.
        item: likewise for items.
        embedding_dim: D.
        similarity: `cosine` or `inner_product`: what the dot product of two embeddings means.
    """

    DOES: ClassVar[str] = "embeds queries and items"

    tables: Embeddings
    query: nn.Module
    item: nn.Module
    embedding_dim: int
    similarity: str

    def layout(self) -> Layout:
        """Return what rows and columns of the dense weights stand for, by their names in the model's state.

        A training that continues one of other features takes over what still means the same. Of a weight that is not
        named here that is all of it where it has the same name and shape, and else nothing.
        """
        return {}

    @abstractmethod
    def forward(
        self, sparse: KeyedJaggedTensor, query_dense_BF: Tensor, item_dense_MF: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the embeddings (query [B, D], item [M, D]) of a batch laid out as in `batch`."""


class SequenceModel(RetrievalModel):
    """One whose query tower reads sequences in their order, and has a state behind each of their entries.

    A state knows the entries up to its own, the query's features, and nothing behind: all the states of a row are
    trained on at once.

    Attributes:
        query: scriptable module, (pooled [B, P], dense [B, F], a list of unpooled features' embeddings [N, E], a list
            of their lengths [B]) → [B, D], the states behind the last entries; the features stand as in `tables.pooled`
            and `tables.unpooled_features`.
    """

    DOES: ClassVar[str] = "reads sequences in their order"

    @abstractmethod
    def forward(
        self,
        sparse: KeyedJaggedTensor,
        query_dense_BF: Tensor,
        item_dense_MF: Tensor,
        rows_T: Tensor | None = None,
        known_T: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return what `RetrievalModel.forward` does.

        With `rows_T` and `known_T` the first of both is [T, D]: of each row the state that knows as many first entries.
        """


class RankingModel(nn.Module, ABC):
    """A logit per example and task; an example has the features of a query and of an item.

    Attributes:
        tasks: the names of the tasks, in the order of the logits' columns; none where there is one, without a name.
        tables: what looks the features up; its collections are replaced by their sharded form in training.
        head: scriptable module, (pooled [B, P], dense [B, F], a list of unpooled features' embeddings [N, D], a list of
            their lengths [B]) → logits [B], or [B, T] of T tasks; the features stand as in `tables.pooled_features` and
            `tables.unpooled_features`, the query's dense fields before the item's. Behind the unpooled features come
            the sequences of numbers [N, D], the query's first.
        reads_number_sequences: whether it takes sequences of numbers; if not, a config with one is refused.
        learns_over_all_rows: whether a task with a `given` is to learn over all rows; a config without one is refused.
    """

    DOES: ClassVar[str] = "scores labelled rows"

    reads_number_sequences: ClassVar[bool] = False
    learns_over_all_rows: ClassVar[bool] = False

    tasks: tuple[str, ...] = ()
    tables: Embeddings
    head: nn.Module

    def layout(self) -> Layout:
        """See `RetrievalModel.layout`."""
        return {}

    def forward(
        self, sparse: KeyedJaggedTensor, dense_BF: Tensor, numbers: Sequence[tuple[Tensor, Tensor]] = ()
    ) -> Tensor:
        """Return the logits [B] or [B, T] of a batch laid out as in `batch`, whose first B rows are examples.

        `numbers` are the sequences of numbers: values [N, D] and lengths [B] of each.
        """
        found = self.tables(sparse, len(dense_BF))
        sequences = [*found.unpooled_ND, *(values_ND for values_ND, _ in numbers)]
        lengths = [*found.lengths_B, *(lengths_B for _, lengths_B in numbers)]
        return self.head(found.pooled_BP, dense_BF, sequences, lengths)
