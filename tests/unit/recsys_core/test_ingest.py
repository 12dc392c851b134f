"""Ingest: imports once, checks always, and its artifact follows the content of the log."""

import datetime
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import pyarrow.parquet as pq
import pytest
from pydantic import BaseModel

from recsys_core import ingest
from recsys_core.artifacts import Dataset
from recsys_core.datasets import daily, synthetic
from recsys_core.progress import Event, silent

SHOP = {"num_days": 4, "num_users": 60, "num_items": 40, "interactions_per_day": 150, "num_categories": 4}
FIRST = datetime.date(2024, 1, 1)


def config_of(section: dict[str, Any]) -> Any:
    return ingest.lookup.OneOf(ingest.CATALOGUE).parse(section)


def request_for(tmp_path: Path, config: Any, day: datetime.date) -> ingest.Request:
    return ingest.Request(
        output=tmp_path / "run" / "ingest",
        config_hash="c",
        code_version="v",
        config=config,
        day=day,
        import_root=tmp_path / "imports",
        fingerprint=ingest.fingerprint(config, day),
    )


@pytest.fixture
def shop() -> Any:
    return config_of({"kind": "synthetic"} | SHOP)


@pytest.fixture
def log(tmp_path: Path, shop: Any) -> Any:
    """Make a log in the daily layout and name it as the source."""
    ingest.import_log(shop, tmp_path / "log", silent)
    return config_of({"kind": "daily", "source": str(tmp_path / "log")})


def test_a_log_is_imported_once_and_checked(tmp_path: Path, shop: Any):
    day = ingest.last_day(shop, tmp_path / "imports", silent)
    assert day == FIRST + datetime.timedelta(days=2)
    (imported,) = (tmp_path / "imports").iterdir()
    made = imported.stat().st_mtime_ns
    events: list[Event] = []
    dataset = ingest.run(request_for(tmp_path, shop, day), events.append)
    assert {event.message for event in events} == {"checking the log"}
    assert dataset.root == imported
    assert imported.stat().st_mtime_ns == made
    assert [count.day for count in dataset.days] == [FIRST + datetime.timedelta(days=n) for n in range(4)]
    assert dataset.num_rows == sum(count.num_interactions for count in dataset.days)
    assert sorted(file.path for file in dataset.files) == ["files.json", "report.json"]
    assert Dataset.load(tmp_path / "run" / "ingest") == dataset


def test_only_the_days_up_to_the_ground_truth_are_read(tmp_path: Path, log: Any):
    (Path(log.source) / "interactions" / "ds=2024-01-04" / "part-00000.parquet").write_bytes(b"rubbish")
    dataset = ingest.run(request_for(tmp_path, log, FIRST + datetime.timedelta(days=1)), silent)
    assert len(dataset.days) == 3


def test_the_digest_follows_the_content_and_not_the_place_or_time(tmp_path: Path, log: Any):
    dataset = ingest.run(request_for(tmp_path, log, FIRST), silent)
    shutil.copytree(log.source, tmp_path / "copy")
    os.utime(tmp_path / "copy" / "items" / "ds=2024-01-01" / "part-00000.parquet", (1, 1))
    copy = config_of({"kind": "daily", "source": str(tmp_path / "copy")})
    again = ingest.run(request_for(tmp_path, copy, FIRST), silent)
    assert again.digest == dataset.digest
    assert again.key != dataset.key
    items = tmp_path / "copy" / "items" / "ds=2024-01-01" / "part-00000.parquet"
    table = pq.ParquetFile(items).read()
    pq.write_table(table.set_column(3, "price", table["price"].combine_chunks().fill_null(1.0)), items)
    assert ingest.run(request_for(tmp_path, copy, FIRST), silent).digest != dataset.digest


