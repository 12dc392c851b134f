"""The `dayline` command as a person or a program calls it: results on stdout, all else on stderr."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def dayline() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command with a Prefect server of its own."""

    def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", "from flows.cli import main; main()", *map(str, arguments)],
            cwd=ROOT,
            env=os.environ | {"PREFECT_API_URL": ""} | environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=1_800,
        )

    return run


@pytest.fixture(scope="module")
def config(write_config: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_config(tmp_path_factory.mktemp("cli"))


def test_a_day_twice_then_its_release(dayline: Callable, config: Path, prefect_server: str) -> None:
    chosen = ("--set", "train.num_epochs=1", "--set", "export.format=pt2")
    first = dayline("run", config, *chosen, "--json")
    assert first.returncode == 0, first.stderr
    result = json.loads(first.stdout)
    assert result["day"] == "2024-01-05"
    for stage in result["stages"]:
        assert f"{stage}: started" in first.stderr
    assert "Traceback" not in first.stderr
    assert "INFO" not in first.stderr

    second = dayline("run", config, "--day", "2024-01-05", *chosen, PREFECT_API_URL=prefect_server)
    assert "train: 10,507 rows, done before" in second.stderr
    assert second.stderr.count("done before") == len(result["stages"])
    assert "started" not in second.stderr
    assert "v1 live" in second.stdout
    assert "hit rate@20" in second.stdout

    listed = dayline("release", "list", config, "--json")
    (release,) = json.loads(listed.stdout)
    assert (release["day"], release["live"], release["run_id"]) == ("2024-01-05", True, result["run_id"])
    # A program of torch.export is served as a script is, and bit by bit as it was measured.
    run = config.parent / "runs" / "tiny" / "2024-01-05" / result["run_id"]
    assert [file.name for file in sorted((run / "export" / "query").iterdir())] == ["model.pt2", "signature.json"]
    served = dayline("check-serving", "--run", run)
    assert served.returncode == 0, served.stdout + served.stderr
    assert served.stdout.count("4 of 4 rows the same") == 2
    back = dayline("release", "rollback", config)
    assert (back.returncode, back.stdout) == (1, "")
    assert (
        "error: tiny: version 1 of 2024-01-05 is live and there is no release before it to roll back to" in back.stderr
    )


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (["--set", "train.batch_sizes=1"], 2, "train.batch_sizes: unknown key; did you mean batch_size?"),
        (["--day", "2025-01-01"], 1, "no interactions for 2025-01-01"),
        (["--set", "tracking.uri=http://127.0.0.1:9"], 1, "tracking.uri http://127.0.0.1:9: MLflow does not answer"),
        (["--day", "soon"], 2, "Invalid value for '--day'"),
        (["--set", "run_root=/proc/runs"], 1, "error: run_root /proc/runs: cannot be made"),
    ],
)
def test_an_error_is_one_line_and_nothing_is_left(
    dayline: Callable, config: Path, prefect_server: str, arguments: list[str], code: int, expected: str
) -> None:
    done = dayline("run", config, *arguments, PREFECT_API_URL=prefect_server)
    assert (done.returncode, done.stdout) == (code, "")
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
    if code == 1:
        assert len([line for line in done.stderr.splitlines() if line.startswith("error: ")]) == 1


def test_an_api_that_does_not_answer_is_named(dayline: Callable, config: Path) -> None:
    done = dayline("run", config, PREFECT_API_URL="http://127.0.0.1:9/api")
    assert done.returncode == 1
    assert "error: PREFECT_API_URL http://127.0.0.1:9/api: no Prefect server answers there" in done.stderr
    assert len(done.stderr.splitlines()) == 1
