"""How a model learns: tables by kernels fused into the backward pass, everything else by one of torch's optimizers.

`Optimizer` is what a training step talks to: learning rates by schedule, gradients over several batches, clipping, and
the moving average of the weights. All that it keeps is in its state.
"""

from typing import Any

import torch
from torch import nn
from torch.distributed._shard.sharded_tensor.api import ShardedTensor
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizerWrapper
from torchrec.optim.optimizers import in_backward_optimizer_filter

from recsys_core.optim import dense
from recsys_core.optim.scaling import Scaler
from recsys_core.optim.sparse import fuse
from recsys_core.sections.optim import DenseConfig, SparseConfig, check, refuse_unfit

__all__ = ["DenseConfig", "Optimizer", "Scaler", "SparseConfig", "check", "fuse", "refuse_unfit"]

_FIRST_MOMENT = ".momentum1"
_ROWS_PER_LOOK = 1 << 20  # a table has more than its copies should have memory


class Optimizer:
    """Both optimizers of one training. In each step: `begin`, the forward pass, `backward`, `end`."""

    def __init__(
        self,
        sparse_config: SparseConfig,
        dense_config: DenseConfig,
        model: DistributedModelParallel,
        scaler: Scaler | None = None,
    ) -> None:
        """`model` is sharded, and its tables were given to `fuse` before that; `scaler` is that of its dense parts.

        Raises:
            ValueError: a parameter group that matches nothing.
        """
        self._schedules = {"sparse": sparse_config.schedule, "dense": dense_config.schedule}
        self._config, self._scaler = dense_config, scaler
        self.parameters: dict[str, nn.Parameter] = dict(in_backward_optimizer_filter(model.named_parameters()))
        towers = KeyedOptimizerWrapper(self.parameters, lambda _: dense.build(dense_config, self.parameters))
        _fill_state(towers)
        fused = model.fused_optimizer
        self._groups: dict[str, list[Any]] = {"sparse": [*fused.param_groups], "dense": [*towers.param_groups]}
        self._rates = {side: [group["lr"] for group in groups] for side, groups in self._groups.items()}
        self._fused, self._towers = fused, towers
        self._both = CombinedOptimizer([fused, towers])
        self._start = sparse_config.initial_accumulator
        self._fill(self._start)
        # On the CPU: they are read in every step, and that must not wait for the device.
        # Of the batches since the last update, those are held whose gradients the next one is made of.
        self._num_batches, self._num_accumulated, self._num_held = (
            torch.zeros((), dtype=torch.int64) for _ in range(3)
        )
        self._gradient_norm = torch.zeros(())
        self._average = {name: weight.detach().clone() for name, weight in self._averaged().items()}
        self._zero_gradients()

    def begin(self, step: int, epoch: int) -> None:
        """Set the learning rates of the step after `step` steps; an update may take several of them."""
        updates = step // self._config.accumulate_batches
        for side, groups in self._groups.items():
            share = self._schedules[side].share(updates, epoch)
            for group, rate in zip(groups, self._rates[side], strict=True):
                group["lr"] = rate * share
        # The fused optimizer has no gradients to clear, but this is how its kernels get the learning rate.
        self._fused.zero_grad()
        if not self._num_accumulated:
            self._zero_gradients()

    def backward(self, loss: torch.Tensor) -> None:
        """Compute gradients, and with them update the tables; a batch whose gradients overflow float16 is left out."""
        share = loss / self._config.accumulate_batches
        self._num_held += 1
        if self._scaler is None:
            share.backward()
        elif not self._scaler.backward(share, self.parameters.values()):
            self._num_held.zero_()

    def end(self) -> None:
        """Update the dense weights, unless more batches are to come first."""
        self._num_batches += 1
        self._num_accumulated += 1
        if self._num_accumulated == self._config.accumulate_batches:
            self._update()

    def finish(self) -> None:
        """Update the dense weights by what the last batches left over, as the mean over these batches."""
        if self._num_accumulated:
            self._update()

    def _update(self) -> None:
        self._num_accumulated.zero_()
        if not self._num_held:
            return
        scale = self._scaler.scale if self._scaler else 1.0
        factor = self._config.accumulate_batches / (float(self._num_held) * scale)
        self._num_held.zero_()
        if factor != 1:
            for weight in self.parameters.values():
                assert weight.grad is not None
                weight.grad *= factor
        if self._scaler:
            self._scaler.updated()
        # Every rank has the same gradients, averaged in the backward pass, so each one's norm is the global one.
        if self._config.max_gradient_norm is not None:
            weights = self.parameters.values()
            self._gradient_norm = nn.utils.clip_grad_norm_(weights, self._config.max_gradient_norm)
        self._towers.step()
        if self._config.average_decay is not None:
            for name, average in self._average.items():
                average.lerp_(self.parameters[name].detach(), 1 - self._config.average_decay)

    def learning_rates(self) -> dict[str, float]:
        """Return the learning rates of the last step, of the first group of each side, and the scale of gradients."""
        rates = {f"{side}_learning_rate": groups[0]["lr"] for side, groups in self._groups.items() if groups}
        return rates | ({"gradient_scale": self._scaler.scale} if self._scaler else {})

    def norms(self) -> dict[str, torch.Tensor]:
        """Return the lengths of the dense weights and of their last gradient, before it was cut."""
        gradients = [weight.grad for weight in self.parameters.values() if weight.grad is not None]
        clipped = self._config.max_gradient_norm is not None
        scale = self._scaler.scale if self._scaler and self._num_held else 1.0
        return {
            "weight_norm": nn.utils.get_total_norm([*self.parameters.values()]).detach(),
            "gradient_norm": self._gradient_norm if clipped else nn.utils.get_total_norm(gradients) / scale,
        }

    def touched_rows(self) -> dict[str, tuple[int, int]]:
        """Return, by table, how many of this rank's rows an update has touched, and how many rows all ranks have.

        A table whose optimizer keeps nothing (sgd), and one that this rank has no part of, is left out.
        """
        found: dict[str, tuple[int, int]] = {}
        for state in self._fused.state.values():
            for name, value in state.items():
                if name.endswith(_FIRST_MOMENT) and isinstance(value, ShardedTensor):
                    # Of parts of the same rows the first columns count.
                    parts = [one.tensor for one in value.local_shards() if not any(one.metadata.shard_offsets[1:])]
                    count = sum(
                        int(rows.view(len(rows), -1).ne(self._start).any(dim=1).count_nonzero())
                        for part in parts
                        for rows in part.split(_ROWS_PER_LOOK)
                        if len(rows)
                    )
                    found[name.removesuffix(_FIRST_MOMENT)] = count, value.size()[0]
        return found

    def state(self) -> dict[str, Any]:
        """Return the tensors of a checkpoint, by section; `restored` takes them back."""
        training: dict[str, Any] = {"num_accumulated": self._num_accumulated, "num_held": self._num_held}
        if self._scaler:
            training |= self._scaler.state()
        if self._config.accumulate_batches > 1:
            training["gradients"] = {name: weight.grad for name, weight in self.parameters.items()}
        # Of a table that keeps no state, a rank may have an entry without content that another does not have.
        optimizer = self._both.state_dict()
        optimizer["state"] = {key: kept for key, kept in optimizer["state"].items() if kept}
        sections: dict[str, Any] = {
            "optimizer": {**optimizer, "num_batches": self._num_batches},
            "training": training,
        }
        if self._average:
            sections["average"] = self._average
        return sections

    def restored(self, sections: dict[str, Any]) -> None:
        """Go on from what `state` returned and a checkpoint has filled in place; sections may be missing."""
        if "optimizer" in sections:
            given = sections["optimizer"]
            mine = {key: {} for key in self._both.state_dict()["state"]}
            self._both.load_state_dict(given | {"state": mine | given["state"]})
            # The kernels count steps for themselves, and leave the count out of the state.
            self._fused.set_optimizer_step(int(self._num_batches))
        if "average" not in sections:
            for name, weight in self._averaged().items():
                self._average[name].copy_(weight.detach())

    def _zero_gradients(self) -> None:
        """Drop the gradients, or keep their memory where a checkpoint has to hold them."""
        for weight in self.parameters.values():
            weight.grad = torch.zeros_like(weight) if self._config.accumulate_batches > 1 else None

    def _averaged(self) -> dict[str, nn.Parameter]:
        return self.parameters if self._config.average_decay is not None else {}

    def _fill(self, accumulator: float) -> None:
        if accumulator:
            for state in self._fused.state.values():
                for name, value in state.items():
                    assert name.endswith(_FIRST_MOMENT)
                    assert isinstance(value, ShardedTensor)
                    for shard in value.local_shards():
                        shard.tensor.fill_(accumulator)


def _fill_state(towers: KeyedOptimizerWrapper) -> None:
    """Create the state that torch creates in the first step, so that a checkpoint can fill it in place.

    The step that does it must leave no trace: nothing decays, and the count of steps starts at 0.
    """
    groups: list[dict[str, Any]] = [*towers.param_groups]  # pyright: ignore[reportAssignmentType] - they are dicts
    kept = [(group, group["lr"], group["weight_decay"]) for group in groups]
    for group, _, _ in kept:
        group["lr"] = group["weight_decay"] = 0.0
    towers.init_state()
    for group, rate, decay in kept:
        group["lr"], group["weight_decay"] = rate, decay
    for state in towers.state.values():
        if "step" in state:
            state["step"].zero_()
