"""Pairwise dot products of feature vectors (Naumov et al. 2019, section 2.1.3), with a way back that only gathers.

Legend: B examples, K vectors, D width, P = K (K - 1) / 2 pairs.
"""

from typing import Any

import torch
from torch import Tensor, nn

from recsys_core.models.blocks.mlp import aligned


class DotInteraction(nn.Module):
    """[B, K, D] → [B, kept + P]: the first `kept` numbers of the K·D, then the dot products of all pairs.

    Autograd's way back through `index_select` adds into [B, K, K] number by number; that alone takes longer than all
    else together. The gradient of the vectors is a symmetric matrix times the vectors, and that matrix is a gather
    of the pairs' gradients. What the next layer wants beside the pairs rides along, so that nothing is concatenated.
    """

    place_of_P: Tensor
    pair_of_KK: Tensor

    def __init__(self, num_vectors: int, kept: int) -> None:
        """`kept` numbers of each example go through as they are."""
        super().__init__()
        rows, columns = torch.tril_indices(num_vectors, num_vectors, -1).unbind()
        num_pairs = len(rows)
        # Where in [K, K] each pair is, and which pair each place of [K, K] is; the diagonal is none, stood for by 0.
        pair_of_KK = torch.zeros(num_vectors, num_vectors, dtype=torch.int64)
        pair_of_KK[rows, columns] = pair_of_KK[columns, rows] = torch.arange(num_pairs)
        self.register_buffer("place_of_P", rows * num_vectors + columns, persistent=False)
        self.register_buffer("pair_of_KK", pair_of_KK.flatten(), persistent=False)
        self.kept = kept
        self.num_outputs: int = kept + num_pairs

    def forward(self, vectors_BKD: Tensor) -> Tensor:
        """Return the kept numbers and the pairs of each example."""
        if torch.jit.is_scripting():  # pyright: ignore[reportPrivateImportUsage]
            products = torch.bmm(vectors_BKD, vectors_BKD.transpose(1, 2)).flatten(1)
            return torch.cat([vectors_BKD.flatten(1)[:, : self.kept], products.index_select(1, self.place_of_P)], 1)
        else:  # noqa: RET505 - TorchScript compiles a branch that is not taken unless it is an `else`
            return _Interaction.apply(vectors_BKD, self.place_of_P, self.pair_of_KK, self.kept)


class _Interaction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, vectors_BKD: Tensor, place_of_P: Tensor, pair_of_KK: Tensor, kept: int) -> Tensor:
        ctx.save_for_backward(vectors_BKD, pair_of_KK)
        ctx.kept = kept
        products = torch.bmm(vectors_BKD, vectors_BKD.transpose(1, 2)).flatten(1)
        width = kept + len(place_of_P)
        output = vectors_BKD.new_empty(len(vectors_BKD), aligned(width))[:, :width]
        output[:, :kept] = vectors_BKD.flatten(1)[:, :kept]
        output[:, kept:] = torch.index_select(products, 1, place_of_P)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        vectors_BKD, pair_of_KK = ctx.saved_tensors
        num_rows, num_vectors, dim = vectors_BKD.shape
        of_output = gradients[0]
        of_pairs_BP = of_output[:, ctx.kept :]
        of_products = torch.gather(of_pairs_BP, 1, pair_of_KK.expand(num_rows, -1)).view(-1, num_vectors, num_vectors)
        of_products.diagonal(dim1=1, dim2=2).zero_()
        of_vectors = torch.bmm(of_products, vectors_BKD)
        of_vectors.view(num_rows, num_vectors * dim)[:, : ctx.kept] += of_output[:, : ctx.kept]
        return of_vectors, None, None, None
