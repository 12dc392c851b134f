"""The day, the rows and the requests of tests/distributed, on GPUs."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

_SOURCE = Path(__file__).parents[1] / "distributed"


def _of(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"distributed_{name}", _SOURCE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_shared, _ranking = _of("conftest"), _of("test_ranking")
day, sections = _shared.day, _shared.sections
make_train_request, train_request = _shared.make_train_request, _shared.train_request
weights_of, same_weights = _shared.weights_of, _shared.same_weights
data = _ranking.data


@pytest.fixture
def ranking_request(data, tmp_path):
    """Make a request to train the ranking model; every step is on all rows."""

    def make(name, num_ranks=1, *, sharding=None, **config):
        section = {"sharding_types": ["table_wise"], "device": "cuda"} | (sharding or {})
        (tmp_path / name).mkdir()
        return _ranking._request(
            data, tmp_path / name, num_ranks, "table_wise", **_ranking._STEPS | {"sharding": section} | config
        )

    return make


@pytest.fixture(autouse=True)
def _gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("torch sees no GPU")


@pytest.fixture
def two_gpus() -> None:
    """NCCL wants a GPU for each rank."""
    if torch.cuda.device_count() < 2:
        pytest.skip(f"needs 2 GPUs, torch sees {torch.cuda.device_count()}")
