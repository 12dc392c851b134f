"""PEPNet's modules. Legend: B examples, P pooled widths, F dense fields, X = P + F, T tasks, H a layer's width."""

from collections.abc import Iterable, Sequence
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from recsys_core.models.blocks import layout, tasks
from recsys_core.models.blocks.towers import columns_of, refuse_unknown
from recsys_core.models.pepnet import Config


class Gate(nn.Module):
    """(columns of the inputs [B, X], what is scaled [B, X]) → factors [B, Y] from 0 to 2 (section 2.2, GateNU).

    These are 2 sigmoid(W' ReLU(W [columns, inputs] + b) + b'). What is scaled gets no gradient through them.
    """

    columns: Tensor

    def __init__(self, columns: list[int], num_inputs: int, hidden: int, num_outputs: int) -> None:
        """The last number is Y."""
        super().__init__()
        self.register_buffer("columns", torch.tensor(columns, dtype=torch.int64), persistent=False)
        self.hidden = nn.Linear(len(columns) + num_inputs, hidden)
        self.output = nn.Linear(hidden, num_outputs)

    def forward(self, features: Tensor, inputs: Tensor) -> Tensor:
        """Return the factors."""
        read = torch.cat([features.index_select(1, self.columns), inputs.detach()], dim=1)
        return 2 * torch.sigmoid(self.output(functional.relu(self.hidden(read))))


class Tower(nn.Module):
    """(inputs [B, X], factors of all hidden layers [B, sum of H]) → logits [B, 1]."""

    widths: list[int]

    def __init__(self, num_inputs: int, hidden: Sequence[int], dropout: float) -> None:
        """`hidden` are the Hs."""
        super().__init__()
        self.widths = list(hidden)
        pairs = zip([num_inputs, *hidden], hidden, strict=False)
        self.layers = nn.ModuleList(nn.Linear(width, after) for width, after in pairs)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(self.widths[-1], 1)

    def forward(self, inputs: Tensor, factors: Tensor) -> Tensor:
        """Return the logits: each layer's outputs are scaled before the next one reads them."""
        by_layer = factors.split(self.widths, dim=1)
        for i, layer in enumerate(self.layers):
            inputs = self.dropout(functional.relu(layer(inputs)) * by_layer[i])
        return self.output(inputs)


class Head(nn.Module):
    """(pooled [B, P], dense [B, F], unused lists) → logits [B, T], in the order of `model.tasks`."""

    has_domain: Final[bool]  # TorchScript compiles the branch that is taken alone

    def __init__(self, num_inputs: int, domain: list[int], prior: list[int], config: Config) -> None:
        """`domain` and `prior` are the columns of [B, X] that the gates depend on."""
        super().__init__()
        self.has_domain = bool(domain)
        hidden = config.gate_hidden
        self.domain = Gate(domain, num_inputs, hidden, num_inputs) if domain else nn.Identity()
        self.gates = nn.ModuleDict(
            {name: Gate(prior, num_inputs, hidden, sum(tower.hidden)) for name, tower in config.tasks.items()}
        )
        self.towers = nn.ModuleDict(
            {name: Tower(num_inputs, tower.hidden, config.dropout) for name, tower in config.tasks.items()}
        )

    def forward(self, pooled: Tensor, dense: Tensor, unpooled: list[Tensor], lengths: list[Tensor]) -> Tensor:  # noqa: ARG002
        """Return the examples' logits."""
        features = torch.cat([pooled, dense], dim=1)
        scaled = features
        if self.has_domain:
            scaled = features * self.domain(features, features)
        outputs: list[Tensor] = []
        for gate, tower in zip(self.gates.values(), self.towers.values()):  # noqa: B905 - TorchScript has no `strict`
            outputs.append(tower(scaled, gate(features, scaled)))
        return torch.cat(outputs, dim=1)


class Model(tasks.TaskModel[Config]):
    """See `TaskModel`."""

    def make_head(self, config: Config) -> nn.Module:
        """See the base class.

        Raises:
            ValueError: `model.domain` or `model.prior` names a feature that is not there.
        """
        self._config, known = config, columns_of(self.tables)
        columns: list[list[int]] = []
        for key, names in (("domain", config.domain), ("prior", config.prior)):
            refuse_unknown(f"model.{key}", names, known)
            columns.append([column for name in names for column in known[name]])
        return Head(self.num_inputs, columns[0], columns[1], config)

    def layout(self) -> layout.Layout:
        """See `base.RetrievalModel.layout`."""
        head, inputs = self.head, self.inputs()
        assert isinstance(head, Head)
        found: layout.Layout = {}
        if self._config.domain:
            found |= _of_gate("head.domain", head.domain, self._config.domain, inputs, inputs)
        for name, tower in head.towers.items():
            assert isinstance(tower, Tower)
            read, layers = inputs, f"head.towers.{name}"
            scaled: layout.Axis = ()
            for number, layer in enumerate(tower.layers):
                assert isinstance(layer, nn.Linear)
                made = layout.units(f"layer {number}", layer.out_features)
                found |= layout.of_linear(f"{layers}.layers.{number}", f"{layers} {number}", layer, made, read)
                read, scaled = made, scaled + made
            found |= layout.of_linear(
                f"{layers}.output", f"{layers} output", tower.output, layout.units("output", 1), read
            )
            found |= _of_gate(f"head.gates.{name}", head.gates[name], self._config.prior, inputs, scaled)
        return found


def _of_gate(
    name: str, gate: nn.Module, columns: Iterable[str], inputs: layout.Axis, outputs: layout.Axis
) -> layout.Layout:
    """Return the layout of a gate that depends on these features, and whose factors are of `outputs`."""
    assert isinstance(gate, Gate)
    of = {block.label: block for block in inputs}
    chosen = tuple(of[column].model_copy(update={"label": f"by {column}"}) for column in columns)
    hidden = layout.units("hidden", gate.hidden.out_features)
    found = layout.of_linear(f"{name}.hidden", f"{name} hidden", gate.hidden, hidden, chosen + inputs)
    return found | layout.of_linear(f"{name}.output", f"{name} output", gate.output, outputs, hidden)
