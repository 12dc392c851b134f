"""What the pictures of scored and labelled rows are drawn from. Legend: B rows."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys_core.metrics.ranking.base import Scored


def roc(scored: Scored, num_points: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Return false and true positive rates along the ROC curve, from (0, 0) to (1, 1), for a picture."""
    order = np.argsort(-scored.logits, kind="stable")
    positive, negative = (
        np.cumsum(scored.weights[order] * wanted[order]) for wanted in (scored.labels, ~scored.labels)
    )
    ends = np.append(np.flatnonzero(np.diff(scored.logits[order])), len(order) - 1)
    ends = ends[np.unique(np.linspace(0, len(ends) - 1, num_points).round().astype(int))]
    rates = [np.append(0, sums[ends] / max(sums[-1], np.finfo(float).tiny)) for sums in (negative, positive)]
    return rates[0], rates[1]


def calibration_bins(scored: Scored, num_bins: int = 20) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return mean prediction, mean label (the share of positives), and rows, of bins by rising prediction.

    The bins have equally many rows.
    """
    order = np.argsort(scored.logits, kind="stable")
    bins = [part for part in np.array_split(order, num_bins) if scored.weights[part].sum() > 0]
    means = [
        np.array([np.average(v[part], weights=scored.weights[part]) for part in bins])
        for v in (scored.predicted, scored.labels)
    ]
    return means[0], means[1], np.array([len(part) for part in bins])


def write_pictures(scored: Scored, folder: Path) -> None:
    """Write what the pictures of an evaluation are drawn from: `calibration.parquet`, and of labels `roc.parquet`."""
    if not scored.values:
        rates = dict(zip(("false_positives", "true_positives"), roc(scored), strict=True))
        pq.write_table(pa.table(rates), folder / "roc.parquet")
    bins = dict(zip(("predicted", "observed", "num_rows"), calibration_bins(scored), strict=True))
    pq.write_table(pa.table(bins), folder / "calibration.parquet")
