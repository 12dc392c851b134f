"""GRU4Rec: gated recurrent units over a query's sequence, whose states meet items of the same table.

Hidasi et al. 2016, Session-based Recommendations with Recurrent Neural Networks (section 3); trained with the softmax
over all items and items from the table of the input, as Hidasi & Czapp 2023 (The Effect of Third Party Implementations
on Reproducibility) describe the model as it is meant.
"""

from typing import Literal

from pydantic import Field

from recsys_core.models.blocks.sections import Ordered


class Config(Ordered):
    """YAML section `model`."""

    kind: Literal["gru4rec"] = "gru4rec"
    num_layers: int = Field(default=1, ge=1, description="recurrent layers, one behind the other")
