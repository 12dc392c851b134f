"""Each schedule against a table that a person can compute."""

import itertools
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from recsys_core.sections import schedules

parse = TypeAdapter(schedules.Config).validate_python


@pytest.mark.parametrize(
    ("section", "shares"),
    [
        ({"kind": "constant"}, [1, 1, 1]),
        ({"kind": "constant", "warmup_steps": 4}, [0.25, 0.5, 0.75, 1, 1, 1]),
        ({"kind": "constant", "warmup_steps": 2, "warmup_start": 0.5}, [0.75, 1, 1]),
        ({"kind": "exponential", "factor": 0.5, "every": 2, "staircase": True}, [1, 1, 0.5, 0.5, 0.25]),
        ({"kind": "exponential", "factor": 0.25, "every": 2}, [1, 0.5, 0.25, 0.125]),
        ({"kind": "exponential", "factor": 0.5, "every": 1, "floor": 0.3}, [1, 0.5, 0.3, 0.3]),
        ({"kind": "exponential", "factor": 0.5, "every": 1, "warmup_steps": 2}, [0.5, 1, 1, 0.5, 0.25]),
        ({"kind": "manual", "boundaries": [2, 3], "shares": [0.5, 0.1]}, [1, 1, 0.5, 0.1, 0.1]),
        ({"kind": "cosine", "total": 4}, [1, 0.853553, 0.5, 0.146447, 0, 0]),
        ({"kind": "cosine", "total": 2, "floor": 0.2}, [1, 0.6, 0.2, 0.2]),
        ({"kind": "cosine_restarts", "first": 2}, [1, 0.5, 1, 0.5, 1]),
        ({"kind": "cosine_restarts", "first": 2, "growth": 2}, [1, 0.5, 1, 0.853553, 0.5, 0.146447, 1]),
        ({"kind": "cosine_restarts", "first": 2, "floor": 0.5}, [1, 0.75, 1]),
    ],
)
def test_by_step(section: dict[str, Any], shares: list[float]) -> None:
    schedule = parse(section)
    assert [schedule.share(step, epoch=0) for step in range(len(shares))] == pytest.approx(shares, abs=1e-6)


def test_by_epoch_the_warm_up_still_counts_steps() -> None:
    schedule = parse({"kind": "exponential", "factor": 0.5, "every": 1, "by": "epoch", "warmup_steps": 2})
    # Three steps an epoch.
    assert [schedule.share(step, step // 3) for step in range(9)] == [0.5, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25]


def test_a_restart_is_as_long_as_torchs() -> None:
    import torch

    schedule = parse({"kind": "cosine_restarts", "first": 3, "growth": 2})
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=3, T_mult=2)
    for step in range(25):
        assert schedule.share(step, 0) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        reference.step()


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({"kind": "manual", "boundaries": [3, 2], "shares": [0.5, 0.1]}, "do not rise from 1"),
        ({"kind": "manual", "boundaries": [0], "shares": [0.5]}, "do not rise from 1"),
        ({"kind": "manual", "boundaries": [2, 3], "shares": [0.5]}, "1 of them for 2 boundaries"),
        ({"kind": "cosine"}, "total"),
        ({"kind": "constant", "floor": 0.1}, "floor"),
    ],
)
def test_what_makes_no_schedule_is_refused(section: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValidationError, match=expected):
        parse(section)


def test_shares_stay_between_0_and_1() -> None:
    kinds = [
        {"kind": "exponential", "factor": 0.9, "every": 7},
        {"kind": "cosine", "total": 50},
        {"kind": "cosine_restarts", "first": 5, "growth": 3},
    ]
    for section, step in itertools.product(kinds, range(200)):
        assert 0 <= parse(section | {"warmup_steps": 10}).share(step, 0) <= 1
