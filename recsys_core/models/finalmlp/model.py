"""FinalMLP's modules. Legend: B examples, P pooled widths, F dense fields, X inputs = P + F, H outputs, M heads."""

import torch
from torch import Tensor, nn

from recsys_core.models.blocks import layout
from recsys_core.models.blocks.mlp import mlp
from recsys_core.models.blocks.shared import PooledModel
from recsys_core.models.blocks.towers import columns_of, refuse_unknown
from recsys_core.models.finalmlp import Config
from recsys_core.models.finalmlp import Stream as StreamConfig


class Stream(nn.Module):
    """[B, X] → [B, H]: the inputs times 2 sigmoid(gate), through an MLP that ends in a ReLU.

    A gate that depends on nothing is a vector: a constant through an MLP, as the paper has it, is one too.
    """

    gate_columns: Tensor

    def __init__(self, num_inputs: int, gate_columns: list[int], config: StreamConfig) -> None:
        """`gate_columns` of [B, X] are what the gate depends on."""
        super().__init__()
        self.register_buffer("gate_columns", torch.tensor(gate_columns, dtype=torch.int64), persistent=False)
        self.is_constant: bool = not gate_columns
        self.gate = (
            _Constant(num_inputs) if self.is_constant else mlp(len(gate_columns), config.gate_hidden, num_inputs)
        )
        *hidden, last = config.hidden
        self.layers = nn.Sequential(mlp(num_inputs, hidden, last, config.dropout), nn.ReLU())

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the stream's output."""
        gate = self.gate(inputs if self.is_constant else inputs.index_select(1, self.gate_columns))
        return self.layers(inputs * (2 * torch.sigmoid(gate)))


class _Constant(nn.Module):
    """[B, X] → [X], whatever it reads."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002, ARG002
        """Return the vector."""
        return self.weight


class Head(nn.Module):
    """(pooled [B, P], dense [B, F], unused lists) → logits [B].

    These are b + w_1 · o_1 + w_2 · o_2 + Σ_m o_1mᵀ W_m o_2m of the streams' outputs.
    """

    def __init__(self, num_inputs: int, gates: tuple[list[int], list[int]], config: Config) -> None:
        """`gates` are the columns of [B, X] that each stream's gate depends on."""
        super().__init__()
        self.first = Stream(num_inputs, gates[0], config.first)
        self.second = Stream(num_inputs, gates[1], config.second)
        widths = config.first.hidden[-1], config.second.hidden[-1]
        self.of_first = nn.Linear(widths[0], 1)
        self.of_second = nn.Linear(widths[1], 1, bias=False)
        self.num_heads: int = config.num_heads
        self.form = nn.Parameter(torch.empty(self.num_heads, *(width // self.num_heads for width in widths)))
        nn.init.xavier_uniform_(self.form)

    def forward(self, pooled: Tensor, dense: Tensor, unpooled: list[Tensor], lengths: list[Tensor]) -> Tensor:  # noqa: ARG002
        """Return the examples' logits."""
        inputs = torch.cat([pooled, dense], dim=1)
        first, second = self.first(inputs), self.second(inputs)
        left = first.view(first.shape[0], self.num_heads, self.form.shape[1])
        right = second.view(second.shape[0], self.num_heads, self.form.shape[2])
        fused = (torch.einsum("bmx,mxy->bmy", left, self.form) * right).flatten(1).sum(dim=1)
        return (self.of_first(first) + self.of_second(second)).squeeze(1) + fused


class Model(PooledModel[Config]):
    """See `PooledModel`."""

    def make_head(self, config: Config) -> nn.Module:
        """See the base class.

        Raises:
            ValueError: a gate names a feature that is not there.
        """
        columns = columns_of(self.tables)
        gates: list[list[int]] = []
        for name, stream in (("first", config.first), ("second", config.second)):
            refuse_unknown(f"model.{name}.gate", stream.gate, columns)
            gates.append([column for feature in stream.gate for column in columns[feature]])
        self._config = config
        return Head(self.num_inputs, (gates[0], gates[1]), config)

    def layout(self) -> layout.Layout:
        """See `base.RetrievalModel.layout`."""
        head = self.head
        assert isinstance(head, Head)
        pooled = layout.pooled(self.tables.pooled_features, self.tables.pooled_widths)
        inputs = self.inputs()
        found: layout.Layout = {}
        outputs: list[layout.Axis] = []
        streams = (("first", head.first, self._config.first), ("second", head.second, self._config.second))
        for name, stream, config in streams:
            found |= layout.of_mlp(f"head.{name}.layers.0", stream.layers[0], inputs)
            found |= _of_gate(f"head.{name}.gate", stream.gate, layout.chosen(pooled, config.gate), inputs)
            outputs.append(layout.units(name, config.hidden[-1]))
        output = layout.units("output", 1)
        found |= layout.of_linear("head.of_first", "head of first", head.of_first, output, outputs[0])
        found |= layout.of_linear("head.of_second", "head of second", head.of_second, output, outputs[1])
        axes = tuple(
            layout.units(name, size) for name, size in zip(("heads", "first", "second"), head.form.shape, strict=True)
        )
        return found | {"head.form": layout.Weight(place="head form", axes=axes)}


def _of_gate(name: str, gate: nn.Module, read: layout.Axis, inputs: layout.Axis) -> layout.Layout:
    """Return the layout of a stream's gate, whose outputs stand for the inputs."""
    if isinstance(gate, _Constant):
        return {f"{name}.weight": layout.Weight(place=name, axes=(inputs,))}
    found: layout.Layout = {}
    linear = [(number, layer) for number, layer in enumerate(gate.children()) if isinstance(layer, nn.Linear)]
    for place, (number, layer) in enumerate(linear):
        outputs = inputs if layer is linear[-1][1] else layout.units(f"hidden {place}", layer.out_features)
        found |= layout.of_linear(f"{name}.{number}", f"{name} {place}", layer, outputs, read)
        read = outputs
    return found
