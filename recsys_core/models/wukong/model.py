"""WuKong's modules.

Legend: B examples, P pooled widths, F dense fields, K vectors, D their width, K' vectors of the next layer, R rank.
"""

import torch
from torch import Tensor, nn

from recsys_core.models.blocks import fields, layout
from recsys_core.models.blocks.mlp import mlp
from recsys_core.models.blocks.shared import PooledModel
from recsys_core.models.wukong import Config


class Layer(nn.Module):
    """[B, K, D] → [B, K', D]: LN([machine, kept] + vectors) (section 3.3).

    machine: MLP(LN(flat(X (Xᵀ Y)))), of the dot products of the vectors X [K, D] and R weighted sums of them (sections
        3.4 and 3.6); kept: weighted sums of the vectors (section 3.5). Where K' differs from K weighted sums of the
        vectors are added too, in place of these.
    """

    def __init__(self, num_vectors: int, dim: int, config: Config) -> None:
        """The numbers are K and D."""
        super().__init__()
        self.num_made, self.dim = config.machine_vectors, dim
        num_outputs = config.machine_vectors + config.kept_vectors
        self.compared = nn.Linear(num_vectors, config.rank, bias=False)
        self.products_norm = nn.LayerNorm(num_vectors * config.rank)
        self.machine = mlp(num_vectors * config.rank, config.machine_hidden, config.machine_vectors * dim)
        self.kept = nn.Linear(num_vectors, config.kept_vectors, bias=False)
        self.changes: bool = num_outputs != num_vectors
        self.residual = nn.Linear(num_vectors, num_outputs, bias=False) if self.changes else nn.Identity()
        self.norm = nn.LayerNorm(dim)

    def forward(self, vectors: Tensor) -> Tensor:
        """Return the next layer's vectors."""
        transposed_BDK = vectors.transpose(1, 2)
        products_BKR = torch.bmm(vectors, self.compared(transposed_BDK))
        made = self.machine(self.products_norm(products_BKR.flatten(1)))
        made = made.view(vectors.shape[0], self.num_made, self.dim)
        kept = self.kept(transposed_BDK).transpose(1, 2)
        residual = self.residual(transposed_BDK).transpose(1, 2) if self.changes else vectors
        return self.norm(torch.cat([made, kept], dim=1) + residual)


class Head(nn.Module):
    """(pooled [B, P], dense [B, F], unused lists) → logits [B]."""

    def __init__(self, inputs: fields.Fields, config: Config) -> None:
        """`inputs` make [B, K, D] of what is read."""
        super().__init__()
        self.fields = inputs
        num_outputs = config.machine_vectors + config.kept_vectors
        counts = [inputs.num_vectors] + [num_outputs] * (config.num_layers - 1)
        self.layers = nn.ModuleList(Layer(count, inputs.dim, config) for count in counts)
        self.deep = mlp(num_outputs * inputs.dim, config.hidden, 1, config.dropout)

    def forward(self, pooled: Tensor, dense: Tensor, unpooled: list[Tensor], lengths: list[Tensor]) -> Tensor:  # noqa: ARG002
        """Return the examples' logits."""
        vectors = self.fields(pooled, dense)
        for layer in self.layers:
            vectors = layer(vectors)
        return self.deep(vectors.flatten(1)).squeeze(1)


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
        inputs, outputs = fields.axis(self.tables, self._dense, 1), ()
        for number, layer in enumerate(head.layers):
            assert isinstance(layer, Layer)
            name, place = f"head.layers.{number}", f"layer {number}"
            # Normalised together, so that no product stays 0.
            products = tuple(
                block.model_copy(
                    update={
                        "features": (),
                        "width": layer.compared.out_features,
                        "repeats": block.width * block.repeats,
                    }
                )
                for block in inputs
            )
            outputs = layout.units(f"{place} machine", layer.num_made) + layout.units(
                f"{place} kept", layer.kept.out_features
            )
            by_name = {"compared": layout.units(f"{place} compared", layer.compared.out_features)}
            by_name |= {"kept": outputs[1:], "residual": outputs}
            for part, axis in by_name.items():
                linear = layer.get_submodule(part)
                if isinstance(linear, nn.Linear):
                    found |= layout.of_linear(f"{name}.{part}", f"head {place} {part}", linear, axis, inputs)
            found |= fields.of_norm(f"{name}.products_norm", products)
            found |= layout.of_mlp(f"{name}.machine", layer.machine, products)
            found |= fields.of_norm(f"{name}.norm", layout.units("vector", layer.dim))
            inputs = outputs
        vectors = tuple(
            block.model_copy(update={"width": head.fields.dim, "repeats": block.width}) for block in outputs
        )
        return found | layout.of_mlp("head.deep", head.deep, vectors)
