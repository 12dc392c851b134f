import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

MEASURING = Path(__file__).parents[2] / ".ci" / "measuring"
OTHER = """
def double(number):
    return number * 2
"""
OURS = """
def twice(number):
    import other
    if number > 1:
        return [other.double(one) for one in range(number)]
    return other.double(number)
print(twice(1), twice(3))
import lost
"""


@pytest.fixture
def measure(tmp_path: Path):
    """Run `tasks`, which imports `other` and fails; return what was measured of each file."""
    (tmp_path / "other.py").write_text(OTHER)
    (tmp_path / "lost.py").write_text("import other\nraise ImportError('lost')\n")
    (tmp_path / "tasks.py").write_text(OURS)
    (tmp_path / "program.py").write_text("import tasks\n")
    plain = {name: value for name, value in os.environ.items() if not name.startswith("COV")}

    def run(*path: Path) -> dict[str, Any]:
        environment = plain | {"PYTHONPATH": os.pathsep.join(map(str, path))}
        coverage = [sys.executable, "-m", "coverage"]
        command = [*coverage, "run", "--rcfile=", "--branch", "--source=.", "program.py"]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.stdout == "2 [0, 2, 4]\n"
        assert done.stderr.endswith("ImportError: lost\n"), done.stderr
        report = [*coverage, "json", "--rcfile=", "-q", "-o", "-"]
        text = subprocess.run(report, cwd=tmp_path, env=plain, capture_output=True, text=True, check=True).stdout
        return json.loads(text)["files"]

    return run


def test_what_is_ours_is_measured_all_the_same_before_and_after_an_import(measure) -> None:
    usual, quick = measure(), measure(MEASURING)
    assert quick["tasks.py"] == usual["tasks.py"]
    assert usual["tasks.py"]["executed_branches"] == [[4, 5], [4, 6]]
    # The body of its function, which is called and not imported, and no line more.
    lines = [found["other.py"]["executed_lines"] for found in (usual, quick)]
    assert lines == [[2, 3], [3]]
    assert quick["lost.py"]["executed_lines"] == []
