"""What is read from folders of our own may be in any state: it is made again, or one line names it."""

import datetime
import json
import random
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys_core import ingest
from recsys_core.artifacts import FileRecord
from recsys_core.contract import statistics
from recsys_core.datasets import base
from recsys_core.features import Config, Engine
from recsys_core.progress import Event
from recsys_core.registry import versions
from recsys_core.sharding.plans import RECORD, Plan
from recsys_core.training import monitor

RUBBISH = [b"", b"null", b"[]", b"{}", b"7", b'"', b"[" * 5_000, b"\x80\x04\x95", b"\x00" * 16, "{}".encode("utf-16")]


@pytest.mark.parametrize("content", RUBBISH)
def test_a_plan(tmp_path: Path, content: bytes) -> None:
    (tmp_path / RECORD).write_bytes(content)
    with pytest.raises(ValueError, match=r"plan.json: no plan of this version .*; delete it and plan anew") as raised:
        Plan.load(tmp_path)
    assert "\n" not in str(raised.value)


def test_statistics_are_computed_again(tmp_path: Path) -> None:
    partition = tmp_path / "items" / "ds=2024-01-01"
    partition.mkdir(parents=True)
    pq.write_table(pa.table({"a": [1, 2, 2]}), partition / "a.parquet")
    files = [FileRecord(path="items/ds=2024-01-01/a.parquet", num_bytes=1, digest="d")]
    memory, text = tmp_path / "memory", list[Event]()
    whole = statistics.of_partition(tmp_path, "items", files, [], memory, text.append)
    (remembered,) = memory.iterdir()
    for content in (*RUBBISH, None):
        if content is None:
            remembered.unlink()
            remembered.mkdir()
        else:
            remembered.write_bytes(content)
        assert statistics.of_partition(tmp_path, "items", files, [], memory, text.append) == whole
        message = text.pop().message or ""
        assert message.startswith(f"warning: {remembered}: ")
        assert message.endswith("; its partition is read again")
    assert statistics.of_partition(tmp_path, "items", files, [], memory, text.append) == whole
    assert text == []


def test_marks_of_imported_days(tmp_path: Path) -> None:
    marks = tmp_path / ".imported"
    marks.mkdir()
    (marks / "2024-01-01.json").write_text('{"digest": "digest", "rows": {"users": 1}}')
    text: list[Event] = []
    for content in (*RUBBISH, b'"of older days"'):
        (marks / "2024-01-02.json").write_bytes(content)
        assert ingest._imported(tmp_path, text.append) == {datetime.date(2024, 1, 1): "digest"}
        message = text.pop().message or ""
        assert message.startswith(f"warning: {marks}/2024-01-02.json: damaged")
        assert message.endswith("; its day is imported again")


@pytest.mark.parametrize("content", RUBBISH[:3] + RUBBISH[4:-1])
def test_rows_that_were_written(tmp_path: Path, content: bytes) -> None:
    (tmp_path / base._WRITTEN).write_bytes(content)
    with pytest.raises(ValueError, match=r": damaged, .*; remove .*, and run again to import it anew"):
        base.written_rows(tmp_path)


def engine(directory: Path) -> Path:
    query = [{"kind": "id", "name": "city", "num_embeddings": 8}]
    features = {"embedding_dim": 4, "query": query, "item": []}
    made = Engine.build(Config.model_validate(features))
    made.fit([pa.table({"city": ["a", "b", "b"]})], [])
    made.save(directory)
    return directory


def test_an_engine_in_any_state_is_read_or_refused_in_one_line(tmp_path: Path) -> None:
    directory, generator = engine(tmp_path / "features"), random.Random(11)
    for path in sorted(directory.iterdir()):
        whole, messages = path.read_bytes(), []
        contents = list(RUBBISH)
        for _ in range(25):
            contents.append(whole[: generator.randrange(len(whole))])
            flipped = bytearray(whole)
            flipped[generator.randrange(len(whole))] ^= 1 << generator.randrange(8)
            contents.append(bytes(flipped))
        for content in contents:
            path.write_bytes(content)
            try:
                Engine.load(directory)
            except ValueError as error:
                messages.append(str(error))
        assert len(messages) > 30
        assert [text for text in messages if not text.startswith(str(directory)) or "\n" in text] == []
        path.write_bytes(whole)
    Engine.load(directory)


def test_a_curve(tmp_path: Path) -> None:
    (tmp_path / "curve.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"curve.parquet: damaged \(.*; delete .*, and training begins again"):
        monitor._read(tmp_path / "curve.parquet", 3)


TAGS = {
    "day": "2024-01-01",
    "run_id": "r",
    "bundle_digest": "b",
    "ground_truth_digest": "g",
    "metrics": '{"hit_rate": 0.5}',
    "checkpoint": "c",
    "model": "m",
}


@pytest.mark.parametrize(
    ("tag", "value"),
    [
        ("metrics", ""),
        ("metrics", "null"),
        ("metrics", "[]"),
        ("metrics", '{"hit_rate": "x"}'),
        ("metrics", "{" * 2_000),
        ("metrics", None),
        ("learned", "{"),
        ("learned", '{"first_day": "2024-01-02", "last_day": "2024-01-01"}'),
        ("day", "yesterday"),
        ("checked", "perhaps"),
        ("run_id", None),
    ],
)
def test_tags_of_a_registered_version(tag: str, value: str | None) -> None:
    tags = {f"dayline.{name}": text for name, text in {**TAGS, tag: value}.items() if text is not None}
    version = SimpleNamespace(name="shop", version="7", tags=tags, creation_timestamp=0, run_id="m")
    with pytest.raises(ValueError, match=r"registered model shop, version 7, tags dayline\.….*" + tag) as raised:
        versions.info_of(version, {})
    assert "\n" not in str(raised.value)
    version.tags = {f"dayline.{name}": text for name, text in TAGS.items()}
    assert versions.info_of(version, {}).metrics == json.loads(TAGS["metrics"])
