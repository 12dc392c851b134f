"""What a search varies: how it is read, and what is refused before anything runs."""

from pathlib import Path

import pytest

from recsys_core import config as configs
from recsys_core.config import space

CONFIG = Path("configs/dlrm_criteo_sample.yaml")


def _read(tmp_path: Path, text: str) -> space.Space:
    (tmp_path / "space.yaml").write_text(text)
    return space.read(tmp_path / "space.yaml")


def test_a_space_that_fits_its_config_is_taken(tmp_path: Path):
    found = _read(
        tmp_path,
        "train.dense_optimizer.learning_rate: {kind: float, low: 1.0e-5, high: 1.0e-2, log: true}\n"
        "train.batch_size: {kind: int, low: 64, high: 512, step: 64}\n"
        "model.top_hidden: {kind: choice, values: [[64], [32, 16]]}\n",
    )
    space.check(CONFIG, [], found)
    changed = configs.load(CONFIG, [space.change("train.dense_optimizer.learning_rate", 1e-5)])
    assert changed.train.dense_optimizer.learning_rate == 1e-5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "names no key of the config that is to be varied"),
        ("train.batch_size: {kind: int, low: 5, high: 5}", "low: 5 is not below high, 5"),
        ("a.b: {kind: float, low: 0, high: 1, log: true}", "low: 0.0 has no logarithm"),
        ("a.b: {kind: float, low: 1, high: 2, log: true, step: 0.1}", "log and step go apart"),
        ("a.b: {kind: choice, values: [1]}", "a.b.*values"),
        ("a.b: {kind: grid, values: [1, 2]}", "a.b"),
    ],
)
def test_a_space_that_is_none_is_refused(tmp_path: Path, text: str, message: str):
    with pytest.raises(ValueError, match=rf"space\.yaml.*{message}"):
        _read(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train.batchsize: {kind: int, low: 1, high: 5}", "train.batchsize: unknown key"),
        ("train.batch_size: {kind: int, low: 0, high: 5}", "train.batch_size"),
        ("model.top_hidden: {kind: choice, values: [[8], eight]}", "model.top_hidden"),
        ("model.dropout: {kind: float, low: 0.0, high: 1.5}", "model.dropout"),
    ],
)
def test_keys_and_values_that_the_config_does_not_take_are_refused(tmp_path: Path, text: str, message: str):
    with pytest.raises(ValueError, match=message):
        space.check(CONFIG, [], _read(tmp_path, text))


@pytest.mark.parametrize(
    ("config", "changes", "found"),
    [
        ("dlrm_criteo_sample", [], ("logloss", "minimize")),
        ("dlrm_frappe", [], ("auc", "maximize")),
        ("demo", ["gate.metric=ndcg"], ("ndcg@50", "maximize")),
    ],
)
def test_a_search_is_by_what_decides_elsewhere_too(config: str, changes: list[str], found: tuple[str, str]):
    assert space.metric_of(configs.load(Path(f"configs/{config}.yaml"), changes)) == found


@pytest.mark.parametrize(
    ("config", "message"),
    [("ctr_daily", "name a config of splits"), ("dlrm_criteo_kaggle", "a search is by the split")],
)
def test_what_nothing_is_measured_of_but_the_test_rows_is_not_searched(config: str, message: str):
    with pytest.raises(ValueError, match=message):
        space.metric_of(configs.load(Path(f"configs/{config}.yaml")))
