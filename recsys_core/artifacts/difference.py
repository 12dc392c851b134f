"""How far a model is from the champion."""

from recsys_core.artifacts.core import Frozen


class Difference(Frozen):
    """A metric of the model minus that of the champion on the same rows, and the interval of its paired bootstrap.

    `low` and `high` are None where resamples say nothing: there are too few units (users, groups or rows) to draw from.
    """

    value: float
    low: float | None
    high: float | None


class Cost(Frozen):
    """What tables of fewer bytes cost an exported model: `metric` on `num_rows` rows, as trained and as exported."""

    metric: str
    num_rows: int
    trained: float
    exported: float
