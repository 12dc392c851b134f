"""Artifacts: visible when whole, and never otherwise; keys that follow content."""

import datetime
import json

import pytest
from pydantic import TypeAdapter, ValidationError

import recsys_core
from recsys_core import artifacts
from recsys_core.artifacts import Artifact, Frozen, HeldOut, Holdout, Learned, Request, Rows, Tail

COMMON = {"config_hash": "c", "code_version": "v1"}


class Config(Frozen):
    size: int


class Inputs(Request):
    config: Config
    before: Artifact | None = None


def _make(directory, size=1, text="some rows"):
    request = Inputs(output=directory, config=Config(size=size), **COMMON)
    with artifacts.pending(directory) as aside:
        (aside.path / "parts").mkdir()
        (aside.path / "parts" / "a.txt").write_text(text)
        return aside.commit(HeldOut, request, num_rows=3, loss=0.5, sampled_recall={"1": 0.25})


def test_what_was_committed_is_read_back_wherever_it_moved(tmp_path):
    made = _make(tmp_path / "made")
    assert HeldOut.load(made.path) == made
    (tmp_path / "made").rename(tmp_path / "moved")
    moved = HeldOut.load(tmp_path / "moved")
    assert moved.path == tmp_path / "moved"
    assert moved.digest == made.digest
    assert [file.path for file in moved.files] == ["parts/a.txt"]


def test_an_error_while_filling_leaves_nothing(tmp_path):
    def fills_half():
        with artifacts.pending(tmp_path / "made") as aside:
            (aside.path / "half").write_text("x")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fills_half()
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_a_killed_writer_are_removed_or_kept_as_asked(tmp_path):
    for keep in (True, False):
        left = tmp_path / ".made.partial" / "old"
        left.parent.mkdir(exist_ok=True)
        left.write_text("x")
        with artifacts.pending(tmp_path / "made", keep_partial=keep) as aside:
            assert (aside.path / "old").exists() is keep


def test_a_stage_that_can_resume_keeps_its_files_on_an_error(tmp_path):
    def is_interrupted():
        with artifacts.pending(tmp_path / "made", keep_partial=True) as aside:
            (aside.path / "half").write_text("x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        is_interrupted()
    assert (tmp_path / ".made.partial" / "half").exists()


def test_committing_again_replaces(tmp_path):
    first, second = _make(tmp_path / "made"), _make(tmp_path / "made", text="other rows")
    assert first.digest != second.digest
    assert HeldOut.load(tmp_path / "made").digest == second.digest
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_a_manifest_that_was_cut_off_is_no_file_of_the_artifact(tmp_path):
    with artifacts.pending(tmp_path / "made", keep_partial=True) as aside:
        (aside.path / ".manifest.json.4711").write_text('{"key"')
        request = Inputs(output=tmp_path / "made", config=Config(size=1), **COMMON)
        assert aside.commit(HeldOut, request, num_rows=3, loss=0.5, sampled_recall={}).files == ()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: (path / "manifest.json").unlink(), "no manifest.json, so no finished HeldOut"),
        (lambda path: (path / "manifest.json").write_text("{"), "not JSON"),
        (lambda path: (path / "parts" / "a.txt").unlink(), "is missing where the manifest says 9 bytes"),
        (lambda path: (path / "parts" / "a.txt").write_text("?"), "has 1 bytes where the manifest says 9 bytes"),
    ],
)
def test_damage_is_named(tmp_path, damage, message):
    made = _make(tmp_path / "made")
    damage(made.path)
    with pytest.raises(ValueError, match=message):
        HeldOut.load(made.path)


def test_a_key_follows_inputs_and_code_and_not_where_things_lie(tmp_path):
    before, moved = _make(tmp_path / "a"), _make(tmp_path / "b")
    request = Inputs(output=tmp_path / "x", config=Config(size=1), before=before, **COMMON)
    assert request.key == request.model_copy(update={"output": tmp_path / "y", "config_hash": "d"}).key
    assert request.key == request.model_copy(update={"before": moved}).key
    others = [
        {"config": Config(size=2)},
        {"before": None},
        {"before": _make(tmp_path / "c", text="else")},
        {"code_version": "v2"},
    ]
    assert len({request.key, *(request.model_copy(update=other).key for other in others)}) == 5


def test_manifests_are_plain_json_without_paths(tmp_path):
    fields = json.loads((_make(tmp_path / "made").path / "manifest.json").read_text())
    assert "path" not in fields
    assert str(tmp_path) not in json.dumps(fields)


def test_the_code_version_covers_every_room_of_the_core(tmp_path, monkeypatch):
    assert artifacts.code_version() == artifacts.code_version()
    assert len(artifacts.code_version()) == 12
    package = tmp_path / "recsys_core"
    (package / "training").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "training" / "loop.py").write_text("old")
    before = artifacts.code_version()
    monkeypatch.setattr(recsys_core, "__file__", str(package / "__init__.py"))
    old = artifacts.code_version()
    (package / "training" / "loop.py").write_text("new")
    assert len({before, old, artifacts.code_version()}) == 3


def test_what_was_learned_reads_back_and_must_be_whole():
    day = datetime.date(2024, 1, 2)
    whole = Learned(first_day=day, last_day=day + datetime.timedelta(days=2))
    part = Learned(first_day=day, last_day=day, withheld=Rows(share=0.1, by="user_id"), withheld_since=day)
    for learned in (whole, part):
        assert Learned.model_validate_json(learned.model_dump_json()) == learned
    for wrong in (
        {"last_day": day - datetime.timedelta(days=1)},
        {"last_day": day, "withheld": Tail(hours=2)},
        {"last_day": day, "withheld_since": day},
        {"last_day": day, "withheld": Tail(hours=2), "withheld_since": day + datetime.timedelta(days=1)},
    ):
        with pytest.raises(ValidationError):
            Learned(first_day=day, **wrong)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"kind": "tail", "hours": 24}, "less than 24"),
        ({"kind": "tail", "hours": 0}, "greater than 0"),
        ({"kind": "rows", "share": 1.0, "by": "user_id"}, "less than 1"),
        ({"kind": "rows", "share": 0.1}, "by"),
        ({"kind": "next_day", "hours": 3}, "hours"),
        ({"kind": "yesterday"}, "yesterday"),
    ],
)
def test_a_holdout_that_measures_nothing_or_everything_is_refused(section, message):
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(Holdout).validate_python(section)
