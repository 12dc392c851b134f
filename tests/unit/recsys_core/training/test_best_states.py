"""Which states are the best, and which stay on the disk; that training keeps them is shown with the ranking stages."""

import pytest
import torch

from recsys_core.checkpoint import TrainProgress
from recsys_core.distributed import World
from recsys_core.training import best_states

AUCS = {2: 0.5, 4: 0.8, 6: 0.7, 8: 0.8, 10: 0.9, 12: 0.1}


class Alone(World):
    def share(self, make):
        return make()


def after(steps: list[int], metric: str, count: int) -> TrainProgress:
    position = TrainProgress()
    for step in steps:
        position = position.model_copy(update={"step": step})
        position = best_states.ranked(position, {metric: AUCS[step]}, metric, count=count)
        assert position.validated_step == step
    return position


@pytest.mark.parametrize(
    ("steps", "metric", "count", "kept", "num_stale"),
    [
        ([2], "auc", 1, [2], 0),
        ([2, 4, 6], "auc", 1, [4], 1),
        # One that is as good is no better.
        ([2, 4, 6, 8], "gauc", 2, [4, 8], 2),
        ([2, 4, 6, 8, 10, 12], "auc", 3, [10, 4, 8], 1),
        ([2, 4, 6, 8, 10, 12], "logloss", 2, [12, 2], 0),
    ],
)
def test_the_best_come_first_and_stale_ones_are_counted(steps, metric, count, kept, num_stale):
    position = after(steps, metric, count)
    assert [one.step for one in position.kept] == kept
    assert [one.value for one in position.kept] == [AUCS[step] for step in kept]
    assert position.num_stale == num_stale


def test_a_metric_that_was_not_found_cannot_choose():
    with pytest.raises(ValueError, match=r"train\.best_metric: the validation rows have no gauc, only auc, logloss"):
        best_states.ranked(TrainProgress(), {"auc": 0.5, "logloss": 0.7}, "gauc", count=1)


def test_folders_follow_the_position(tmp_path):
    folder = tmp_path / "best"
    for name in ("step-2", "step-4", "step-10", ".step-8.partial"):
        (folder / name).mkdir(parents=True)
    position = after([2, 4, 6, 8, 10, 12], "auc", 3)
    world = Alone(0, 1, 1, torch.device("cpu"))
    # That of step 8 was being written when the process was killed.
    found = best_states.still_there(folder, position, world)
    assert [one.step for one in found.kept] == [10, 4]
    best_states.tidy(folder, found)
    assert sorted(path.name for path in folder.iterdir()) == [".step-8.partial", "step-10", "step-4"]
    made = best_states.finish(folder, found, "auc")
    assert [(one.step, one.value, one.folder) for one in made] == [(10, 0.9, "state"), (4, 0.8, "best/step-4")]
    assert [path.name for path in folder.iterdir()] == ["step-4"]
    assert best_states.finish(folder, TrainProgress(), "auc") == ()
    assert not folder.exists()
