"""The entry that torchrun starts: dispatch, errors and the watch on its starter."""

import json
import os
import subprocess
import sys

import pytest

from recsys_core import __main__ as entry
from recsys_core.retrieval import export


def test_bad_input_is_one_line_an_event_and_exit_code_2(tmp_path, monkeypatch, capsys):
    request = tmp_path / "request.json"
    request.write_text("{}")
    events = tmp_path / "events.jsonl"
    assert entry.main(["export", "--request", str(request), "--events", str(events)]) == 2
    assert "error: " in capsys.readouterr().err
    event = json.loads(events.read_text())
    assert event["stage"] == "export"
    assert "Request" in event["error"]


def test_a_stage_is_dispatched_with_its_request(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(export.Request, "model_validate_json", lambda text: text)
    monkeypatch.setattr(export, "run", lambda request, sink: seen.append(request))
    request = tmp_path / "request.json"
    request.write_text("asked")
    assert entry.main(["export", "--request", str(request)]) == 0
    assert seen == ["asked"]


def test_an_unknown_stage_is_a_usage_error():
    with pytest.raises(SystemExit, match="2"):
        entry.main(["guess", "--request", "x"])


def test_the_process_ends_when_its_starter_does():
    code = "import sys, time; from recsys_core.launch import exit_with_starter; exit_with_starter()"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, env=os.environ | {"PYTHONPATH": "."}
    )
    assert process.poll() is None
    process.stdin.close()
    assert process.wait(timeout=600) == 143
