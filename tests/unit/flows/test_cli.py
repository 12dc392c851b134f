"""What the command says of errors, and the demo's shop."""

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException
from typer.testing import CliRunner

from flows import cli, config_commands, demo, server
from recsys_core import config as configs
from recsys_core import fault
from recsys_core.progress import silent

AGAIN = "free some space and run it again: finished stages are kept"
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
            f"runs: No space left on device; {AGAIN}",
        ),
        (OSError(errno.EDQUOT, "full"), f"full; {AGAIN}"),
        (
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "model.pt", None, "runs/mlartifacts/model.pt"),
            f"runs/mlartifacts/model.pt: No space left on device; {AGAIN}",
        ),
        (
            RuntimeError("(sqlite3.OperationalError) database or disk is full"),
            f"(sqlite3.OperationalError) database or disk is full; {AGAIN}",
        ),
        (MlflowException("503\nlong"), "MLflow: 503; run it again when it answers: finished stages are kept"),
    ],
)
def test_an_error_says_what_and_where(error: Exception, message: str) -> None:
    assert cli._message(error) == message


@pytest.fixture
def handlers() -> Iterator[None]:
    """What a command changes of the handlers of signals is undone."""
    before = {number: signal.getsignal(number) for number in cli._STOPPING}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers")
def test_main_turns_an_error_into_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["dayline", "data", "generate", "--out", "/proc/shop", "--days", "3"])
    with pytest.raises(SystemExit) as ended:
        cli.command()
    assert ended.value.code == 1
    assert [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]


def test_a_full_disk_is_named_where_a_library_copies_a_folder(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_bytes(b"x" * 100_000)
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "weights").symlink_to("/dev/full")
    with pytest.raises(shutil.Error) as error:
        shutil.copytree(tmp_path / "model", tmp_path / "store", dirs_exist_ok=True)
    assert cli._message(error.value) == (
        f"{tmp_path / 'store' / 'weights'}: No space left on device; free some space and run it again: finished stages "
        "are kept"
    )


def ended(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> object:
    """Return the exit code of a command that raises `error`."""

    def fails(**_: object) -> None:
        raise error

    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)}
    monkeypatch.setattr(cli, "app", fails)
    try:
        with pytest.raises(SystemExit) as ended:
            cli.command()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return ended.value.code


def test_a_fault_of_our_own_is_one_line_and_a_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(fault.tempfile, "gettempdir", lambda: str(tmp_path))
    assert ended(monkeypatch, KeyError("https://me:secret@host/x")) == 70
    (line,) = capsys.readouterr().err.splitlines()
    (written,) = tmp_path.iterdir()
    assert line.startswith(f"error: a fault of Dayline, written to {written}: KeyError: ")
    assert written.stat().st_mode & 0o777 == 0o600
    text = written.read_text()
    assert "Traceback (most recent call last):" in text
    assert "torch 2" in text
    assert "secret" not in line + text


def test_a_fault_in_a_stage_ends_the_command_likewise(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(monkeypatch, fault.Fault("train: a fault of Dayline, written to x: KeyError: 'a'")) == 70
    assert capsys.readouterr().err == "error: train: a fault of Dayline, written to x: KeyError: 'a'\n"


def test_it_says_its_versions() -> None:
    done = CliRunner().invoke(cli.app, ["--version"])
    assert done.exit_code == 0
    assert done.stdout.startswith("dayline ")
    assert ", torch " in done.stdout
    assert len(done.stdout.splitlines()) == 1


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["release", "list"], 0),
        (["release", "rollback"], 2),
        (["backfill", "--from", "2024-01-01", "--to", "2024-01-02"], 2),
    ],
)
def test_of_a_ranking_config_on_splits_it_says_that_there_are_no_releases(command: list[str], code: int) -> None:
    done = CliRunner().invoke(cli.app, [*command, str(CONFIGS / "dlrm_frappe.yaml")])
    assert (done.exit_code, done.stdout) == (code, "")
    (line,) = done.stderr.splitlines()
    assert "a ranking config on splits; releases, and days that continue them, are of rows by day" in line


@pytest.mark.parametrize(
    ("config", "day", "days"),
    [
        ("demo.yaml", "daily-retrain", "backfill"),
        ("ctr_daily.yaml", "daily-ranking", "backfill-ranking"),
        ("dlrm_frappe.yaml", "ranking", None),
    ],
)
def test_each_kind_of_config_has_its_flow(config: str, day: str, days: str | None) -> None:
    loaded = configs.load(CONFIGS / config)
    assert cli._flow_of_a_day(loaded).name == day
    assert config_commands.is_daily(loaded) == (days is not None)
    if days is not None:
        assert cli._flow_of_days(loaded).name == days


