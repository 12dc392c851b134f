"""Six days of rows."""

import pytest
from daily_rows import DAYS, write_day


@pytest.fixture(scope="session")
def source(tmp_path_factory):
    root = tmp_path_factory.mktemp("days")
    for day in DAYS:
        write_day(root, day, row_group_size=50)
    return root
