"""What was ingested is still there as it was, or the run says which file is not."""

import datetime
import json
from pathlib import Path

import pytest

from recsys_core import artifacts, integrity
from recsys_core.artifacts import Dataset, DayCount
from tasks.ingest import compare

DAY = datetime.date(2024, 3, 1)


class Request(artifacts.Request):
    pass


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    log = tmp_path / "log" / "items" / "ds=2024-03-01" / "a.parquet"
    log.parent.mkdir(parents=True)
    log.write_bytes(b"rows")
    files = [{"path": "items/ds=2024-03-01/a.parquet", "num_bytes": 4, "digest": integrity.digest_of_file(log)}]
    request = Request(output=tmp_path / "ingest", config_hash="c", code_version="v")
    with artifacts.pending(request.output) as aside:
        artifacts.write_text(aside.path / "files.json", json.dumps(files))
        count = DayCount(day=DAY, num_interactions=0, num_users=0, num_items=1)
        return aside.commit(
            Dataset, request, num_rows=0, root=tmp_path / "log", day=DAY, days=(count,), columns={"items": {}}
        )


def test_a_file_of_the_log_that_has_changed_since_is_named(dataset: Dataset, tmp_path: Path) -> None:
    compare(dataset, tmp_path, cached=False)
    compare(dataset, tmp_path, cached=True)
    (file,) = dataset.log_digests()
    file.write_bytes(b"rowz")
    with pytest.raises(ValueError, match=r"a.parquet: damaged, its content is not what was .* to import it anew"):
        compare(dataset, tmp_path, cached=True)
    file.unlink()
    with pytest.raises(ValueError, match=r"a.parquet: cannot be read \(No such file"):
        compare(dataset, tmp_path, cached=True)
