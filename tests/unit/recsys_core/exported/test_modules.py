"""Scripts whose tables stay in their file."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from recsys_core.exported import modules


class Adding(nn.Module):
    """Adds numbers that are a buffer, a parameter that two modules share, and numbers that are neither."""

    def __init__(self, *, holds_others: bool) -> None:
        super().__init__()
        self.register_buffer("buffer", torch.arange(1_000))
        self.one = nn.Embedding.from_pretrained(torch.rand(1_000, 2))
        self.two = nn.Embedding.from_pretrained(self.one.weight)
        self.other = torch.rand(1_000) if holds_others else torch.rand(1)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        ids = inputs["ids"]
        return self.one(ids).sum(1) + self.two(ids)[:, 0] + self.buffer[ids] + self.other[0]


@pytest.mark.parametrize("holds_others", [False, True])
def test_a_script_answers_alike_wherever_its_tables_are(tmp_path, monkeypatch, *, holds_others):
    script = torch.jit.script(Adding(holds_others=holds_others))
    script.save(str(tmp_path / "model.pt"))
    inputs = {"ids": torch.tensor([0, 7, 999])}
    monkeypatch.setattr(modules, "MAPPED_BYTES", 0)
    monkeypatch.setattr(modules, "_TABLE_BYTES", 1_000)
    loaded = modules.load(tmp_path)
    torch.testing.assert_close(loaded(inputs), script(inputs), rtol=0, atol=0)
    is_mapped = str(tmp_path) in Path("/proc/self/maps").read_text()
    # A tensor that is no parameter and no buffer cannot be put in place: the script is read whole.
    assert is_mapped != holds_others


def test_a_file_that_is_no_script_is_damaged(tmp_path, monkeypatch):
    monkeypatch.setattr(modules, "MAPPED_BYTES", 0)
    (tmp_path / "model.pt").write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"model\.pt: damaged \(.*; export it again"):
        modules.load(tmp_path)
