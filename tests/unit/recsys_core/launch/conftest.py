"""A stage of a few lines that does what each test asks, where the processes that are started find it."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest

from recsys_core.launch import kept, processes

_OBEYING = Path(__file__).with_name("obeying.py")
_spec = importlib.util.spec_from_file_location("obeying", _OBEYING)
assert _spec is not None
assert _spec.loader is not None
sys.modules["obeying"] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(sys.modules["obeying"])

# What `python -m recsys_core` is to the launcher, with a stage that obeys its request.
_STAGE = """
import os, pathlib, signal, sys, time
from recsys_core import __main__ as main, progress
from recsys_core.launch import kept
from obeying import Note, Request
from recsys_core.artifacts import pending

def run(request, sink):
    rank = os.environ.get("RANK", "0")
    (request.output.parent / f"pid-{rank}").write_text(str(os.getpid()))
    (request.output.parent / f"parent-{rank}").write_text(str(os.getppid()))
    # No launcher has set the threads of another node's single rank.
    sink(progress.Event(stage="note", done=1, total=2, message=os.environ.get("OMP_NUM_THREADS", "")))
    if rank == "0":
        names = sorted(name for name in os.environ if name.startswith(("TRY_", "AWS_SECRET_")))
        (request.output.parent / "secrets").write_text(" ".join(names))
    starts = request.output.parent / f"starts-{rank}"
    with starts.open("a") as file:
        file.write(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    if request.does == "refuse":
        raise ValueError("column 'x' is missing; add it")
    if request.does == "crash":
        raise KeyError("bug")
    if request.does == "fail":
        raise RuntimeError("lost")
    if request.does == "die once" and len(starts.read_text()) == 1:
        # The last rank is killed, as for want of memory, while the others, which have all begun, wait for it.
        ranks = range(int(os.environ["WORLD_SIZE"]))
        if rank == str(ranks[-1]):
            begun = [request.output.parent / f"starts-{other}" for other in ranks]
            while not all(path.exists() and path.read_text() for path in begun):
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(600)
    if request.does == "sleep":
        if request.deaf:
            os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(600)
    if rank == "0":
        print(f"this is {request.output.parent.name}")
        with pending(request.output) as work:
            (work.path / "note.txt").write_text("done")
            work.commit(Note, request, num_rows=1, world_size=int(os.environ.get("WORLD_SIZE", "1")))

sys.modules["recsys_core.note"] = sys.modules[__name__]
main.STAGES["note"] = "note"
kept.GROUPS["notes"] = ("note",)
if __name__ == "__main__":
    sys.exit(main.main())
"""


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put the stage's module where the started processes find it; return an empty run directory."""
    code = tmp_path / "code"
    code.mkdir()
    (code / "stand_in_stage.py").write_text(_STAGE)
    (code / "obeying.py").symlink_to(_OBEYING)
    monkeypatch.setenv("PYTHONPATH", f"{code}{os.pathsep}{Path.cwd()}", prepend=os.pathsep)
    monkeypatch.setattr(processes, "MODULE", "stand_in_stage")
    monkeypatch.setitem(kept.GROUPS, "notes", ("note",))
    return tmp_path / "run"
