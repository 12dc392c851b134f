"""Criteo's logs from text to encoded Parquet, beside a reference that goes through the lines one by one."""

import collections
import datetime
import gzip
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from recsys_core import ingest
from recsys_core.datasets.labelled import _criteo_ids as ids
from recsys_core.datasets.labelled import _criteo_made as made
from recsys_core.datasets.labelled import _criteo_text as text
from recsys_core.datasets.labelled import criteo
from recsys_core.progress import silent

PARTS = ("train", "valid", "test")


def _rows(folder):
    return pq.read_table(folder).to_pylist()


def _files(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def _line(label: object = 0, integer="1", category="0000000a"):
    return "\t".join([str(label), *[integer] * 13, *[category] * 26])


def _reference(lines, splits, min_count):
    """Return each split's rows, in plain Python: numbers by falling counts over train, 0 missing, 1 not known."""
    fields = [line.split("\t") for line in lines]
    known = []
    for column in range(14, 40):
        counts = collections.Counter(row[column] for row in fields[: splits[0]] if row[column])
        often = sorted((-count, int(value, 16)) for value, count in counts.items() if count >= min_count)
        known.append({f"{value:08x}": 2 + place for place, (_, value) in enumerate(often)})
    rows = []
    for row in fields:
        encoded: dict[str, float] = {"label": int(row[0])}
        for number in range(1, 14):
            value = max(int(row[number] or 0), 0)
            encoded[f"int_{number}"] = np.float32(math.log1p(value)).item()
        for number in range(1, 27):
            value = row[13 + number]
            encoded[f"cat_{number}"] = known[number - 1].get(value, 1) if value else 0
        rows.append(encoded)
    ends = [0, splits[0], splits[0] + splits[1], len(rows)]
    return {part: rows[ends[n] : ends[n + 1]] for n, part in enumerate(PARTS)}, known


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(text, "CHUNK_BYTES", 20_000)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("zipped", [False, True])
def test_rows_are_those_of_a_reference_in_plain_python(recsys_data, tmp_path, zipped):
    content = (recsys_data("criteo-sample") / "train.csv").read_text()
    lines = content.splitlines()
    (tmp_path / "raw").mkdir()
    if zipped:
        (tmp_path / "raw" / "train.txt.gz").write_bytes(gzip.compress(content.encode()))
    else:
        (tmp_path / "raw" / "train.txt").write_text(content.removesuffix("\n"))
    config = criteo.Config(source=str(tmp_path / "raw"), min_count=3)
    counts = criteo.write(config, tmp_path / "out", silent)
    held_out = round(len(lines) / 7)
    assert counts == {"train": len(lines) - held_out, "valid": held_out - held_out // 2, "test": held_out // 2}
    wanted, known = _reference(lines, [*counts.values()], 3)
    for part in PARTS:
        found = _rows(tmp_path / "out" / part)
        assert len(found) == counts[part]
        for row, own in zip(found, wanted[part], strict=True):
            assert row == pytest.approx(own, rel=3e-7)
            assert {name: row[name] for name in text.CATEGORIES} == {name: own[name] for name in text.CATEGORIES}
    sizes = json.loads((tmp_path / "out" / criteo.SIZES).read_text())
    assert sizes["num_rows"] == counts
    assert [*sizes["num_embeddings"].values()] == [2 + len(values) for values in known]
    vocabulary = _rows(tmp_path / "out" / criteo.VOCABULARY / "cat_4.parquet")
    assert {row["value"]: row["id"] for row in vocabulary} == known[3]
    assert len(list((tmp_path / "out" / "train").iterdir())) > 1
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_integers_stay_as_they_are_if_asked(tmp_path):
    (tmp_path / "train.txt").write_text("\n".join([_line(1, "-2"), *[_line(0, "")] * 20]))
    criteo.write(criteo.Config(source=str(tmp_path), integers="raw"), tmp_path / "out", silent)
    first, second = _rows(tmp_path / "out" / "train")[:2]
    assert (first["int_3"], second["int_3"], first["label"]) == (-2, None, 1)


def _raw(tmp_path, **keys):
    made.write(made.Config.model_validate({"num_rows": 3000} | keys), tmp_path / "raw", silent)
    return str(tmp_path / "raw")


@pytest.mark.usefixtures("small_chunks")
def test_days_of_the_terabyte_are_files_and_the_last_is_held_out(tmp_path):
    source = _raw(tmp_path, num_days=3, gzip=True)
    assert sorted(path.name for path in Path(source).glob("day*")) == ["day_0.gz", "day_1.gz", "day_2.gz"]
    config = criteo.Config(source=source, day=datetime.date(2024, 1, 3))
    assert criteo.write(config, tmp_path / "splits", silent) == {"train": 2000, "valid": 500, "test": 500}
    counts = criteo.write_days(config, tmp_path / "days", silent)
    assert counts == {"ds=2024-01-01": 1000, "ds=2024-01-02": 1000, "ds=2024-01-03": 1000}
    labels = [row["label"] for day in counts for row in _rows(tmp_path / "days" / day)]
    lines = b"".join(gzip.decompress((Path(source) / f"day_{day}.gz").read_bytes()) for day in range(3)).splitlines()
    assert labels == [int(line[:1]) for line in lines]


@pytest.mark.usefixtures("small_chunks")
def test_train_txt_has_seven_days_of_equal_sizes(tmp_path):
    counts = criteo.write_days(criteo.Config(source=_raw(tmp_path)), tmp_path / "days", silent)
    assert [*counts] == [f"ds=2014-06-{day}" for day in range(24, 31)]
    assert sum(counts.values()) == 3000
    assert set(counts.values()) <= {428, 429}


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize(("split", "shares"), [("bars_x1", (0.7, 0.2, 0.1)), ("bars_x4", (0.8, 0.1, 0.1))])
def test_splits_at_random_have_each_row_once_whatever_the_chunks(tmp_path, monkeypatch, split, shares):
    config = criteo.Config(source=_raw(tmp_path), split=split, integers="raw")
    counts = criteo.write(config, tmp_path / "out", silent)
    assert sum(counts.values()) == 3000
    assert [counts[part] / 3000 for part in PARTS] == pytest.approx(shares, abs=0.04)
    monkeypatch.setattr(text, "CHUNK_BYTES", 1 << 20)
    criteo.write(config, tmp_path / "whole", silent)
    for part in PARTS:
        assert _rows(tmp_path / "whole" / part) == _rows(tmp_path / "out" / part)
    other = config.model_copy(update={"seed": 1})
    assert criteo.write(other, tmp_path / "other", silent) != counts


def test_the_seed_s_split_has_no_validation(tmp_path):
    config = criteo.Config(source=_raw(tmp_path), split="mindspore")
    assert criteo.write(config, tmp_path / "out", silent) == {"train": 2571, "test": 429}


def test_known_values_keep_their_numbers_and_new_ones_follow(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for folder, values in ((first, ["0000000b"] * 10), (second, ["0000000c"] * 9 + ["0000000b"])):
        folder.mkdir()
        (folder / "train.txt").write_text("\n".join(_line(category=value) for value in values * 2))
    criteo.write(criteo.Config(source=str(first)), tmp_path / "one", silent)
    vocabulary = tmp_path / "one" / criteo.VOCABULARY
    criteo.write(criteo.Config(source=str(second), vocabulary=vocabulary), tmp_path / "two", silent)
    found = _rows(tmp_path / "two" / criteo.VOCABULARY / "cat_1.parquet")
    assert [(row["value"], row["id"]) for row in found] == [("0000000b", 2), ("0000000c", 3)]
    assert _rows(tmp_path / "two" / "train")[0]["cat_26"] == 3
    (vocabulary / "cat_7.parquet").write_text("x")
    with pytest.raises(ValueError, match=r"cat_7\.parquet: no vocabulary of Criteo's categories"):
        criteo.write(criteo.Config(source=str(second), vocabulary=vocabulary), tmp_path / "three", silent)


def test_hashed_ids_are_of_the_table_and_differ_by_column(tmp_path):
    config = criteo.Config(source=_raw(tmp_path), ids="hash", num_embeddings=50)
    criteo.write(config, tmp_path / "out", silent)
    rows = _rows(tmp_path / "out" / "train")
    assert not (tmp_path / "out" / criteo.VOCABULARY).exists()
    assert {row["cat_3"] for row in rows} == {0, *range(2, 50)}
    # A worked example: murmur3's finalizer of 1 is 12994781566227106604.
    assert ids.Hashing(0, 1002).ids(np.array([1], np.uint32)).tolist() == [2 + 12994781566227106604 % 1000]
    values = np.arange(100, dtype=np.uint32)
    assert (ids.Hashing(1, 1002).ids(values) != ids.Hashing(2, 1002).ids(values)).mean() > 0.9


def test_counts_that_grow_are_those_of_all_parts(monkeypatch):
    monkeypatch.setattr(ids.Growing, "_FEWEST", 50)
    rng = np.random.default_rng(0)
    growing, whole = ids.Growing(), collections.Counter()
    for _ in range(20):
        values = rng.integers(0, 200, 40).astype(np.uint32)
        whole.update(values.tolist())
        growing.add(ids.Counts(*np.unique(values, return_counts=True)))
    found = growing.total()
    assert dict(zip(found.values.tolist(), found.counts.tolist(), strict=True)) == whole
    assert found.values.tolist() == sorted(whole)
    assert len(ids.Growing().total().values) == 0
    assert ids.Vocabulary.of(ids.Growing().total(), 1).ids(np.array([5], np.uint32)).tolist() == [1]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0\t1", "line 9: 2 fields between tabs, where label, integers and categories are 40"),
        ("", "line 9: 1 fields between tabs"),
        (_line().split("\t", 1)[1], "line 9: 39 fields .*; the published test.txt has no labels"),
        (_line(label=2), "line 9: label '2', which is neither 0 nor 1"),
        (_line(label=""), "line 9: label '', which is neither 0 nor 1"),
        (_line(label="x"), "line 9: label 'x'"),
        (_line(integer="1.5"), "line 9: int_1 '1.5', which is no integer"),
        (_line(category="0000000g"), "line 9: cat_1 '0000000g', which is not eight hexadecimal digits"),
        (_line(category="abc"), "line 9: cat_1 'abc'"),
        (_line().replace("\t", "\r", 1), "line 9: 39 fields"),
    ],
)
def test_a_wrong_line_is_named_with_its_file_and_nothing_stays(tmp_path, line, message):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "train.txt").write_text("\n".join([*[_line()] * 8, line, _line(), ""]), newline="")
    with pytest.raises(ValueError, match=rf"raw: train\.txt, {message}"):
        criteo.write(criteo.Config(source=str(tmp_path / "raw")), tmp_path / "out", silent)
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_a_line_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(text, "_MAX_LINE_BYTES", 1000)
    monkeypatch.setattr(text, "CHUNK_BYTES", 800)
    (tmp_path / "train.txt").write_text(_line() + "\n" + "x" * 5000)
    with pytest.raises(ValueError, match=r"train\.txt, line 2: longer than 1,000 bytes; is it Criteo's text\?"):
        criteo.write(criteo.Config(source=str(tmp_path)), tmp_path / "out", silent)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["other.txt"], r"holds neither train\.txt"),
        (["train.txt", "day_0"], r"holds train\.txt and day_0"),
        (["day_0", "day_2"], "has day_0, day_2; a day between them is missing"),
        (["train.txt"], "1 rows, too few to part"),
    ],
)
def test_a_source_that_is_not_one_log_is_refused(tmp_path, names, message):
    for name in names:
        (tmp_path / name).write_text(_line())
    with pytest.raises(ValueError, match=message):
        criteo.write(criteo.Config(source=str(tmp_path)), tmp_path / "out", silent)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"ids": "hash"}, "num_embeddings: ids by a hash need the rows"),
        ({"ids": "hash", "num_embeddings": 9, "min_count": 2}, "min_count: is not read with ids: hash"),
        ({"num_embeddings": 9}, "num_embeddings: is not read with ids: vocabulary"),
        ({"seed": 1}, "seed: is not read with ids: vocabulary and split: dlrm"),
    ],
)
def test_a_key_that_would_not_be_read_is_refused(keys, message):
    with pytest.raises(ValidationError, match=message):
        criteo.Config.model_validate({"source": "raw"} | keys)


