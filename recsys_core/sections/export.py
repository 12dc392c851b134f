"""YAML section `export`."""

from typing import Literal

from pydantic import Field

from recsys_core.artifacts import Frozen


class Config(Frozen):
    """YAML section `export`."""

    parity_rows: int = Field(
        default=1_000, ge=1, description="real rows on which scripted and eager towers are compared"
    )
    parity_tolerance: float = Field(default=1e-5, ge=0, description="largest absolute difference that passes")
    format: Literal["torchscript", "pt2"] = Field(
        default="torchscript", description="TorchScript, or a program of torch.export"
    )
    table_dtype: Literal["trained", "float16", "int8", "int4"] = Field(
        default="trained",
        description="of the embedding tables; anything but how they were trained costs accuracy, which is measured and "
        "stands in the manifest",
    )
