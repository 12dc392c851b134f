"""What a command does not need it does not import: libraries that take seconds would be all that it does."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
DEMO = str(ROOT / "configs" / "demo.yaml")
SLOW = {"faiss", "matplotlib", "mlflow", "pandas", "prefect", "scipy", "sqlalchemy", "torch", "torchrec"}
COMMAND = """
import sys
from flows import cli
sys.argv[0] = "dayline"
try:
    cli.command()
finally:
    sys.stderr.write("\\n" + " ".join(sorted({name.partition(".")[0] for name in sys.modules})))
"""


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--help"], "Usage: dayline"),
        (["config", "check", DEMO], "demo.yaml: valid"),
        (["config", "show", DEMO], "name: shop"),
        (["release", "list", DEMO, "--json"], "[]"),
    ],
)
def test_a_quick_command_imports_no_slow_library(tmp_path: Path, arguments: list[str], expected: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", COMMAND, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert expected in ended.stdout
    imported = set(ended.stderr.splitlines()[-1].split())
    assert "flows" in imported
    assert not SLOW & imported


def test_the_process_of_a_flow_needs_no_library_of_its_stages() -> None:
    code = "import sys, flows.daily, flows.daily_ranking, flows.ranking; print(*sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    imported = {name.partition(".")[0] for name in ended.stdout.split()}
    assert "prefect" in imported
    assert not {"faiss", "matplotlib", "torch", "torchrec"} & imported
