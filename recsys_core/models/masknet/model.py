"""MaskNet's modules. Legend: B examples, P pooled widths, F dense fields, K vectors, D their width, X inputs = K·D."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from recsys_core.models.blocks import fields, layout
from recsys_core.models.blocks.mlp import mlp
from recsys_core.models.blocks.shared import PooledModel
from recsys_core.models.masknet import Config


class Block(nn.Module):
    """(features [B, X], input [B, Y]) → [B, H]: ReLU(LN(W (mask ⊙ input))), the mask made of the features.

    The mask is W_2 ReLU(W_1 features + b_1) + b_2 (sections 3.2 and 3.3); W has no bias, as the normalisation has one.
    """

    def __init__(self, num_features: int, num_inputs: int, num_outputs: int, reduction: float) -> None:
        """The numbers are X, Y and H."""
        super().__init__()
        self.mask = mlp(num_features, [max(1, round(reduction * num_inputs))], num_inputs)
        self.linear = nn.Linear(num_inputs, num_outputs, bias=False)
        self.norm = nn.LayerNorm(num_outputs)

    def forward(self, features: Tensor, input: Tensor) -> Tensor:  # noqa: A002 - as nn.Module names it
        """Return the block's output."""
        return functional.relu(self.norm(self.linear(self.mask(features) * input)))


class Head(nn.Module):
    """(pooled [B, P], dense [B, F], unused lists) → logits [B]."""

    def __init__(self, inputs: fields.Fields, config: Config) -> None:
        """`inputs` make [B, K, D] of what is read."""
        super().__init__()
        self.fields = inputs
        self.norm = nn.LayerNorm(inputs.dim)
        self.is_parallel: bool = config.structure == "parallel"
        num_features = num_inputs = inputs.num_vectors * inputs.dim
        blocks: list[Block] = []
        for width in config.blocks:
            blocks.append(Block(num_features, num_inputs, width, config.reduction))
            num_inputs = num_features if self.is_parallel else width
        self.blocks = nn.ModuleList(blocks)
        num_outputs = sum(config.blocks) if self.is_parallel else config.blocks[-1]
        self.deep = mlp(num_outputs, config.hidden, 1, config.dropout)

    def forward(self, pooled: Tensor, dense: Tensor, unpooled: list[Tensor], lengths: list[Tensor]) -> Tensor:  # noqa: ARG002
        """Return the examples' logits."""
        vectors = self.fields(pooled, dense)
        # Masks follow from the vectors as they are; what the first block masks is normalised, each vector by itself.
        features, normed = vectors.flatten(1), self.norm(vectors).flatten(1)
        outputs: list[Tensor] = []
        made = normed
        for block in self.blocks:
            made = block(features, normed if self.is_parallel else made)
            outputs.append(made)
        return self.deep(torch.cat(outputs, dim=1) if self.is_parallel else made).squeeze(1)


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
        found |= fields.of_norm("head.norm", layout.units("vector", head.fields.dim))
        features = fields.axis(self.tables, self._dense, head.fields.dim)
        inputs, outputs = features, ()
        for number, block in enumerate(head.blocks):
            assert isinstance(block, Block)
            made = layout.units(f"block {number}", block.linear.out_features)
            name = f"head.blocks.{number}"
            found |= _of_mask(name, block.mask, features, inputs)
            found |= layout.of_linear(f"{name}.linear", f"head block {number}", block.linear, made, inputs)
            found |= fields.of_norm(f"{name}.norm", made)
            outputs = (*outputs, *made) if head.is_parallel else made
            inputs = features if head.is_parallel else made
        return found | layout.of_mlp("head.deep", head.deep, outputs)


def _of_mask(name: str, mask: nn.Module, features: layout.Axis, masked: layout.Axis) -> layout.Layout:
    first, _, last = mask.children()
    assert isinstance(first, nn.Linear)
    assert isinstance(last, nn.Linear)
    hidden = layout.units("hidden", first.out_features)
    found = layout.of_linear(f"{name}.mask.0", f"{name} mask hidden", first, hidden, features)
    return found | layout.of_linear(f"{name}.mask.2", f"{name} mask", last, masked, hidden)
