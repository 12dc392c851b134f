"""A config of ready-made examples: keys that only a log has are refused, and its tables are looked for by name."""

import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from recsys_core import config as configs
from recsys_core.config import RunConfig, preflight

CONFIG = Path(__file__).parents[4] / "configs" / "u2i_examples.yaml"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("holdout={kind: tail, hours: 2}", "holdout: .*evaluation rows of their own"),
        ("preprocess.history.max_length=5", "preprocess.history: .*nothing reads it"),
        ("preprocess.catalogue=all", "preprocess.catalogue: .*nothing reads it"),
        ("preprocess.popularity_days=5", "preprocess.popularity_days: .*nothing reads it"),
        ("sampler.weights=w.parquet", r"sampler.weights: .*data\.source\.negatives"),
        ("sampler={kind: impressions, source: x}", "sampler.kind: impressions mixes the weights of a log's items"),
        ("features.query[name=age].at_serving=1", "features: at_serving of 'age': .*retrieval model.*remove it"),
        ("hitrate.item_item_history=5", "hitrate.item_item_history: .*no baseline that learns from one"),
        ("hitrate.popularity_days=5", "hitrate.popularity_days: .*no baseline that learns from one"),
        ("hitrate.markov_span=5", "hitrate.markov_span: .*no baseline that learns from one"),
        ("preprocess.sampling.alpha=0.5", "preprocess.sampling: .*nothing reads it"),
        ("publish.absorb=true", "publish.absorb: nothing is learned from evaluation rows"),
    ],
)
def test_keys_that_only_a_log_has_are_refused(change: str, message: str):
    with pytest.raises(ValueError, match=message) as caught:
        configs.load(CONFIG, [change])
    assert "\n" not in str(caught.value)


def test_they_are_not_shown_either():
    shown = yaml.safe_load(configs.show(configs.load(CONFIG)))
    assert "holdout" not in shown
    assert set(shown["preprocess"]) == {"window_days", "sampling"}
    assert set(shown["sampler"]) == {"kind", "num_negatives"}
    # A log's config has them.
    assert "holdout" in yaml.safe_load(configs.show(configs.load(CONFIG.with_name("demo.yaml"))))


def test_its_tables_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    loaded = configs.load(CONFIG, ["data.source={train: 't/ds={day}', evaluation: e.parquet, items: i.parquet}"])
    assert isinstance(loaded, RunConfig)
    with pytest.raises(ValueError, match="t: no folder; it holds a folder ds=YYYY-MM-DD"):
        preflight.check_data(loaded, None)
    for path in ("t/ds=2024-01-02/part.parquet", "e.parquet", "i.parquet"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"item_id": [1]}), tmp_path / path)
    preflight.check_data(loaded, None)
    preflight.check_data(loaded, datetime.date(2024, 1, 2))
    with pytest.raises(ValueError, match="has no partition of 2024-01-03"):
        preflight.check_data(loaded, datetime.date(2024, 1, 3))
    whole = configs.load(
        CONFIG, ["data.source={train: t/ds=2024-01-02, evaluation: e.parquet, items: i.parquet}", "data.day=2024-01-02"]
    )
    # `--day` says of which day the rows are.
    preflight.check_data(whole, datetime.date(2024, 1, 9))
