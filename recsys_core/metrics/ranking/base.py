"""The contract of a metric of scored and labelled rows, and the rows. Legend: B rows.

Rows are kept (score, label, weight, group) and counted once at the end, over all batches and ranks: a sum of per-batch
AUCs is not an AUC, and neither is one from a histogram of scores. A metric file has a `Config` and a `Metric(config)`.
Resamples of the rows are other weights of them; see `bootstrap`.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, NamedTuple, Self

import numpy as np

from recsys_core import lookup
from recsys_core.artifacts import ComponentConfig, LabelledMetrics
from recsys_core.metrics.bootstrap import Resampled

CATALOGUE = "recsys_core.metrics.ranking"
Direction = Literal["up", "down", "one"]
_ALWAYS_OF_VALUES = ("mean_squared_error", "mean_absolute_error")


class Scored(NamedTuple):
    """Rows with their logits float64 [B], labels bool [B], weights float64 [B], and group numbers int64 [B] if any.

    Of a task of `values` the labels are float64 [B], and in place of logits are the values that are predicted.
    """

    logits: np.ndarray
    labels: np.ndarray
    weights: np.ndarray
    groups: np.ndarray | None
    values: bool = False

    @classmethod
    def joined(cls, parts: "list[Scored]") -> Self:
        """Return all rows of all parts (of batches, of ranks)."""
        columns = zip(*(part[:4] for part in parts), strict=True)
        logits, labels, weights, groups = (None if c[0] is None else np.concatenate(c) for c in columns)
        assert logits is not None
        assert labels is not None
        assert weights is not None
        return cls(logits, labels, weights, groups, parts[0].values)

    @property
    def predicted(self) -> np.ndarray:
        """What is predicted of each row, float64 [B]: the probability of a label of 1, or the value."""
        return self.logits if self.values else sigmoid(self.logits)

    def metrics(self, others: Sequence[ComponentConfig] = ()) -> LabelledMetrics:
        """Measure the rows, by `others` too.

        Raises:
            ValueError: there are none, or they weigh nothing together.
        """
        if not self.weights.sum():
            raise ValueError(f"{len(self.logits)} rows with a total weight of 0: there is nothing to measure")
        every = all_of(others, values=self.values)
        found: dict[str, Any] = {kind: metric.measure(self) for kind, metric in every.items()}
        fields = {kind: found.pop(kind, None) for kind in always()}
        num_positives = int((self.labels > 0).sum())
        return LabelledMetrics(num_rows=len(self.logits), num_positives=num_positives, others=found, **fields)

    def by_unit(self, units: np.ndarray, num_units: int, values: np.ndarray | None = None) -> np.ndarray:
        """Return the weighted sum of `values` [B] over the rows of each unit, [num_units]; by default of ones."""
        return np.bincount(units, self.weights if values is None else self.weights * values, num_units)

    def taken(self, kept: np.ndarray) -> Self:
        """Return some of the rows, by bool [B]."""
        return type(self)(
            self.logits[kept],
            self.labels[kept],
            self.weights[kept],
            None if self.groups is None else self.groups[kept],
            self.values,
        )


class Metric(ABC):
    """One figure of rows that weigh more than nothing.

    Attributes:
        direction: whether it is better the higher it is (`up`), the lower (`down`), or the nearer to `one`.
        measures: whether it is of rows with a label of 0 or 1, of rows with a value, or of both.
    """

    direction: ClassVar[Direction]
    measures: ClassVar[Literal["labels", "values", "both"]] = "labels"

    def __init__(self, config: Any) -> None:
        """Take the section's options."""
        self.config = config

    @abstractmethod
    def measure(self, scored: Scored) -> float | None:
        """Return the figure; None where it is not defined."""

    def resampled(self, scored: Scored, units: np.ndarray, num_units: int) -> Resampled:
        """Return the figure of resamples of units, int [B] below `num_units`; the rows of a group are of one unit.

        A metric that need not be measured anew for each resample overrides this.
        """

        def of_counts(counts_GR: np.ndarray) -> np.ndarray:
            assert len(counts_GR) == num_units
            figures: list[float | None] = []
            for counts_G in counts_GR.T:
                weights = scored.weights * counts_G[units]
                figures.append(self.measure(scored._replace(weights=weights)) if weights.any() else None)
            return np.array([np.nan if figure is None else figure for figure in figures])

        return of_counts


def always() -> tuple[str, ...]:
    """Return the kinds of the metrics that every evaluation has; the others are measured where a config names them."""
    return tuple(kind for kind in lookup.kinds(CATALOGUE) if kind in LabelledMetrics.model_fields)


def all_of(others: Sequence[ComponentConfig] = (), *, values: bool = False) -> dict[str, Metric]:
    """Return the metrics that every evaluation has of labels, or of `values`, and of the `others` those of that."""
    kinds = (*always(), *(_ALWAYS_OF_VALUES if values else ()))
    own = [lookup.component(CATALOGUE, kind).Config() for kind in kinds]
    every = {config.kind: build(config) for config in (*own, *others)}
    unfit = "labels" if values else "values"
    return {kind: metric for kind, metric in every.items() if metric.measures != unfit}


def build(config: ComponentConfig) -> Metric:
    """Return the metric of `config.kind`."""
    return lookup.component(CATALOGUE, config.kind).Metric(config)


def direction(kind: str) -> Direction:
    """Return where the metric `kind` is better: the higher it is (`up`), the lower (`down`), or the nearer to `one`."""
    return lookup.component(CATALOGUE, kind).Metric.direction


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return each row's loss [B] in nats."""
    return np.logaddexp(0, np.where(labels, -logits, logits))


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Return the probabilities [B], without overflow."""
    return np.exp(-np.logaddexp(0, -logits))
