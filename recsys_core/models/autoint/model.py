"""AutoInt's modules. Legend: B examples, P pooled widths, F dense fields, K vectors, D their width, H heads."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from recsys_core.models.autoint import Config
from recsys_core.models.blocks import fields, layout
from recsys_core.models.blocks.mlp import mlp
from recsys_core.models.blocks.shared import PooledModel


class Interacting(nn.Module):
    """[B, K, D] → [B, K, H·D']: ReLU(all heads side by side + W_res e) (equations 5 to 8).

    A head weighs the vectors by the softmax of the dot products of queries and keys, which are not scaled.
    """

    def __init__(self, dim: int, num_heads: int, head_dim: int) -> None:
        """`dim` is D, and `head_dim` is D'."""
        super().__init__()
        self.num_heads, self.head_dim = num_heads, head_dim
        width = num_heads * head_dim
        self.query = nn.Linear(dim, width, bias=False)
        self.key = nn.Linear(dim, width, bias=False)
        self.value = nn.Linear(dim, width, bias=False)
        self.residual = nn.Linear(dim, width, bias=False)

    def forward(self, vectors: Tensor) -> Tensor:
        """Return the layer's vectors."""
        query = self._by_head(self.query(vectors))
        key = self._by_head(self.key(vectors))
        value = self._by_head(self.value(vectors))
        shares_BHKK = torch.softmax(torch.matmul(query, key.transpose(2, 3)), dim=3)
        made = torch.matmul(shares_BHKK, value).transpose(1, 2).flatten(2)
        return functional.relu(made + self.residual(vectors))

    def _by_head(self, wide: Tensor) -> Tensor:
        """[B, K, H·D'] → [B, H, K, D']."""
        return wide.view(wide.shape[0], wide.shape[1], self.num_heads, self.head_dim).transpose(1, 2)


class Head(nn.Module):
    """(pooled [B, P], dense [B, F], unused lists) → logits [B]."""

    def __init__(self, inputs: fields.Fields, config: Config) -> None:
        """`inputs` make [B, K, D] of what is read."""
        super().__init__()
        self.fields = inputs
        width = config.num_heads * config.head_dim
        dims = [inputs.dim] + [width] * (config.num_layers - 1)
        self.layers = nn.ModuleList(Interacting(dim, config.num_heads, config.head_dim) for dim in dims)
        self.output = nn.Linear(inputs.num_vectors * width, 1)
        self.has_deep: bool = bool(config.hidden)
        num_inputs = inputs.num_vectors * inputs.dim
        self.deep = mlp(num_inputs, config.hidden, 1, config.dropout) if config.hidden else nn.Identity()

    def forward(self, pooled: Tensor, dense: Tensor, unpooled: list[Tensor], lengths: list[Tensor]) -> Tensor:  # noqa: ARG002
        """Return the examples' logits."""
        first = self.fields(pooled, dense)
        vectors = first
        for layer in self.layers:
            vectors = layer(vectors)
        logits = self.output(vectors.flatten(1))
        if self.has_deep:
            logits = logits + self.deep(first.flatten(1))
        return logits.squeeze(1)


class Model(PooledModel[Config]):
    """See `PooledModel`."""

    def make_head(self, config: Config) -> nn.Module:
        """See the base class.

        Raises:
            ValueError: embeddings of different widths.
        """
        return Head(fields.Fields(config.kind, self.tables, self._dense), config)

    def layout(self) -> layout.Layout:
        """See `base.RetrievalModel.layout`."""
        head = self.head
        assert isinstance(head, Head)
        found = fields.of_fields("head.fields", head.fields, self._dense)
        width = head.fields.dim
        if head.has_deep:
            found |= layout.of_mlp("head.deep", head.deep, fields.axis(self.tables, self._dense, width))
        inputs = layout.units("vector", width)
        for number, layer in enumerate(head.layers):
            assert isinstance(layer, Interacting)
            outputs = layout.units(f"layer {number}", width := layer.num_heads * layer.head_dim)
            for name, part in layer.named_children():
                assert isinstance(part, nn.Linear)
                place = f"head layer {number} {name}"
                found |= layout.of_linear(f"head.layers.{number}.{name}", place, part, outputs, inputs)
            inputs = outputs
        vectors = fields.hidden(fields.axis(self.tables, self._dense, width))
        return found | layout.of_linear("head.output", "head output", head.output, layout.units("output", 1), vectors)
