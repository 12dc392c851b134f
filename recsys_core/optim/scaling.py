"""Loss scaling: float16 has no numbers for small gradients, so that they are made of a loss that is scaled up.

Tables learn within the backward pass, when it is unknown yet whether all gradients of the step are finite. So the pass
is cut where the dense parts take what the tables gave them. First come the dense gradients, of the scaled loss; then
all ranks together look whether every gradient is finite; and only if it is, the gradients go on to the tables, without
the scale. Otherwise the batch is left out on all ranks, by tables and dense parts alike, and the scale is halved.
"""

from collections.abc import Collection, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from recsys_core.distributed import World

_START = 65_536.0
_LEAST = 2.0**-10
_GROW_AFTER = 2_000  # as torch's own scaler


class Scaler:
    """The scale of one training; `state` is what a checkpoint keeps of it."""

    def __init__(self, parts: Iterable[nn.Module], world: World) -> None:
        """`parts` are called with what the tables give, and hold all dense parameters."""
        self._world = world
        # On the CPU, as what decides about a step.
        self._scale = torch.tensor(_START)
        self._num_finite = torch.zeros((), dtype=torch.int64)
        self._cut: list[tuple[Tensor, Tensor]] = []
        hook: Any = torch.compiler.disable(self._begin_anew)
        for part in parts:
            part.register_forward_pre_hook(hook)

    @property
    def scale(self) -> float:
        """What gradients that are not updated with yet are too large by."""
        return float(self._scale)

    def state(self) -> dict[str, Tensor]:
        """Return the tensors of a checkpoint, which it fills in place."""
        return {"gradient_scale": self._scale, "num_finite": self._num_finite}

    def backward(self, loss: Tensor, parameters: Collection[nn.Parameter]) -> bool:
        """Add the gradients of `loss` times the scale, and update the tables; return whether all ranks' were finite.

        If they were not, the gradients of all `parameters` are 0 afterwards, those of earlier batches too.

        Raises:
            ValueError: gradients are not finite even under the smallest scale.
        """
        (loss * self.scale).backward()
        cut = [(given, leaf.grad) for given, leaf in self._cut if leaf.grad is not None]
        self._cut = []
        gradients = [*(gradient for _, gradient in cut), *(weight.grad for weight in parameters)]
        if finite := self._all_finite([gradient for gradient in gradients if gradient is not None]):
            torch.autograd.backward([given for given, _ in cut], [gradient / self.scale for _, gradient in cut])
            self._num_finite += 1
        else:
            self._num_finite.zero_()
            self._scale /= 2
            for weight in parameters:
                if weight.grad is not None:
                    weight.grad.zero_()
            if self.scale < _LEAST:
                raise ValueError(
                    f"train.precision: gradients in float16 are not finite even of a loss scaled by {self.scale:.3g}; "
                    "set train.precision to bfloat16 or float32, or lower the learning rates of train"
                )
        return finite

    def updated(self) -> None:
        """Grow the scale after many finite batches; call it while no gradient is held."""
        if self._num_finite >= _GROW_AFTER:
            self._scale *= 2
            self._num_finite.zero_()

    def _begin_anew(self, _part: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(map(self._leaf, inputs)) if torch.is_grad_enabled() else inputs

    def _leaf(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._leaf(one) for one in value]
        if not (isinstance(value, Tensor) and value.requires_grad):
            return value
        leaf = value.detach().requires_grad_()
        self._cut.append((value, leaf))
        return leaf

    def _all_finite(self, gradients: list[Tensor]) -> bool:
        bad = torch.stack([gradient.isfinite().all().logical_not() for gradient in gradients]).sum()
        return not int(self._world.sum(bad))
