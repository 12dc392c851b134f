"""Deep towers beside target attention over sequences.

Zhou et al. 2018, Deep Interest Network for Click-Through Rate Prediction (section 4.3). A sequence and its target share
a table: a history of item ids is compared with the candidate's item id. Sequences that stand element by element for the
same behaviour (its item, its category, its price) are attended to together, side by side: an element is the embeddings
and the numbers of one behaviour. A sequence of numbers is compared with the candidate's numbers, such as its price, or
with zeros where the candidate has none, such as the time since a click.
"""

from typing import Literal

from pydantic import Field, PositiveInt

from recsys_core.artifacts import ComponentConfig
from recsys_core.models.blocks.sections import Behaviours, Tower


class Attention(Behaviours):
    """Sequences that are attended to together, their targets, and the MLP that weighs them."""

    hidden: tuple[PositiveInt, ...] = Field(
        default=(128, 64), min_length=1, description="hidden widths of the attention's MLP"
    )


class Config(ComponentConfig):
    """YAML section `model`."""

    kind: Literal["multi_tower_din"] = "multi_tower_din"
    towers: tuple[Tower, ...] = (Tower(hidden=(256, 128)),)
    attention: tuple[Attention, ...] = Field(min_length=1)
    hidden: tuple[PositiveInt, ...] = Field(default=(64, 32), description="hidden widths of the MLP over all towers")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="of the deep towers and the MLP over them")
