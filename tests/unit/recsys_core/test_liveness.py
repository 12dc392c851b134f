"""A file says whether its holder lives."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from recsys_core import liveness

HOLD = (
    "import pathlib, sys; from recsys_core import liveness\n"
    "with liveness.held(pathlib.Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
)


@pytest.fixture
def holder(tmp_path: Path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_killed_process_is_dead_and_no_other(holder: subprocess.Popen, tmp_path: Path) -> None:
    file = tmp_path / "lock"
    assert not liveness.is_dead(file)
    assert not liveness.is_dead(tmp_path / "never held")
    with pytest.raises(BlockingIOError, match=f"^{holder.pid}$"), liveness.held(file):
        pass
    holder.kill()
    holder.communicate()
    assert liveness.is_dead(file)
    with liveness.held(file):
        assert not liveness.is_dead(file)
        assert file.read_text().split()[0] == str(os.getpid())
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_on_another_machine_it_also_has_to_be_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, other = tmp_path / "lock", tmp_path / "boot_id"
    with liveness.held(file):
        pass
    assert liveness.is_dead(file)
    other.write_text("another kernel")
    monkeypatch.setattr(liveness, "_BOOT", other)
    assert not liveness.is_dead(file)
    silent = file.stat().st_mtime - liveness.SILENT_SECONDS - 10
    os.utime(file, (silent, silent))
    assert liveness.is_dead(file)


def test_a_holder_gives_signs_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liveness, "_TOUCH_SECONDS", 0.01)
    file = tmp_path / "lock"
    with liveness.held(file):
        os.utime(file, (0, 0))
        while file.stat().st_mtime == 0:
            pass