def test_a_run_looks_at_config_and_data_before_it_starts_a_server(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def never() -> None:
        raise AssertionError("a server was started")

    monkeypatch.setattr(server, "temporary", never)
    monkeypatch.chdir(tmp_path)
    typo = CliRunner().invoke(cli.app, ["run", "typo.yaml"])
    assert (typo.exit_code, typo.stderr) == (2, "error: typo.yaml: no such config file\n")
    no_data = CliRunner().invoke(cli.app, ["run", str(CONFIGS / "demo.yaml")])
    assert isinstance(no_data.exception, ValueError)
    assert "data/shop" in str(no_data.exception)
    no_start = ["--set", "train.fine_tune_from.path=nowhere"]
    assert CliRunner().invoke(cli.app, ["run", str(CONFIGS / "demo.yaml"), *no_start]).exit_code == 2


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, "localhost,127.0.0.1,::1"),
        ({"NO_PROXY": "corp.example"}, "corp.example,localhost,127.0.0.1,::1"),
        ({"no_proxy": "a.example, 127.0.0.1", "NO_PROXY": "b.example"}, "a.example,127.0.0.1,b.example,localhost,::1"),
        ({"no_proxy": "*"}, "*"),
    ],
)
def test_loopback_is_never_proxied(before: dict[str, str], after: str) -> None:
    env = {name: value for name, value in os.environ.items() if name.lower() != "no_proxy"} | before
    code = "import flows, os; print(os.environ['no_proxy']); print(os.environ['NO_PROXY'])"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [after, after]


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_the_first_signal_to_stop_unwinds_and_is_named_and_a_second_is_ignored(
    number: signal.Signals, capfd: pytest.CaptureFixture[str]
) -> None:
    signal.signal(number, cli._terminate)
    cleaned_up = False
    with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else SystemExit) as ended:  # noqa: PT012
        try:
            os.kill(os.getpid(), number)
        finally:
            for again in cli._STOPPING:
                os.kill(os.getpid(), again)
            cleaned_up = True
    assert cleaned_up
    assert number == signal.SIGINT or ended.value.args == (128 + number,)
    assert capfd.readouterr().err == f"stopped by {number.name}; run it again: finished stages are kept\n"


def test_a_full_disk_is_named_where_a_library_hides_it_behind_words_of_its_own() -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "/x")
    hiding = MlflowException("Failed to copy the specified code path")
    hiding.__cause__ = shutil.Error([("a", "b", "c")])
    assert not fault.is_full_disk(hiding)
    hiding.__cause__.__cause__ = full
    assert fault.is_full_disk(hiding)


def test_a_backfill_that_ends_before_it_begins_is_refused() -> None:
    days = ["--from", "2024-01-02", "--to", "2024-01-01"]
    done = CliRunner().invoke(cli.app, ["backfill", str(CONFIGS / "demo.yaml"), *days])
    assert done.exit_code == 2
    assert "--to 2024-01-01 is before --from 2024-01-02" in done.output


def test_the_demo_makes_its_shop_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="run `dayline demo` in a checkout of the project"):
        demo.require()
    shutil.copytree(CONFIGS, tmp_path / "configs")
    demo.generate(silent)
    made = {path: path.stat().st_mtime_ns for path in demo.LOG.rglob("*.parquet")}
    demo.generate(silent)
    assert {path: path.stat().st_mtime_ns for path in demo.LOG.rglob("*.parquet")} == made
    assert demo.days() == (date(2024, 1, 6), date(2024, 1, 8))


def test_the_demo_names_commands_that_this_shell_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    output = demo.farewell()
    command = next(line.split()[0] for line in output.splitlines() if "mlflow server" in line)
    assert Path(command).name == "mlflow"
    assert Path(command).parent.samefile(Path(sys.executable).parent)
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    assert "\n    mlflow server" in demo.farewell()


@pytest.mark.parametrize(("ends", "code"), [("None", 0), ("sys.exit(75)", 75), ("sys.exit()", 0), ("1 / 0", 70)])
def test_the_process_ends_when_the_command_has_and_what_is_registered_was_called(ends: str, code: int) -> None:
    program = (
        "import atexit, sys, threading\n"
        "from flows import cli\n"
        "class Slow:\n"
        "    def __del__(self): print('taken apart')\n"
        "kept = Slow()\n"
        "def app(**_):\n"
        "    atexit.register(print, 'drained')\n"
        "    print('result')\n"
        f"    {ends}\n"
        "cli.app = app\n"
        "cli.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.splitlines()) == (code, ["result", "drained"])


def test_a_prefect_server_that_is_gone_does_not_hold_up_the_end() -> None:
    code = (
        "import httpx, threading\n"
        "from flows import cli\n"
        "def fail(**_):\n"
        "    threading.Thread(target=threading.Event().wait).start()\n"
        "    raise httpx.ConnectError('refused')\n"
        "cli.app = fail\n"
        "cli.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 1
    assert done.stderr == "error: Prefect: refused; run it again when it answers: finished stages are kept\n"
