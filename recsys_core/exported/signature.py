"""What an exported module takes, in a form that its users can read."""

import math
from collections.abc import Mapping, Sequence

import pyarrow as pa
from torch import Tensor

from recsys_core.features import Engine, Side


def columns(engine: Engine, sides: Sequence[Side], rows: Sequence[pa.Table]) -> dict[str, object]:
    """Return the columns that the features of `sides` read: their names, their types, and the values of one row.

    With `at_serving`, what the features take for columns that are not asked for.
    """
    names = list(dict.fromkeys(name for side in sides for name in engine.columns(side)))
    types = {name: field["type"] for side in sides for name, field in engine.schema(side).items()}
    example: dict[str, object] = {}
    for table in rows:
        example |= {name: value for name, value in table.slice(0, 1).to_pylist()[0].items() if name in names}
    found: dict[str, object] = {"columns": names, "types": types}
    found["example"] = {name: plain(example.get(name)) for name in names}
    return found | ({"at_serving": engine.at_serving} if engine.at_serving else {})


def plain(value: object) -> object:
    """Return a value as JSON has it; numbers that are none are null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    return value if isinstance(value, str | int | float | bool | None) else str(value)


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
