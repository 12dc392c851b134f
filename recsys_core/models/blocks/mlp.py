"""Multi-layer perceptron that ends linearly, as a tower must: TorchRec's MLP activates after its last layer too."""

from collections.abc import Sequence

from torch import nn


def mlp(num_inputs: int, hidden: Sequence[int], num_outputs: int, dropout: float = 0.0) -> nn.Sequential:
    """Return Linear-ReLU(-Dropout) for each hidden width, then one Linear: [rows, num_inputs] → [rows, num_outputs]."""
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(num_inputs, width), nn.ReLU()]
        if dropout:
            layers.append(nn.Dropout(dropout))
        num_inputs = width
    layers.append(nn.Linear(num_inputs, num_outputs))
    return nn.Sequential(*layers)
