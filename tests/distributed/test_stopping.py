"""Two real ranks that are asked to stop or killed, again and again: they end as if nothing had happened.

They wait at the steps at which they are disturbed until they are, so that no training is over before; see `holding.py`.
`DAYLINE_KILLS` is how many ranks are killed one after the other by signal, and `DAYLINE_SEED` chooses where.
"""

import contextlib
import itertools
import json
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from recsys_core import artifacts, checkpoint, launch
from recsys_core.artifacts import Checkpoint
from recsys_core.launch import processes
from recsys_core.progress import STOPPED_EXIT_CODE, Event, Stopped

_RANKS = launch.Local(num_ranks=2, threads_per_rank=1)
_CONFIG = {"batch_size": 64, "num_epochs": 12, "log_every_steps": 2, "checkpoint_every_steps": 25}
_NUM_STEPS = 12 * 16


class DisturbedError(Exception):
    """What the launcher's process is ended by, as by Prefect's cancellation and Ctrl-C."""


@pytest.fixture(scope="module")
def undisturbed(make_train_request, ranks, tmp_path_factory) -> Checkpoint:
    request = make_train_request(tmp_path_factory.mktemp("undisturbed") / "train", config=_CONFIG, num_ranks=2)
    codes, log = ranks.stage("train", request, 2)
    assert codes == [0, 0], log
    return Checkpoint.load(request.output)


@pytest.fixture
def assert_undisturbed(undisturbed, same_weights) -> Callable[[Checkpoint], None]:
    """Compare with what was never disturbed: the same weights, loss and rows, and a curve without gaps."""

    def compare(made: Checkpoint) -> None:
        assert (made.num_steps, made.num_rows) == (undisturbed.num_steps, undisturbed.num_rows) == (_NUM_STEPS, 2_011)
        assert made.loss == pytest.approx(undisturbed.loss, rel=1e-12)
        same_weights(undisturbed, made, 0.0)
        curve = pq.read_table(made.path / "curve.parquet")
        steps = curve.column("step").to_pylist()
        assert steps == sorted(set(steps))
        assert set(range(2, _NUM_STEPS + 1, 2)) <= set(steps)
        assert curve.column("examples")[-1].as_py() == 12 * 2_011

    return compare


def _step_of(output) -> int:
    found = checkpoint.latest(output.with_name(f".{output.name}.partial") / "steps")
    return checkpoint.position(found).step if found else 0


@pytest.fixture
def _holding(monkeypatch) -> None:
    """Let the launcher start ranks that can be held."""
    monkeypatch.setattr(processes, "MODULE", "holding")
    monkeypatch.setenv("PYTHONPATH", f"{Path(__file__).parent}{os.pathsep}{Path.cwd()}", prepend=os.pathsep)


class At:
    """A sink that does something to torchrun (-1) or a rank where training waits: when it has come to step `step`."""

    def __init__(self, request: artifacts.Request, step: int, do: Callable[[dict[int, psutil.Process]], None]) -> None:
        self._step, self._do = step, do
        self._hold = request.output.with_name("hold")
        self._hold.parent.mkdir(parents=True, exist_ok=True)
        self._hold.write_text(json.dumps({"step": step}))
        self.steps: list[int] = []
        self.processes: dict[int, psutil.Process] = {}

    def __call__(self, event: Event) -> None:
        if event.step is not None:
            self.steps.append(event.step)
        if event.step is not None and event.step >= self._step and not self.processes:
            for process in psutil.Process().children(recursive=True):
                line: list[str] = []
                with contextlib.suppress(psutil.NoSuchProcess):  # it has ended, and is a zombie until it is waited for
                    line = process.cmdline()
                if "holding" in line:
                    number = -1 if "torch.distributed.run" in line else int(process.environ()["RANK"])
                    self.processes[number] = process
            # Where this raises, the ranks go on by the signal that they get for it.
            self._do(self.processes)
            self._hold.unlink()


