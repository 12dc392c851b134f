"""What tasks learn from and how much they count: spaces and weights of rows by task, and weights that are learned."""

import datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pydantic import ValidationError

from recsys_core import distributed
from recsys_core.artifacts import LabelledData
from recsys_core.config import RankingConfig, building
from recsys_core.datasets.labelled import splits
from recsys_core.features import Config as Features
from recsys_core.losses import binary_cross_entropy
from recsys_core.models import shared_bottom
from recsys_core.progress import silent
from recsys_core.ranking import Config, measure, past, prepare, train
from recsys_core.ranking.feed import labelled
from recsys_core.ranking.objective import Ranking, learned
from recsys_core.training.config import Config as Train

DAY = datetime.date(2024, 1, 1)
COMMON = {"config_hash": "c" * 32, "code_version": "tests"}
CLICK, SALE = {"label": "clicked"}, {"label": "bought", "given": "click"}
FEATURES = {
    "embedding_dim": 4,
    "query": [{"kind": "id", "name": "user", "num_embeddings": 16}],
    "item": [{"kind": "id", "name": "item", "num_embeddings": 16}],
}
MODEL = shared_bottom.Config.model_validate({"hidden": [8], "tasks": {"click": {}, "sale": {}}})
TABLE = pa.table(
    {
        "clicked": [1, 1, 0, 0],
        "bought": [1, 0, None, 1],
        "w": [1.0, 2.0, 3.0, 4.0],
        "v": [0.5, 0.0, 2.0, 1.0],
        "user": [1, 2, 3, 4],
        "item": [1, 2, 3, 4],
    }
)


def _config(click=CLICK, sale=SALE, **section):
    return Config.model_validate({"tasks": {"click": click, "sale": sale}, **section})


def _p(logit):
    return 1 / (1 + np.exp(-np.asarray(logit, dtype=np.float64)))


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"click": CLICK | {"space": "all"}}, r"tasks\.click\.space: all, and given is null; name a task there"),
        ({"sale": SALE | {"weight": 2}, "task_weights": "uncertainty"}, r"tasks\.sale\.weight: 2\.0, and task_weights"),
    ],
)
def test_sections_that_contradict_are_refused(section, message):
    with pytest.raises(ValidationError, match=message):
        _config(**section)


def test_one_label_has_no_weights_of_tasks():
    with pytest.raises(ValidationError, match="task_weights: uncertainty, and there is one label"):
        Config.model_validate({"task_weights": "uncertainty"})


def test_over_all_rows_the_logit_is_that_of_the_product_of_probabilities():
    refund = {"label": "back", "given": "sale", "space": "all"}
    config = Config.model_validate({"tasks": {"click": CLICK, "sale": SALE, "refund": refund}})
    logits = {name: torch.randn(6) * 3 for name in config.tasks}
    assert learned(config, "sale", logits) is logits["sale"]
    expected = _p(logits["click"]) * _p(logits["sale"]) * _p(logits["refund"])
    np.testing.assert_allclose(_p(learned(config, "refund", logits)), expected, rtol=1e-5)
    # However sure both are, the gradient is finite, and goes to both.
    extreme = {name: torch.tensor([200.0, -200.0, 0.0], requires_grad=True) for name in config.tasks}
    learned(config, "refund", extreme).sum().backward()
    assert all(torch.isfinite(logit.grad).all() and logit.grad[1] for logit in extreme.values())


def test_over_all_rows_a_label_is_negative_where_what_it_is_given_did_not_happen():
    labels, weights = labelled(TABLE, _config(sale=SALE | {"space": "all"}))
    assert (labels["sale"].tolist(), weights["sale"]) == ([1, 0, 0, 0], None)
    _, weights = labelled(TABLE, _config(sale=SALE | {"space": "all"}, sample_weight="w"))
    assert weights["sale"].tolist() == [1, 2, 3, 4]


def test_a_task_has_weights_of_rows_of_its_own():
    config = _config(sale=SALE | {"sample_weight": "v"}, sample_weight="w")
    assert config.weight_columns == {"v": "ranking.tasks.sale.sample_weight", "w": "ranking.sample_weight"}
    _, weights = labelled(TABLE, config)
    assert (weights["click"].tolist(), weights["sale"].tolist()) == ([1, 2, 3, 4], [0.5, 0, 0, 0])
    assert [past.weights_of(TABLE, config, task).tolist() for task in config.tasks] == [[1, 2, 3, 4], [0.5, 0, 2, 1]]
    assert measure.columns(config, {}) == ("clicked", "bought", "v", "w")
    scored = TABLE.append_column("score_click", pa.array([2.0, 0, 1, 1])).append_column(
        "score_sale", pa.array([1.0] * 4)
    )
    by_task = dict(measure._by_task(scored, None, config))
    # Clicks above the rows without: weight 1 over 3 and 4, and 2 over none.
    assert by_task["click"].metrics().auc == pytest.approx(1 * 7 / (3 * 7))
    assert by_task["sale"].weights.tolist() == [0.5, 0]


