"""YAML section `export`."""

from pydantic import Field

from recsys_core.artifacts import Frozen


class Config(Frozen):
    """YAML section `export`."""

    parity_rows: int = Field(
        default=1_000, ge=1, description="real rows on which scripted and eager towers are compared"
    )
    parity_tolerance: float = Field(default=1e-5, ge=0, description="largest absolute difference that passes")
