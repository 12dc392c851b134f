import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

MEASURING = Path(__file__).parents[2] / ".ci" / "measuring"
# Modules of Python's own that no interpreter imports by itself; the second one fails where it is imported.
OURS = """
def twice(number):
    import colorsys
    if number > 1:
        return [colorsys.rgb_to_hsv(one, one, one)[2] for one in range(number)]
    return colorsys.rgb_to_hsv(0, 0, 0)[2]
try:
    import msilib
except ImportError:
    print(twice(1), twice(2))
"""


@pytest.fixture
def measure(tmp_path: Path):
    """Run a program that imports `ours` by way of another module; return what was measured of each file."""
    (tmp_path / "ours.py").write_text(OURS)
    (tmp_path / "supporting.py").write_text("import ours\n")
    (tmp_path / "program.py").write_text("import supporting\n")
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("COV", "PYTHONPATH"))}

    def run(*path: Path) -> dict[str, Any]:
        environment = plain | {"PYTHONPATH": os.pathsep.join(map(str, path))}
        coverage = [sys.executable, "-W", "ignore", "-m", "coverage"]
        chosen = ["--rcfile=", "--branch", "--pylib", "--include=ours.py,*/colorsys.py"]
        command = [*coverage, "run", *chosen, "program.py"]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout == "0 [0, 1]\n"
        report = [*coverage, "json", "--rcfile=", "-q", "-o", "-"]
        text = subprocess.run(report, cwd=tmp_path, env=plain, capture_output=True, text=True, check=True).stdout
        return {Path(file).name: found for file, found in json.loads(text)["files"].items()}

    return run


def test_what_is_ours_is_measured_all_the_same_before_and_after_an_import(measure) -> None:
    usual, quick = measure(), measure(MEASURING)
    assert quick["ours.py"] == usual["ours.py"]
    assert usual["ours.py"]["executed_branches"]
    lines = [set(found["colorsys.py"]["executed_lines"]) for found in (usual, quick)]
    # The body of the function that is called, and no line that an import executes.
    assert set() < lines[1] < lines[0]
    body = quick["colorsys.py"]["functions"]["rgb_to_hsv"]["executed_lines"]
    assert lines[1] == {*body}
