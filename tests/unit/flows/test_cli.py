"""What the command says of errors, and the demo's shop."""

import errno
import os
import shutil
import signal
import sys
from datetime import date
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException
from typer.testing import CliRunner

from flows import cli, demo
from recsys_core.progress import silent

CONFIGS = Path(__file__).parents[3] / "configs"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("day 3: no such day"), "day 3: no such day"),
        (RuntimeError(), "RuntimeError"),
        (OSError("gone"), "gone"),
        (OSError(errno.EACCES, os.strerror(errno.EACCES), "runs"), "runs: Permission denied"),
        (
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs"),
            "runs: No space left on device; free some space and run it again: finished stages are kept",
        ),
        (OSError(errno.EDQUOT, "full"), "full; free some space and run it again: finished stages are kept"),
        (MlflowException("503\nlong"), "MLflow: 503; run it again when it answers: finished stages are kept"),
    ],
)
def test_an_error_says_what_and_where(error: Exception, message: str) -> None:
    assert cli._message(error) == message


def test_main_turns_an_error_into_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(sys, "argv", ["dayline", "data", "generate", "--out", "/proc/shop", "--days", "3"])
    try:
        with pytest.raises(SystemExit) as ended:
            cli.main()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended.value.code == 1
    assert [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]


def test_a_fault_of_our_own_is_not_made_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(**_: object) -> None:
        raise AssertionError("ours")

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(cli, "app", fault)
    try:
        with pytest.raises(AssertionError, match="ours"):
            cli.main()
    finally:
        signal.signal(signal.SIGTERM, before)


def test_sigterm_unwinds() -> None:
    with pytest.raises(SystemExit) as ended:
        cli._terminate(signal.SIGTERM, None)
    assert ended.value.code == 143


def test_a_backfill_that_ends_before_it_begins_is_refused() -> None:
    days = ["--from", "2024-01-02", "--to", "2024-01-01"]
    done = CliRunner().invoke(cli.app, ["backfill", str(CONFIGS / "demo.yaml"), *days])
    assert done.exit_code == 2
    assert "--to 2024-01-01 is before --from 2024-01-02" in done.output


def test_the_demo_makes_its_shop_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="run `dayline demo` in a checkout of the project"):
        demo.generate(silent)
    shutil.copytree(CONFIGS, tmp_path / "configs")
    demo.generate(silent)
    made = {path: path.stat().st_mtime_ns for path in demo.LOG.rglob("*.parquet")}
    demo.generate(silent)
    assert {path: path.stat().st_mtime_ns for path in demo.LOG.rglob("*.parquet")} == made
    assert demo.days() == (date(2024, 1, 6), date(2024, 1, 8))


def test_the_demo_names_commands_that_this_shell_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    told = demo.farewell()
    command = next(line.split()[0] for line in told.splitlines() if "mlflow server" in line)
    assert Path(command).name == "mlflow"
    assert Path(command).parent.samefile(Path(sys.executable).parent)
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    assert "\n    mlflow server" in demo.farewell()
