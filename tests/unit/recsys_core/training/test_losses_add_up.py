"""What losses become on their way to the curve and the position, on paper."""

from pathlib import Path

import pytest
import torch

from recsys_core import distributed
from recsys_core.checkpoint import TrainProgress
from recsys_core.training.account import Account
from recsys_core.training.monitor import Monitor
from recsys_core.training.objective import weighted_sum


@pytest.fixture
def world():
    with distributed.world("cpu") as alone:
        yield alone


def test_a_row_of_weight_two_counts_as_two(world):
    losses = torch.tensor([1.0, 4.0])
    assert float(weighted_sum(losses, None, 2, world)) == 5.0
    # The mean over the batch is (2 * 1 + 1 * 4) / 3, the sum twice that.
    assert float(weighted_sum(losses, torch.tensor([2.0, 1.0]), 2, world)) == pytest.approx(2 * 6 / 3)
    assert float(weighted_sum(losses, torch.zeros(2), 2, world)) == 0.0


def _losses(**values):
    return {name: torch.tensor(value) for name, value in values.items()}


def _monitor(world, path: Path, sink):
    return Monitor(
        world,
        TrainProgress(),
        num_rows=10,
        total=10,
        curve_path=path / "curve.parquet",
        sink=sink,
        keep_rows=lambda epoch, places: f"rows {places} of epoch {epoch}",
    )


def test_several_losses_are_reported_each_and_as_their_sum(world, tmp_path):
    seen = []
    meter = _monitor(world, tmp_path, seen.append)
    meter.count(0, _losses(click=2.0, conversion=4.0), 4, [(0, 4)])
    meter.count(0, _losses(click=1.0, conversion=5.0), 2, [(4, 6)])
    meter.report(TrainProgress(step=2), {"norm": torch.tensor(7.0)}, {"auc": None})
    # Of six rows: (2 + 1) / 6 and (4 + 5) / 6.
    metrics = seen[0].metrics
    assert (metrics["loss"], metrics["loss_click"], metrics["loss_conversion"]) == pytest.approx((2.0, 0.5, 1.5))
    assert metrics["norm"] == 7.0
    meter.count(0, _losses(click=3.0), 1, [(6, 7)])
    meter.report(TrainProgress(step=3), {}, {})
    assert seen[1].metrics["loss"] == 3.0
    assert not {"loss_click", "loss_conversion"} & seen[1].metrics.keys()


def test_one_loss_that_is_no_number_names_its_step(world, tmp_path):
    meter = _monitor(world, tmp_path, lambda event: None)
    meter.count(0, _losses(click=1.0, conversion=1.0), 2, [(0, 2)])
    meter.count(0, _losses(click=1.0, conversion=float("nan")), 2, [(2, 4)])
    with pytest.raises(
        ValueError, match=r"the loss is nan at step 2 of epoch 1 \(rank 0: rows 2 to 3 .* rows \[\(2, 4"
    ):
        meter.report(TrainProgress(step=2), {}, {})


def test_the_position_has_what_was_counted_since_it_was_settled(world):
    account = Account(world)
    account.add(_losses(click=1.5, conversion=0.5), [(0, 4)])
    account.add(_losses(click=1.0, conversion=2.0), [(8, 10)])
    first = account.settle(TrainProgress(step=2))
    assert (first.consumed, first.loss_sum, first.step) == (((0, 4), (8, 10)), 5.0, 2)
    account.add(_losses(click=1.0), [(4, 8)])
    assert account.settle(first).consumed == ((0, 10),)
    assert account.settle(first).loss_sum == 5.0
