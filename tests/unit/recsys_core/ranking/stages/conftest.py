"""A source of labelled splits, what prepare makes of it, and a training that has stopped."""

import pyarrow.parquet as pq
import pytest
from labelled_rows import prepared, table_of, train_request

from recsys_core.artifacts import LabelledData
from recsys_core.progress import silent
from recsys_core.ranking import train


@pytest.fixture(scope="session")
def source(tmp_path_factory):
    root = tmp_path_factory.mktemp("labelled")
    for split, num_rows, seed in (("train", 400, 0), ("valid", 100, 1), ("test", 101, 2)):
        (root / split).mkdir()
        pq.write_table(table_of(num_rows, seed), root / split / "part-0.parquet", row_group_size=60)
    return root


@pytest.fixture(scope="session")
def data(source, tmp_path_factory) -> LabelledData:
    return prepared(source, tmp_path_factory.mktemp("prepared") / "prepare", sample_weight="weight", group="user")


@pytest.fixture(scope="session")
def trained(data, tmp_path_factory):
    return train.run(train_request(data, tmp_path_factory.mktemp("trained") / "train"), silent)
