"""The model is checked in another process, once: what was found right is remembered with all that it depends on."""

from pathlib import Path

import pytest

from recsys_core import config as configs
from recsys_core.config import model_check

DEMO = Path(__file__).parents[4] / "configs" / "demo.yaml"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "dayline" / "models"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The configs that a process was asked about."""
    found: list[object] = []

    class Counted(model_check.Asked):
        def __init__(self, config: configs.RunConfig | configs.RankingConfig) -> None:
            found.append(config)
            super().__init__(config)

    monkeypatch.setattr(model_check, "Asked", Counted)
    return found


def test_what_was_found_right_is_built_again_once_something_of_it_changes(cache: Path, asked: list[object]) -> None:
    loaded = configs.load(DEMO)
    for _ in range(2):
        model_check.check(loaded)
    assert len(asked) == 1
    assert [path.stat().st_size for path in cache.iterdir()] == [0]
    # Of a key that no model depends on nothing is built; of one that it does, everything.
    model_check.check(configs.load(DEMO, ["gate.minimum_lift=null"]))
    assert len(asked) == 1
    with pytest.raises(ValueError, match=r"loss.kind 'binary_cross_entropy': not a loss that compares queries"):
        model_check.check(configs.load(DEMO, ["loss={kind: binary_cross_entropy}"]))
    assert len(asked) == 2
    assert len([*cache.iterdir()]) == 1


def test_of_other_code_nothing_is_remembered(
    cache: Path, asked: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "odd.py").write_text(
        "from typing import Literal\nfrom recsys_core.artifacts import ComponentConfig\n"
        "class Config(ComponentConfig):\n    kind: Literal['shop.odd']\n"
        "class Loss:\n    pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(ValueError, match=r"loss.kind 'shop.odd': not a loss that compares queries"):
        model_check.check(configs.load(DEMO, ["loss={kind: shop.odd}"]))
    assert len(asked) == 1
    assert not cache.exists()


def test_where_nothing_can_be_written_it_is_checked_each_time(
    cache: Path, asked: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    model_check.check(configs.load(DEMO))
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME")
    assert model_check._record(configs.load(DEMO)) is None
    assert len(asked) == 1
    assert not cache.exists()


def test_a_process_that_dies_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    with model_check.begun(configs.load(DEMO)) as check:
        assert check._asked is not None
        check._asked._process.kill()
        with pytest.raises(RuntimeError, match="the process that builds the model ended, code -9"):
            check.wait()