def _prepared(root, output, ranking) -> LabelledData:
    asked = prepare.Request(
        output=output,
        config=ranking,
        data=splits.Config(source=str(root), day=DAY),
        features=Features.model_validate(FEATURES),
        import_root=root,
        fingerprint="f",
        **COMMON,
    )
    return prepare.run(asked, silent)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Rows of which half are clicked; the sale's weights are there, and one of them is none."""
    root, rng = tmp_path_factory.mktemp("labelled"), np.random.default_rng(0)
    (root / "train").mkdir()
    user, item = rng.integers(0, 8, 400), rng.integers(0, 8, 400)
    columns = {"clicked": (user % 2 == item % 2).astype(np.int8), "bought": (item > 3).astype(np.int8)}
    columns |= {"user": user, "item": item, "v": np.where(np.arange(400) == 7, -1.0, 1.0)}
    pq.write_table(pa.table(columns), root / "train" / "part-0.parquet")
    return root


def test_a_task_s_weights_are_looked_at_before_training(root, tmp_path):
    with pytest.raises(ValueError, match=r"column 'v' holds -1.0 in row 7 .*ranking\.tasks\.sale\.sample_weight"):
        _prepared(root, tmp_path / "p", _config(sale=SALE | {"sample_weight": "v"}))
    with pytest.raises(ValueError, match=r"no column 'u', which ranking\.tasks\.sale\.sample_weight names"):
        _prepared(root, tmp_path / "p", _config(sale=SALE | {"sample_weight": "u"}))


class _Batch:
    sparse, dense_BF, numbers, global_rows, groups_B = None, None, (), 4, None

    def __init__(self, config):
        self.labels, self.weights = labelled(TABLE, config)


LOGITS = torch.tensor([[np.log(3), 0.0], [0.0, np.log(3)], [0.0, 0.0], [np.log(3), 0.0]], dtype=torch.float32)


def _objective(config, data):
    return Ranking(config, MODEL, binary_cross_entropy.Config(), data, batch_size=50, seed=1)


def test_a_loss_over_all_rows_by_hand(root, tmp_path):
    config = _config(sale=SALE | {"space": "all"})
    made = _objective(config, _prepared(root, tmp_path / "p", config))
    with distributed.world("cpu") as world:
        found = made.loss(lambda *_: LOGITS, _Batch(config), world)
        figures = made.figures(world)
    # Of a click and a sale: 3/4 · 1/2, 1/2 · 3/4, 1/2 · 1/2, 3/4 · 1/2; it happened in the first row alone.
    expected = -np.log(3 / 8) - np.log(5 / 8) - np.log(3 / 4) - np.log(5 / 8)
    assert found["sale"].item() == pytest.approx(expected)
    # The one sale scores below the other click; over all rows it would be above one, and equal to two.
    assert figures["auc_sale"] == 0.0


def test_losses_over_variances_by_hand(root, tmp_path):
    config = _config(task_weights="uncertainty")
    made = _objective(config, _prepared(root, tmp_path / "p", config))
    plain = _objective(_config(), _prepared(root, tmp_path / "p", config))
    weight = made.model.log_variances
    weight.data = torch.tensor([0.0, np.log(2)])
    with distributed.world("cpu") as world:
        found, before = (one.loss(lambda *_: LOGITS, _Batch(config), world) for one in (made, plain))
        figures = made.figures(world)
    assert found["click"].item() == pytest.approx(before["click"].item())
    assert found["sale"].item() == pytest.approx(before["sale"].item() / 2 + 4 * np.log(2) / 2)
    assert figures["task_weight_sale"] == pytest.approx(0.5)
    # With the loss L of a row the best variance is 2 L.
    sum(found.values()).backward()
    assert float(weight.grad[1]) == pytest.approx(4 / 2 - before["sale"].item() / 2)
    layout = made.layout(made.engine)
    assert [block.label for block in layout["log_variances"].axes[0]] == ["click", "sale"]


def test_variances_are_trained_and_kept_with_the_model(root, tmp_path):
    config = _config(task_weights="uncertainty")
    data = _prepared(root, tmp_path / "p", config)
    asked = train.Request(
        output=tmp_path / "train",
        config=Train.model_validate(
            {"batch_size": 50, "num_epochs": 4, "log_every_steps": 1, "sharding": {"device": "cpu"}}
        ),
        ranking=config,
        model=MODEL,
        loss=binary_cross_entropy.Config(),
        num_ranks=1,
        seed=1,
        day=DAY,
        data=data,
        **COMMON,
    )
    events = []
    made = train.run(asked, events.append)
    changes = {"output": tmp_path / "next", "base": made, "base_engine": data.engine}
    continued = train.run(asked.model_copy(update=changes), events.append)
    shares = [event.metrics["task_weight_sale"] for event in events if "task_weight_sale" in event.metrics]
    assert (made.num_steps, continued.num_steps, len(shares)) == (32, 8, 40)
    assert abs(shares[31] - 1) > 0.02
    assert shares[32] == pytest.approx(shares[31], abs=0.002)


def test_esmm_learns_over_all_rows():
    sections = {
        "name": "m",
        "data": {"kind": "splits", "source": "d", "day": "2024-01-01"},
        "features": FEATURES,
        "model": {"kind": "esmm", "tasks": {"click": {}, "sale": {}}},
    }
    ranking = {"tasks": {"click": CLICK, "sale": SALE | {"space": "all"}}}
    building.check(RankingConfig.model_validate(sections | {"ranking": ranking}))
    ranking["tasks"]["sale"] = SALE
    with pytest.raises(ValueError, match="model.kind esmm: no task learns over all rows; set `space: all` in"):
        building.check(RankingConfig.model_validate(sections | {"ranking": ranking}))
