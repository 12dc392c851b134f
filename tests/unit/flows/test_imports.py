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


def test_what_the_flow_asks_of_its_stages_is_free_of_torch() -> None:
    code = "import sys, recsys_core.retrieval.requests, recsys_core.ranking.requests; print('torch' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "False"


def test_flows_import_what_draws_only_where_something_is_drawn() -> None:
    code = "import sys, flows.daily, flows.daily_ranking, flows.ranking; print('matplotlib' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "False"
