"""Features: columns of the log become the numbers and embedding rows that a model reads.

A feature's `kind` is a file of this folder (or a module of the user's own package); `Engine` holds one configured set,
fitted. Training, batch prediction and serving all read the same saved engine, byte for byte.
"""

from recsys_core.columns import RowError
from recsys_core.features.base import (
    Encoded,
    FeatureConfig,
    Jagged,
    NumberFeature,
    Side,
    SparseFeature,
)
from recsys_core.features.engine.carried import Carried, Rows, carried, differences, rows_of
from recsys_core.features.engine.counting import counting_from, out_of_range_metrics
from recsys_core.features.engine.description import Description, Example
from recsys_core.features.engine.engine import Config, Engine
from recsys_core.features.engine.names import unknown
from recsys_core.features.engine.tables import Initializer, TableConfig, TableSpec

__all__ = [
    "Carried",
    "Config",
    "Description",
    "Encoded",
    "Engine",
    "Example",
    "FeatureConfig",
    "Initializer",
    "Jagged",
    "NumberFeature",
    "RowError",
    "Rows",
    "Side",
    "SparseFeature",
    "TableConfig",
    "TableSpec",
    "carried",
    "counting_from",
    "differences",
    "out_of_range_metrics",
    "rows_of",
    "unknown",
]
