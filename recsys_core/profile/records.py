"""What a profile says: the records that the command prints as JSON and that pictures are made from."""

from typing import Literal

from pydantic import Field

from recsys_core.artifacts import Frozen

Scalar = bool | int | float | str
Tag = Literal["user", "item", "context", "label", "weight", "id", "sequence"]


class Top(Frozen):
    """A frequent value; `share` is of all values that are neither null nor NaN nor infinite."""

    value: Scalar
    count: int
    share: float


class Lengths(Frozen):
    """How long texts (in characters), bytes or lists (in values) are."""

    min: int
    max: int
    mean: float
    quantiles: dict[str, int]


class Histogram(Frozen):
    """`counts[i]` values lie from `edges[i]` to `edges[i + 1]`; what lies outside of the edges is in the outermost."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


class ColumnProfile(Frozen):
    """One column. Of a list column all but `rows`, `nulls` and `lengths` is about the lists' values together.

    `values` counts what is neither null nor NaN nor infinite; `distinct`, ends, moments, quantiles and `top` are of
    these. `distinct_error` is the relative standard error of `distinct` (0: exact), `quantile_error` the largest
    possible distance in rank as a share of the values, `top_error` by how much a count in `top` may be too low.
    """

    type: str
    rows: int
    nulls: int
    values: int
    distinct: int | None = None
    distinct_error: float = 0.0
    min: Scalar | None = None
    max: Scalar | None = None
    mean: float | None = None
    std: float | None = None
    quantiles: dict[str, Scalar] = Field(default_factory=dict)
    quantile_error: float = 0.0
    zeros: int | None = None
    nans: int | None = None
    infinities: int | None = None
    top: tuple[Top, ...] = ()
    top_error: int = 0
    lengths: Lengths | None = None
    histogram: Histogram | None = None
    tags: tuple[Tag, ...] = ()
    reason: str = ""


class TableProfile(Frozen):
    """A table: `bytes` as its files lie on the disk, `partitions` the rows by value of each Hive partition key.

    `sampled_rows` of the `rows` were read.
    """

    source: str
    rows: int
    sampled_rows: int
    bytes: int | None
    files: int
    partitions: dict[str, dict[str, int]]
    columns: dict[str, ColumnProfile]
