"""Two real ranks under torchrun that are told to stop or killed, again and again: they end as if nothing had happened.

`DAYLINE_KILLS` is how many ranks are killed one after the other (20 take a few minutes).
"""

import os
import random
import signal
from collections.abc import Callable

import psutil
import pyarrow.parquet as pq
import pytest

from recsys_core import artifacts, checkpoint, launch
from recsys_core.artifacts import Checkpoint
from recsys_core.progress import Event, Stopped, silent

_RANKS = launch.Config(num_ranks=2, threads_per_rank=1)
_CONFIG = {"batch_size": 64, "num_epochs": 12, "log_every_steps": 2, "checkpoint_every_steps": 25}
_NUM_STEPS = 12 * 16


class Disturbed(Exception):
    """What the launcher's process is ended by, as Prefect's cancellation and Ctrl-C do."""


def _ranks() -> dict[int, psutil.Process]:
    """Return this process's torchrun (-1) and its ranks."""
    found = {}
    for process in psutil.Process().children(recursive=True):
        if "train" in (line := process.cmdline()):
            found[-1 if "torch.distributed.run" in line else int(process.environ()["RANK"])] = process
    return found


class At:
    """A sink that does something once, when training has told of a step from `step` on."""

    def __init__(self, step: int, do: Callable[[dict[int, psutil.Process]], None]) -> None:
        self.step, self.do = step, do
        self.steps: list[int] = []
        self.ranks: dict[int, psutil.Process] = {}

    def __call__(self, event: Event) -> None:
        self.steps.append(event.step or 0)
        if event.step is not None and event.step >= self.step and not self.ranks:
            self.ranks = _ranks()
            self.do(self.ranks)


@pytest.fixture(scope="module")
def undisturbed(make_train_request, tmp_path_factory) -> Checkpoint:
    request = make_train_request(tmp_path_factory.mktemp("undisturbed") / "train", config=_CONFIG, num_ranks=2)
    return launch.run("train", Checkpoint, request, silent, _RANKS)


def _assert_same(made: Checkpoint, undisturbed: Checkpoint, same_weights: Callable[..., None]) -> None:
    assert (made.num_steps, made.num_rows) == (undisturbed.num_steps, undisturbed.num_rows) == (_NUM_STEPS, 2_011)
    assert made.loss == pytest.approx(undisturbed.loss, rel=1e-9)
    same_weights(undisturbed, made, 0.0)
    steps = [point["step"] for point in pq.read_table(made.path / "curve.parquet").to_pylist()]
    assert steps == sorted(set(steps))


def _assert_nobody_left(at: At) -> None:
    assert set(at.ranks) == {-1, 0, 1}
    _, alive = psutil.wait_procs(list(at.ranks.values()), timeout=1)
    assert not alive


def test_told_to_stop_it_keeps_the_step_and_goes_on_from_there(
    undisturbed, make_train_request, same_weights, tmp_path
) -> None:
    request = make_train_request(tmp_path / "train", config=_CONFIG | {"async_checkpoints": True}, num_ranks=2)
    kept = tmp_path / ".train.partial" / "steps"

    def tell(whom: int, number: int) -> Callable[[dict[int, psutil.Process]], None]:
        return lambda ranks: ranks[whom].send_signal(number)

    def disturb(_: object) -> None:
        raise Disturbed

    begun = 0
    cases = [(tell(-1, signal.SIGTERM), Stopped), (tell(1, signal.SIGINT), Stopped), (disturb, Disturbed)]
    for do, ends in cases:
        at = At(begun + 10, do)
        with pytest.raises(ends):
            launch.run("train", Checkpoint, request, at, _RANKS)
        _assert_nobody_left(at)
        assert at.steps[0] > begun
        begun = checkpoint.position(checkpoint.latest(kept)).step
        # The step that was agreed on, not the last one that a checkpoint was due at; and no step is made after it.
        assert begun == at.steps[-1] < _NUM_STEPS
    made = launch.run("train", Checkpoint, request, silent, _RANKS)
    _assert_same(made, undisturbed, same_weights)


def test_killed_at_random_steps_it_ends_as_if_nothing_had_happened(
    undisturbed, make_train_request, same_weights, tmp_path
) -> None:
    rng = random.Random(7)
    request = make_train_request(tmp_path / "train", config=_CONFIG, num_ranks=2)
    num_kills = int(os.environ.get("DAYLINE_KILLS", "2"))
    for _ in range(num_kills):
        begun = checkpoint.latest(tmp_path / ".train.partial" / "steps")
        step = checkpoint.position(begun).step if begun else 0
        victim = rng.randrange(2)
        at = At(step + rng.randrange(1, 32), lambda ranks, victim=victim: ranks[victim].send_signal(signal.SIGKILL))
        with pytest.raises(RuntimeError, match="exitcode: -9"):
            launch.run("train", Checkpoint, request, at, _RANKS)
        _assert_nobody_left(at)
    made = launch.run("train", Checkpoint, request, silent, _RANKS)
    _assert_same(made, undisturbed, same_weights)