@pytest.mark.usefixtures("_holding")
def test_below_torchrun_it_stops_in_good_order_and_no_process_is_left(
    make_train_request, assert_undisturbed, ranks, tmp_path
) -> None:
    request = make_train_request(tmp_path / "train", config=_CONFIG | {"async_checkpoints": True}, num_ranks=2)

    def disturb(_: object) -> None:
        raise DisturbedError

    cases = [
        # Who is asked to stop is not started again.
        (3, lambda found: found[1].send_signal(signal.SIGTERM), Stopped, "train: stopped at step"),
        (0, disturb, DisturbedError, None),
        (0, lambda found: found[0].send_signal(signal.SIGKILL), RuntimeError, "exitcode: -9"),
    ]
    for max_restarts, do, ends, words in cases:
        begun = _step_of(request.output)
        at = At(request, begun + 10, do)
        with pytest.raises(ends, match=words):
            launch.run("train", Checkpoint, request, at, _RANKS.model_copy(update={"max_restarts": max_restarts}))
        assert set(at.processes) == {-1, 0, 1}
        _, alive = psutil.wait_procs(list(at.processes.values()), timeout=300)
        assert not alive
        assert at.steps[0] > begun
        assert at.steps == sorted(at.steps)
        if ends is not RuntimeError:
            # The step that they agreed on, not the last one that a checkpoint was due at; and none was made after it.
            assert begun < _step_of(request.output) == at.steps[-1] < _NUM_STEPS
    codes, log = ranks.stage("train", request, 2)
    assert codes == [0, 0], log
    assert_undisturbed(Checkpoint.load(request.output))


@pytest.mark.usefixtures("_holding")
def test_killed_ranks_are_started_again_with_their_group_and_training_goes_on(
    make_train_request, assert_undisturbed, tmp_path
) -> None:
    request = make_train_request(tmp_path / "train", config=_CONFIG, num_ranks=2)
    kills: list[At] = []
    messages: list[str] = []
    steps: list[int] = []

    def kill(victim: int, step: int) -> None:
        kills.append(At(request, step, lambda found: found[victim].send_signal(signal.SIGKILL)))

    def receive(event: Event) -> None:
        if event.message:
            messages.append(event.message)
        if event.step is not None:
            steps.append(event.step)
        kills[-1](event)
        if len(kills) == 1 and kills[0].processes:
            kill(1, 110)

    kill(0, 40)
    restarting = _RANKS.model_copy(update={"max_restarts": 2})
    assert_undisturbed(launch.run("train", Checkpoint, request, receive, restarting))
    lines = [message for message in messages if "a process was lost" in message]
    lasts = [int(line.rpartition(" ")[2]) for line in lines]
    assert lines == [f"a process was lost; restart {n} goes on from step {last}" for n, last in enumerate(lasts, 1)]
    assert 25 <= lasts[0] <= 50
    assert lasts[1] >= 100
    assert not any(last % 25 for last in lasts)
    # Steps after the last checkpoint are reported again, as they are made again; none is left out.
    again = [step for before, step in itertools.pairwise(steps) if step <= before]
    assert [last < step <= last + 2 for last, step in zip(lasts, again, strict=True)] == [True, True]
    assert steps[-1] == _NUM_STEPS
    started = {process for at in kills for process in at.processes.values()}
    # torchrun and two ranks of each time.
    assert len(started) == 5
    _, alive = psutil.wait_procs(started, timeout=300)
    assert not alive


def test_a_rank_that_is_asked_to_stop_stops_the_others(
    make_train_request, assert_undisturbed, ranks, signalled, tmp_path
) -> None:
    request = make_train_request(tmp_path / "train", config=_CONFIG, num_ranks=2)
    for victim, number in ((0, signal.SIGTERM), (1, signal.SIGINT)):
        begun = _step_of(request.output)
        codes = signalled("train", request, 2, step=begun + 30, victim=victim, number=number)
        assert codes == [STOPPED_EXIT_CODE] * 2
        assert begun + 30 <= _step_of(request.output) < _NUM_STEPS
    codes, log = ranks.stage("train", request, 2)
    assert codes == [0, 0], log
    assert_undisturbed(Checkpoint.load(request.output))


def test_killed_at_random_steps_it_ends_as_if_nothing_had_happened(
    make_train_request, assert_undisturbed, ranks, signalled, tmp_path
) -> None:
    rng = random.Random(int(os.environ.get("DAYLINE_SEED", "7")))
    config = _CONFIG | {"log_every_steps": 1, "checkpoint_every_steps": 5}
    request = make_train_request(tmp_path / "train", config=config, num_ranks=2)
    for _ in range(int(os.environ.get("DAYLINE_KILLS", "5"))):
        victim = rng.randrange(2)
        step = _step_of(request.output) + rng.randrange(1, 9)
        codes = signalled("train", request, 2, step=step, victim=victim, number=signal.SIGKILL)
        assert codes[victim] == -signal.SIGKILL
        assert codes[1 - victim] not in (0, STOPPED_EXIT_CODE)
    codes, log = ranks.stage("train", request, 2)
    assert codes == [0, 0], log
    assert_undisturbed(Checkpoint.load(request.output))
