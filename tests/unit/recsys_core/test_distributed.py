"""What a rank knows of itself, in one process."""

import torch

from recsys_core.distributed import World

RANK = World(rank=0, num_ranks=1, num_local_ranks=1, device=torch.device("cpu"))


def test_a_seed_draws_as_torchs_does_and_leaves_nothing_behind() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    kept = len(torch.cuda._queued_calls), len(torch.xpu._queued_calls)
    for _ in range(2):
        RANK.seed(7)
        assert torch.equal(torch.rand(3), expected)
    assert (len(torch.cuda._queued_calls), len(torch.xpu._queued_calls)) == kept
