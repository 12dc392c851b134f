"""Configs of ranking models that are retrained daily: what they have beside those on splits, and what they lack."""

from pathlib import Path

import pytest
import yaml

from recsys_core import config as configs
from recsys_core.artifacts import NextDay, Rows, Tail
from recsys_core.config import RankingConfig

SECTIONS = {
    "name": "daily",
    "data": {"kind": "labelled_days", "source": "log"},
    "ranking": {},
    "features": {
        "embedding_dim": 4,
        "query": [{"kind": "id", "name": "user", "num_embeddings": 16}],
        "item": [{"kind": "id", "name": "item", "num_embeddings": 16}],
    },
    "model": {"kind": "multi_tower", "hidden": [8]},
}
SPLITS = {"kind": "splits", "source": "log", "day": "2024-01-01"}


def load(folder: Path, *overrides: str, **sections: object) -> RankingConfig:
    file = folder / "daily.yaml"
    file.write_text(yaml.safe_dump(SECTIONS | sections))
    loaded = configs.load(file, overrides)
    assert isinstance(loaded, RankingConfig)
    return loaded


def test_it_is_shown_and_read_back_with_its_own_sections(tmp_path: Path) -> None:
    tail = "holdout={kind: tail, hours: 2.5}"
    loaded = load(tmp_path, tail, "data.time_column=at", "prepare.window_days=3", "train.on_change=refuse")
    assert loaded.is_daily
    assert loaded.holdout == Tail(hours=2.5)
    shown = tmp_path / "shown.yaml"
    shown.write_text(configs.show(loaded))
    assert configs.load(shown) == loaded
    assert load(tmp_path).holdout == NextDay()
    by_user = load(tmp_path, "holdout={kind: rows, share: 0.1, by: user}")
    assert by_user.holdout == Rows(share=0.1, by="user")
    assert by_user.hash != load(tmp_path).hash != loaded.hash


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("train.evaluate_every_epochs=1", "train.evaluate_every_epochs: a ranking model that is retrained daily is"),
        (
            "train.keep_best=2",
            "train.keep_best: a ranking model that is retrained daily is measured after its training",
        ),
        ("evaluate.split=test", "evaluate.split: a ranking model that is retrained daily is measured after"),
        ("use_step=3", "use_step: a ranking model that is retrained daily is measured after its training"),
        ("predict.source=log", "predict.source: a ranking model that is retrained daily scores the rows that it is"),
        ("data.day=2024-01-01", "data.day: unknown key"),
        ("holdout={kind: tail, hours: 3}", "holdout: a tail is of the day's newest hours, so each row needs a time"),
        ("holdout={kind: tail, hours: 24}", "holdout.hours: input should be less than 24, found 24"),
        ("holdout={kind: rows, share: 1, by: user}", "holdout.share: input should be less than 1, found 1"),
        ("holdout={kind: next_week}", "holdout"),
        ("holdout={kind: leave_one_out}", "holdout"),
        ("data.source=s3://bucket/log", "write {day} where the day stands"),
        ("data.source=odps://p/tables/t", "name the partition that is the day's at its end"),
        ("data.source=odps://p/tables/t/ds={day}/hour=1", "name the partition that is the day's at its end"),
        ("data.source=log/{day}/ds={day}", "{day} stands there more than once"),
        ("data.source=log/*/ds={day}", "before {day} no wildcard or comma can stand"),
    ],
)
def test_what_a_daily_config_cannot_have_is_refused_by_its_key(tmp_path: Path, change: str, message: str) -> None:
    with pytest.raises(ValueError, match=r".") as refused:
        load(tmp_path, change)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("holdout.kind=next_day", "holdout: only a ranking model that is retrained daily (data.kind: labelled_days)"),
        ("contract.num_days=1", "contract: only a ranking model that is retrained daily (data.kind: labelled_days)"),
        ("prepare.window_days=1", "prepare: only a ranking model that is retrained daily (data.kind: labelled_days)"),
        ("gate.minimum=0.6", "gate: only a ranking model that is retrained daily (data.kind: labelled_days)"),
        ("ranking.item=item", "ranking.item: only the gate of a ranking model that is retrained daily"),
        ("train.warm_start=false", "train.warm_start: a ranking model on splits is trained from random weights each"),
        ("train.on_change=cold", "train.on_change: a ranking model on splits is trained from random weights each time"),
    ],
)
def test_one_on_splits_has_none_of_the_daily_keys(tmp_path: Path, change: str, message: str) -> None:
    with pytest.raises(ValueError, match=r".") as refused:
        load(tmp_path, change, data=SPLITS)
    assert message in str(refused.value)
    shown = yaml.safe_load(configs.show(load(tmp_path, data=SPLITS)))
    assert not {"holdout", "contract", "prepare", "gate"} & set(shown)
    assert "warm_start" not in shown["train"]


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (
            "gate.metric=shop.brier",
            "gate.metric: shop.brier is not measured; add {kind: shop.brier} to evaluate.metrics",
        ),
        ("gate.metric=gauc", "gate.metric: gauc needs to know rows' groups; name their column in ranking.group"),
        (
            "gate.baseline=item_rate",
            "gate.baseline: item_rate needs to know rows' items; name their column in ranking.item",
        ),
        (
            "gate.slices.new_users={}",
            "gate.slices.new_users needs to know rows' groups; name their column in ranking.g",
        ),
        (
            "gate.slices.cold_items={}",
            "gate.slices.cold_items needs to know rows' items; name their column in ranking.i",
        ),
    ],
)
def test_a_gate_knows_what_it_needs_of_the_rows(own_package: Path, tmp_path: Path, change: str, key: str) -> None:
    with pytest.raises(ValueError, match=r".") as refused:
        load(tmp_path, change)
    assert key in str(refused.value)
    load(tmp_path, change, "ranking.group=user", "ranking.item=item", "evaluate.metrics=[{kind: shop.brier}]")


def test_a_retrieval_config_holds_out_by_user_only() -> None:
    demo = Path(__file__).parents[4] / "configs" / "demo.yaml"
    assert configs.load(demo, ["holdout={kind: tail, hours: 3}"]).holdout == Tail(hours=3)
    assert configs.load(demo, ["holdout={kind: rows, share: 0.1, by: user_id}"]).holdout == Rows(
        share=0.1, by="user_id"
    )
    with pytest.raises(
        ValueError, match=r"holdout\.by: item_id, and what a user took later is no past .*; hold out by us"
    ):
        configs.load(demo, ["holdout={kind: rows, share: 0.1, by: item_id}"])


def test_a_gate_decides_by_a_task_that_there_is(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"gate\.task: 'sale' is no task \(ranking has one label\)"):
        load(tmp_path, "gate.task=sale")
    both = ("ranking.tasks={click: {label: label}, sale: {label: sold, given: click}}",)
    both += ("model={kind: shared_bottom, tasks: {click: {}, sale: {}}}",)
    with pytest.raises(ValueError, match=r"'sales' is no task \(ranking\.tasks has click, sale\); name one of them"):
        load(tmp_path, *both, "gate.task=sales")
    load(tmp_path, *both, "gate.task=sale")
