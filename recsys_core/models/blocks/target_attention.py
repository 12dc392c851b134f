"""Target attention over a behaviour sequence (Zhou et al. 2018, Deep Interest Network, section 4.3), on jagged rows.

Each element k of a row's sequence is weighted by an MLP over [q, k, q - k, q * k], where q is the row's target, and the
row's interest is the weighted sum. As in the paper the weights are not normalised: a user with a stronger interest has
a larger sum. Legend: B rows, N elements of all rows together, D width, H hidden.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recsys_core.models.blocks.jagged import segment_sum, spread
from recsys_core.models.blocks.mlp import mlp


class TargetAttention(nn.Module):
    """(targets [B, D], elements [N, D], lengths [B]) → [B, D]; a row without elements gets zeros.

    The first layer is linear in [q, k, q - k, q * k], so it is also (W1 + W3) q + (W2 - W3) k + W4 (q * k): the part
    of q is computed once per row and not per element, and the N by 4D input is never made.
    """

    def __init__(self, dim: int, hidden: Sequence[int]) -> None:
        """`hidden` are the MLP's hidden widths, at least one."""
        super().__init__()
        assert hidden, "the attention's MLP has a hidden layer"
        self.first = nn.Linear(4 * dim, hidden[0])
        self.rest = nn.Sequential(nn.ReLU(), mlp(hidden[0], hidden[1:], 1))

    def forward(self, targets_BD: Tensor, elements_ND: Tensor, lengths_B: Tensor) -> Tensor:
        """Return each row's weighted sum of its elements."""
        of_target_HD, of_element_HD, of_difference_HD, of_product_HD = self.first.weight.chunk(4, dim=1)
        by_row_BH = torch.addmm(self.first.bias, targets_BD, (of_target_HD + of_difference_HD).T)
        products_ND = spread(targets_BD, lengths_B) * elements_ND
        by_element_NH = (
            torch.cat([elements_ND, products_ND], dim=1)
            @ torch.cat([of_element_HD - of_difference_HD, of_product_HD], dim=1).T
        )
        weights_N1 = self.rest(by_element_NH + spread(by_row_BH, lengths_B))
        return segment_sum(elements_ND * weights_N1, lengths_B)