def test_where_it_is_imported_to_does_not_count(tmp_path: Path, shop: Any):
    request = request_for(tmp_path, shop, FIRST)
    assert request.model_copy(update={"import_root": tmp_path / "elsewhere"}).key == request.key
    assert request.model_copy(update={"fingerprint": "other"}).key != request.key
    assert request.model_copy(update={"day": FIRST + datetime.timedelta(days=1)}).key != request.key
    reseeded = request.model_copy(update={"config": shop.model_copy(update={"seed": 1})})
    assert reseeded.key != request.key


def test_tomorrow_changes_nothing_about_today(log: Any):
    before = ingest.fingerprint(log, FIRST)
    shutil.rmtree(Path(log.source) / "interactions" / "ds=2024-01-04")
    assert ingest.fingerprint(log, FIRST) == before
    assert ingest.fingerprint(log, FIRST + datetime.timedelta(days=2)) != before


def test_an_importers_fingerprint_follows_source_and_options(tmp_path: Path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "u.data").write_text("1")
    section = {"kind": "movielens_100k", "source": str(tmp_path / "raw")}
    before = ingest.fingerprint(config_of(section), FIRST)
    assert ingest.fingerprint(config_of(section), FIRST + datetime.timedelta(days=9)) == before
    assert ingest.fingerprint(config_of(section | {"min_rating": 3}), FIRST) != before
    (tmp_path / "raw" / "u.data").write_text("12")
    assert ingest.fingerprint(config_of(section), FIRST) != before
    url = {"kind": "movielens_100k", "source": "http://127.0.0.1:1/ml.zip", "checksum": f"sha256:{'0' * 64}"}
    other = ingest.fingerprint(config_of(url | {"checksum": f"sha256:{'1' * 64}"}), FIRST)
    assert ingest.fingerprint(config_of(url), FIRST) != other


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"kind": "daily", "source": "s3://bucket/log"}, "s3://bucket/log: a log is read from local folders only"),
        ({"kind": "daily", "source": "nowhere"}, "nowhere: has no folder 'interactions'"),
        ({"kind": "movielens_100k", "source": "nowhere.zip"}, r"nowhere.zip: no such file or directory"),
    ],
)
def test_a_source_that_is_not_there_is_named(tmp_path: Path, section: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        ingest.last_day(config_of(section), tmp_path, silent)


def test_a_refused_log_leaves_no_artifact(tmp_path: Path, log: Any):
    shutil.rmtree(Path(log.source) / "users" / "ds=2024-01-01")
    with pytest.raises(ValueError, match="that users does not know by then"):
        ingest.run(request_for(tmp_path, log, FIRST), silent)
    with pytest.raises(ValueError, match=r"no interactions for 2024-01-05 \(the ground truth of 2024-01-04\)"):
        ingest.run(request_for(tmp_path, log, FIRST + datetime.timedelta(days=3)), silent)
    assert not (tmp_path / "run").exists()


def test_a_half_made_import_is_never_seen_and_never_stays(tmp_path: Path, shop: Any):
    seen: list[list[str]] = []

    def full_disk(event: Event) -> None:
        seen.append([path.name for path in tmp_path.iterdir()])
        if event.done == 2:
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        ingest.import_log(shop, tmp_path / "log", full_disk)
    assert seen == [[".log.partial"], [".log.partial"]]
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_import_left_is_cleared(tmp_path: Path, shop: Any):
    (tmp_path / ".log.partial" / "interactions" / "ds=1999-01-01").mkdir(parents=True)
    counts = ingest.import_log(shop, tmp_path / "log", silent)
    assert [path.name for path in tmp_path.iterdir()] == ["log"]
    assert len(daily.partitions(tmp_path / "log", "interactions")) == counts.num_days == 4


def test_an_existing_log_is_replaced_only_if_asked(tmp_path: Path, shop: Any, log: Any):
    with pytest.raises(ValueError, match="log: exists; name another folder, or allow it to be overwritten"):
        ingest.import_log(shop, tmp_path / "log", silent)
    longer = shop.model_copy(update={"num_days": 5})
    assert ingest.import_log(longer, tmp_path / "log", silent, overwrite=True).num_days == 5
    assert len(daily.partitions(tmp_path / "log", "interactions")) == 5
    with pytest.raises(ValueError, match="daily is read as it is; name it as data.source"):
        ingest.import_log(log, tmp_path / "other", silent)


def test_two_runs_that_start_together_import_once(tmp_path: Path, shop: Any, monkeypatch: pytest.MonkeyPatch):
    calls: list[int] = []
    original = synthetic.write

    def counted(*arguments: Any) -> Any:
        calls.append(1)
        return original(*arguments)

    monkeypatch.setattr(synthetic, "write", counted)
    roots: list[Path] = []
    runs = [
        threading.Thread(target=lambda: roots.append(ingest.prepare(shop, tmp_path / "imports", silent)))
        for _ in range(3)
    ]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert len(calls) == 1
    assert len(set(roots)) == 1


def test_the_section_is_parsed_by_its_kind_and_dumped_whole():
    class Run(BaseModel):
        data: Annotated[ingest.base.Config, ingest.lookup.OneOf(ingest.CATALOGUE)]

    run = Run.model_validate({"data": {"kind": "taobao_ad", "source": "raw", "clicks_only": False}})
    assert run.model_dump(mode="json")["data"] == {
        "kind": "taobao_ad",
        "source": "raw",
        "checksum": None,
        "clicks_only": False,
        "utc_offset_hours": 8,
        "first_day": "2017-05-12",
    }
    assert Run.model_validate(run.model_dump(mode="json")) == run


@pytest.mark.parametrize("kind", ["movielens_100k", "taobao_ad"])
def test_the_research_data_passes_every_check(tmp_path: Path, recsys_data: Callable[[str], Path], kind: str):
    folder = recsys_data({"movielens_100k": "ml-100k", "taobao_ad": "taobao-ad"}[kind])
    config = config_of({"kind": kind, "source": str(folder)})
    day = ingest.last_day(config, tmp_path / "imports", silent)
    assert str(day) == {"movielens_100k": "1998-04-21", "taobao_ad": "2017-05-12"}[kind]
    dataset = ingest.run(request_for(tmp_path, config, day), silent)
    assert dataset.num_rows == {"movielens_100k": 100_000, "taobao_ad": 281_831}[kind]


def test_an_imported_log_has_the_rows_that_were_imported_in_every_run(tmp_path: Path, shop: Any):
    day = FIRST + datetime.timedelta(days=1)
    dataset = ingest.run(request_for(tmp_path, shop, day), silent)
    path, rows = (
        dataset.root / "interactions" / "ds=2024-01-01" / "part-00000.parquet",
        dataset.days[0].num_interactions,
    )
    pq.write_table(pq.read_table(path).slice(5), path)
    message = rf"interactions/ds=2024-01-01: {rows - 5} rows where {rows} were imported; remove .*/imports/synthetic-"
    with pytest.raises(ValueError, match=message):
        ingest.run(request_for(tmp_path, shop, day), silent)
    # Of a log that is read in place, only its owner knows how many rows it should have.
    own = config_of({"kind": "daily", "source": str(dataset.root)})
    assert ingest.run(request_for(tmp_path, own, day), silent).days[0].num_interactions == rows - 5


def test_a_log_in_an_odd_or_hidden_folder_is_read_as_it_is(tmp_path: Path, shop: Any):
    for name in (".cache/lo,g", "*", "[x]", "a#b%20c?d=e", "é ü"):
        config = config_of({"kind": "daily", "source": f"{tmp_path}/{name}"})
        ingest.import_log(shop, tmp_path / name, silent)
        assert ingest.last_day(config, tmp_path / "imports", silent) == FIRST + datetime.timedelta(days=2)
        request = request_for(tmp_path, config, FIRST)
        assert ingest.run(request, silent).num_rows == sum(
            pq.read_metadata(path).num_rows
            for day in ("2024-01-01", "2024-01-02")
            for path in (tmp_path / name / "interactions" / f"ds={day}").iterdir()
        )
