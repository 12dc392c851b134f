"""Names of tables in one section that another one defines."""

from recsys_core.features import Config as Features
from recsys_core.features import Engine, unknown
from recsys_core.training.config import Config as Train


def check(features: Features, train: Train) -> None:
    """Check that what is said of single tables is said of tables that there are.

    Raises:
        ValueError: a key of `by_table` names no table (for the sharding: nor a feature with one).
    """
    engine = Engine.build(features)
    tables = [table.name for table in engine.tables]
    users = [name for table in engine.tables for name, _ in table.features]
    places = {
        "train.sharding.by_table": (train.sharding.by_table, [*tables, *users]),
        "train.sparse_optimizer.by_table": (train.sparse_optimizer.by_table, tables),
    }
    for place, (given, known) in places.items():
        for name in given:
            if name not in known:
                raise ValueError(f"{place}: {unknown('table', name, dict.fromkeys(known))}")
