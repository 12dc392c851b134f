"""What an exported module takes, in a form that its users can read."""

from collections.abc import Mapping

from torch import Tensor


def described(inputs: Mapping[str, Tensor]) -> list[dict[str, object]]:
    """Return names, types and shapes of an exported module's inputs, for its signature."""
    return [
        {
            "name": name,
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "shape": ["values" if name.endswith((".values", ".weights")) else "rows", *tensor.shape[1:]],
        }
        for name, tensor in inputs.items()
    ]