_KILLED = """
import os, signal, sys
from pathlib import Path
from recsys_core import ingest
from recsys_core.datasets.labelled import _criteo_text as text, criteo

text.CHUNK_BYTES = 20_000
source, out, events = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])

def sink(event):
    global events
    events -= 1
    if events == 0:
        os.kill(os.getpid(), signal.SIGKILL)

ingest.write_whole(out, lambda root: criteo.write(criteo.Config(source=source), root, sink))
"""


@pytest.mark.usefixtures("small_chunks")
def test_a_killed_import_goes_on_and_its_bytes_are_the_same(tmp_path):
    source, config = _raw(tmp_path), criteo.Config(source=str(tmp_path / "raw"))
    ingest.write_whole(tmp_path / "whole", lambda root: criteo.write(config, root, silent))
    # Killed while it reads, counts and writes, one after the other.
    for events in (5, 45, 64):
        killed = subprocess.run([sys.executable, "-c", _KILLED, source, tmp_path / "out", str(events)], check=False)
        assert killed.returncode == -signal.SIGKILL
        assert not (tmp_path / "out").exists()
    (work,) = tmp_path.glob(".out*.work")
    packed = {path: path.stat().st_mtime_ns for path in (work / "rows").iterdir()}
    assert len(packed) > 10
    first = min(packed)
    messages = []
    ingest.write_whole(
        tmp_path / "out", lambda root: criteo.write(config, root, lambda event: messages.append(event.message))
    )
    assert messages[0] == f"going on with what {work} holds"
    assert not first.exists()
    assert _files(tmp_path / "out") == _files(tmp_path / "whole")
    assert not work.exists()


