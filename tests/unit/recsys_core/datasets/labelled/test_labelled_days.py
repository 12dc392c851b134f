"""Days of labelled rows in an object store: found by name, copied once, and seen to change."""

import datetime
import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys_core import readers
from recsys_core.datasets.labelled import labelled_days
from recsys_core.datasets.labelled.labelled_days import Config

FIRST, SECOND, THIRD = (datetime.date(2024, 1, number) for number in (1, 2, 3))


def _put(client, key, rows):
    content = io.BytesIO()
    pq.write_table(pa.table({"row": rows}), content)
    client.put_object(Bucket="ctr", Key=key, Body=content.getvalue())


def test_days_of_an_object_store_are_found_and_show_changes(s3):
    s3.create_bucket(Bucket="ctr")
    for day in (FIRST, SECOND, THIRD):
        for hour in (0, 1):
            _put(s3, f"clicks/dt={day}/hour={hour}/part.parquet", [day.day, hour])
    s3.put_object(Bucket="ctr", Key="clicks/_SUCCESS", Body=b"")
    config = Config(source="s3://ctr/clicks/dt={day}/")
    found = labelled_days.days(config, FIRST, SECOND)
    assert list(found) == [FIRST, SECOND]
    reader = readers.build(readers.infer(found[SECOND].path))
    assert readers.read_all(reader, ["row", "hour"]).to_pydict() == {"row": [2, 0, 2, 1], "hour": ["0", "0", "1", "1"]}
    # Another day, and one that is not asked for, change nothing.
    before = labelled_days.fingerprint(found)
    _put(s3, f"clicks/dt={THIRD}/hour=0/part.parquet", [9, 9, 9])
    assert labelled_days.fingerprint(labelled_days.days(config, FIRST, SECOND)) == before
    _put(s3, f"clicks/dt={SECOND}/hour=0/part.parquet", [9, 9, 9])
    assert labelled_days.fingerprint(labelled_days.days(config, FIRST, SECOND)) != before
    inner = Config(source="s3://ctr/clicks/dt={day}/hour=1/*.parquet")
    assert [len(part.path) for part in labelled_days.days(inner, FIRST, THIRD).values()] == [1, 1, 1]
    _put(s3, "clicks/dt=20240102/part.parquet", [1])
    with pytest.raises(ValueError, match=r"s3://ctr/clicks/dt=\{day\}/: two partitions are of 2024-01-02; remove one"):
        labelled_days.days(config, FIRST, THIRD)
    _put(s3, "clicks/dt=latest/part.parquet", [1])
    with pytest.raises(ValueError, match="'latest' stands in the place of a day; write days as YYYY-MM-DD or YYYYMMDD"):
        labelled_days.days(config, FIRST, FIRST)
    assert labelled_days.days(Config(source="s3://ctr/nothing/dt={day}/"), FIRST, THIRD) == {}


def test_a_store_that_cannot_be_reached_is_named():
    with pytest.raises(ValueError, match=r"nowhere://ctr/dt=\{day\}: cannot be listed \(.*nowhere"):
        labelled_days.days(Config(source="nowhere://ctr/dt={day}"), FIRST, THIRD)
