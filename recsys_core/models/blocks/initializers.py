"""The numbers that embedding tables start with, see `features.Initializer`."""

import torch
from torch import nn

from recsys_core.features import Initializer


def fill(drawn: torch.Tensor, initializer: Initializer | None, num_rows: int, generator: torch.Generator) -> None:
    """Draw numbers [rows, dim] of a table of `num_rows`; without an initializer uniform in ±1/√rows, as TorchRec.

    So do those of a table that starts from a file, where that does not say otherwise.
    """
    if initializer is None or initializer.kind == "file":
        drawn.copy_((torch.rand(drawn.shape, generator=generator) * 2 - 1) / num_rows**0.5)
        return
    kind, dim = initializer.kind, drawn.shape[1]
    variance = 2 / (num_rows + dim) if kind.startswith("xavier") else 2 / dim
    match kind:
        case "constant":
            assert initializer.value is not None
            drawn.fill_(initializer.value)
        case "uniform":
            assert initializer.low is not None
            assert initializer.high is not None
            drawn.uniform_(initializer.low, initializer.high, generator=generator)
        case "xavier_uniform" | "kaiming_uniform":
            bound = (3 * variance) ** 0.5
            drawn.uniform_(-bound, bound, generator=generator)
        case "xavier_normal" | "kaiming_normal":
            drawn.normal_(0, variance**0.5, generator=generator)
        case _:
            assert initializer.mean is not None
            assert initializer.std is not None
            mean, std = initializer.mean, initializer.std
            if kind == "normal":
                drawn.normal_(mean, std, generator=generator)
            else:
                nn.init.trunc_normal_(drawn, mean, std, mean - 2 * std, mean + 2 * std, generator=generator)
