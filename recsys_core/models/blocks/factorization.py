"""A factorisation machine's sum over pairs (Rendle 2010, section III), and the embeddings that it reads.

An embedding's first number is the id's own weight, the others are its factors. Legend: B examples, K vectors, D width.
"""

from torch import Tensor


def weights_and_factors(vectors_BKD: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum of the first numbers [B], and what is behind them [B, K, D - 1]."""
    return vectors_BKD[:, :, 0].sum(dim=1), vectors_BKD[:, :, 1:]


def pairs_sum(factors_BKD: Tensor) -> Tensor:
    """Return the sum of the dot products of all pairs [B], in time linear in K (Rendle 2010, lemma 3.1)."""
    return (factors_BKD.sum(dim=1).square() - factors_BKD.square().sum(dim=1)).sum(dim=1) / 2


def require_factors(kind: str, dim: int) -> None:
    """Check that embeddings of width `dim` have factors behind the weight.

    Raises:
        ValueError: they have not.
    """
    if dim < 2:
        raise ValueError(
            f"{kind}: an embedding is a weight and the factors behind it, and features.embedding_dim is {dim}; make it "
            "4 or more"
        )
