"""Embedding tables: how they start, how they are stored, and whether they learn."""

from typing import Literal, Self

from pydantic import Field, FiniteFloat, model_validator

from recsys_core.artifacts import Frozen
from recsys_core.features.base import Side

_TAKES: dict[str, tuple[str, ...]] = {
    "constant": ("value",),
    "uniform": ("low", "high"),
    "normal": ("mean", "std"),
    "truncated_normal": ("mean", "std"),
    "xavier_uniform": (),
    "xavier_normal": (),
    "kaiming_uniform": (),
    "kaiming_normal": (),
    "file": ("path",),
}
_FILE_MAY = ("id_column", "embedding_column", "separator")


class Initializer(Frozen):
    """The numbers that a table starts with.

    Truncated at two standard deviations. Xavier: Glorot & Bengio 2010, formula 16 (uniform), or a normal distribution
    of the same variance 2 / (rows + width). Kaiming: He et al. 2015, section 2.2, variance 2 / width. A file has ids
    and their embeddings; ids that it does not name start as without an initializer.
    """

    kind: Literal[
        "constant",
        "uniform",
        "normal",
        "truncated_normal",
        "xavier_uniform",
        "xavier_normal",
        "kaiming_uniform",
        "kaiming_normal",
        "file",
    ]
    value: FiniteFloat | None = Field(default=None, description="of constant")
    low: FiniteFloat | None = Field(default=None, description="of uniform")
    high: FiniteFloat | None = Field(default=None, description="of uniform")
    mean: FiniteFloat | None = Field(default=None, description="of the normal kinds")
    std: FiniteFloat | None = Field(default=None, gt=0, description="of the normal kinds, the standard deviation")
    path: str | None = Field(default=None, description="of file: a Parquet, ORC or CSV table, or one of MaxCompute")
    id_column: str | None = Field(
        default=None, description="of file: raw ids, as the table's encoding takes them; null: id"
    )
    embedding_column: str | None = Field(
        default=None, description="of file: a list of as many numbers as the table is wide, or a text; null: embedding"
    )
    separator: str | None = Field(
        default=None, min_length=1, description="of file: what splits the numbers of a text; null: a comma"
    )

    @model_validator(mode="after")
    def _complete(self) -> Self:
        takes = _TAKES[self.kind]
        may = _FILE_MAY if self.kind == "file" else ()
        given = {name for name in type(self).model_fields if name != "kind" and getattr(self, name) is not None}
        if given - set(may) != set(takes):
            wanted = ", ".join(takes) or "no other key"
            raise ValueError(f"{self.kind} takes {wanted}; found {', '.join(sorted(given)) or 'nothing'}")
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise ValueError(f"low {self.low} is not below high {self.high}")
        return self


class TableConfig(Frozen):
    """Keys of one embedding table; all but `name` may be left out."""

    name: str = Field(description="of the table: an id feature's `table`, or its name")
    initializer: Initializer | None = Field(default=None, description="null: uniform in ±1/√rows")
    dtype: Literal["float32", "float16", "bfloat16"] = Field(
        default="float32", description="of the table's rows; what is looked up is float32"
    )
    trainable: bool = Field(default=True, description="false: the table stays as it starts, or as it was loaded")


class TableSpec(Frozen):
    """One embedding table and the (feature name, side) pairs that look rows up in it.

    A table of dynamic ids may grow up to `max_rows` from one training to the next.
    """

    name: str
    num_embeddings: int
    embedding_dim: int
    features: tuple[tuple[str, Side], ...]
    max_rows: int | None = None
    initializer: Initializer | None = None
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    trainable: bool = True