@pytest.mark.usefixtures("small_chunks")
def test_what_another_source_has_left_is_not_gone_on_with(tmp_path):
    source, config = _raw(tmp_path), criteo.Config(source=str(tmp_path / "raw"))
    subprocess.run([sys.executable, "-c", _KILLED, source, tmp_path / "out", "30"], check=False)
    made.write(made.Config(num_rows=2000, seed=1), tmp_path / "raw", silent)
    os.utime(tmp_path / "raw" / "train.txt", (1, 1))
    ingest.write_whole(tmp_path / "out", lambda root: criteo.write(config, root, silent))
    ingest.write_whole(tmp_path / "whole", lambda root: criteo.write(config, root, silent))
    assert _files(tmp_path / "out") == _files(tmp_path / "whole")


def test_made_rows_have_the_published_shape_and_their_probabilities_are_attainable(tmp_path, monkeypatch):
    monkeypatch.setattr(made, "_PART_ROWS", 5000)
    found = made.write(made.Config(num_rows=20_000), tmp_path / "raw", silent)
    lines = [line.split("\t") for line in (tmp_path / "raw" / "train.txt").read_text().splitlines()]
    assert len(lines) == found.num_rows == 20_000
    assert sum(line[0] == "1" for line in lines) == found.num_clicks
    assert 0.15 < found.num_clicks / found.num_rows < 0.35
    assert 0.7 < found.auc < 0.9
    missing = [np.mean([line[column] == "" for line in lines]) for column in range(1, 40)]
    assert missing == pytest.approx([*made._MISSING_INTEGERS, *made._MISSING_CATEGORIES], abs=0.02)
    assert len({line[14 + 4] for line in lines}) == made.NUM_VALUES[4]
    assert json.loads((tmp_path / "raw" / "_attainable.json").read_text())["auc"] == found.auc
    # The shorter log is the longer one's beginning.
    shorter = made.write(made.Config(num_rows=10_000), tmp_path / "less", silent)
    assert (tmp_path / "less" / "train.txt").read_bytes() == (tmp_path / "raw" / "train.txt").read_bytes()[
        : (tmp_path / "less" / "train.txt").stat().st_size
    ]
    assert shorter.num_clicks < found.num_clicks


def test_auc_of_bins_worked_by_hand():
    # Scores: negatives in bins 0, 1, 1; positives in bins 1, 2. Pairs won: 1 + 2 * .5 of the first, 3 of the second.
    assert made._auc(np.array([[1, 2, 0], [0, 1, 1]])) == pytest.approx(5 / 6)


def test_without_a_signal_nothing_can_be_attained(tmp_path):
    found = made.write(made.Config(num_rows=2000, signal=0.0), tmp_path / "raw", silent)
    assert found.auc == pytest.approx(0.5)
