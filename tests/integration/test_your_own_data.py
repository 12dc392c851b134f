"""docs/your-own-data.md as a reader follows it: three CSV files, one YAML file, a released model."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

PAGE = Path(__file__).parents[2] / "docs" / "your-own-data.md"


def _blocks(section: str, language: str) -> list[str]:
    text = PAGE.read_text(encoding="utf-8").partition(f"## {section}\n")[2].partition("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_from_csv_files_to_a_released_model(
    prefect_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (program,) = _blocks("From CSV files", "python")
    (config,) = _blocks("From CSV files", "yaml")
    Path("program.py").write_text(program, encoding="utf-8")
    Path("mine.yaml").write_text(config, encoding="utf-8")
    runpy.run_path("program.py")
    commands = re.findall(r"^\$ dayline (.*)$", _blocks("From CSV files", "console")[0], re.MULTILINE)
    assert [command.partition(" ")[0] for command in commands] == ["config", "run", "release"]
    printed = []
    for command in commands:
        done = subprocess.run(
            [sys.executable, "-c", "from flows.cli import main; main()", *command.split()],
            env=os.environ | {"PREFECT_API_URL": prefect_server},
            capture_output=True,
            text=True,
            check=False,
            timeout=1_800,
        )
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout)
    checked, ran, listed = printed
    assert "mine.yaml: valid" in checked
    assert "2024-05-04" in ran
    assert "v1 live" in ran
    assert "2024-05-04" in listed
    # Ids kept their zeros, up to what is served.
    (id_map,) = Path("runs").glob("mine/2024-05-04/*/index/id_map.parquet")
    assert sorted(pq.read_table(id_map).column("item_id").to_pylist()) == [f"{n:03}" for n in range(80)]
