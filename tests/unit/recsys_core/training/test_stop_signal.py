"""When ranks ask each other whether to stop; two real ranks do so in tests/distributed."""

import signal
import threading

import pytest
import torch

from recsys_core.distributed import World
from recsys_core.training import stop_signal


class Alone(World):
    """A world of as many ranks as one likes, all of which say what this one says."""

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        return values * self.num_ranks


def alone(num_ranks: int = 1) -> World:
    return Alone(0, num_ranks, num_ranks, torch.device("cpu"))


@pytest.mark.parametrize(
    ("seconds_per_step", "asked"),
    [
        # After the first step, the twentieth ones, which are reported anyway.
        (0.01, [1, 20, 40, 60]),
        # Three seconds are six steps.
        (0.5, [1, 7, 13, 19, 20, 26, 32, 38, 40, 46, 52, 58, 60]),
        (5.0, list(range(1, 61))),
    ],
)
def test_it_is_asked_at_least_every_three_seconds(
    monkeypatch: pytest.MonkeyPatch, seconds_per_step: float, asked: list[int]
) -> None:
    now = [100.0]
    monkeypatch.setattr(stop_signal.time, "monotonic", lambda: now[0])
    agreement = stop_signal.Agreement(alone(2), threading.Event(), 0, every_steps=20)
    found = []
    for step in range(1, 61):
        now[0] += seconds_per_step
        if agreement.is_due(step):
            found.append(step)
            assert not agreement.ask(step)
    assert found == asked


def test_signals_are_caught_inside_and_do_what_they_did_outside() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    for number in (signal.SIGTERM, signal.SIGINT):
        with stop_signal.signals() as stop:
            agreement = stop_signal.Agreement(alone(), stop, 7, every_steps=20)
            assert not agreement.ask(8)
            signal.raise_signal(number)
            assert agreement.ask(9)
        assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    events: list[bool] = []

    def elsewhere() -> None:
        with stop_signal.signals() as stop:
            events.append(stop.is_set())

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert events == [False]
