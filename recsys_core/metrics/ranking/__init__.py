"""Metrics of scored and labelled rows, one per file."""

from recsys_core.metrics.ranking._pictures import calibration_bins, roc, write_pictures
from recsys_core.metrics.ranking.base import (
    CATALOGUE,
    Direction,
    Metric,
    Scored,
    all_of,
    always,
    cross_entropy,
    direction,
    sigmoid,
)

__all__ = [
    "CATALOGUE",
    "Direction",
    "Metric",
    "Scored",
    "all_of",
    "always",
    "calibration_bins",
    "cross_entropy",
    "direction",
    "roc",
    "sigmoid",
    "write_pictures",
]
