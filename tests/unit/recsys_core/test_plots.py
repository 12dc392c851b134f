"""The pictures say what they show: titles, labelled axes, one line per series, the series' numbers."""

import datetime

import pytest
from matplotlib.figure import Figure

from recsys_core import plots
from recsys_core.artifacts import Difference, RetrievalSlice

DAY = datetime.date(2024, 3, 1)


@pytest.fixture(scope="module")
def made(made_day, tmp_path_factory):
    return made_day(tmp_path_factory.mktemp("run"), DAY, 3)


def _texts(figure: Figure) -> list[str]:
    figure.canvas.draw()
    axes = figure.axes[0]
    legend = axes.get_legend()
    return [text.get_text() for text in legend.get_texts()] if legend else []


def _labelled(figure: Figure) -> bool:
    return all(axes.get_ylabel() for axes in figure.axes) and bool(figure.axes[0].get_xlabel())


def test_loss_curve_has_loss_and_speed(made):
    figure = plots.loss_curve(made["checkpoint"], "sampled softmax")
    assert _texts(figure) == ["loss", "examples/s (right)"]
    assert _labelled(figure)
    assert "random weights" in figure.axes[0].get_title(loc="left")
    assert figure.axes[0].get_lines()[0].get_ydata()[0] > figure.axes[0].get_lines()[0].get_ydata()[-1]
    warm = made["checkpoint"].model_copy(update={"warm_started_from": "d" * 32})
    assert "the last release" in plots.loss_curve(warm, "sampled softmax").axes[0].get_title(loc="left")


def test_hit_rate_by_k_has_a_line_for_everyone_measured(made):
    figure = plots.hit_rate_by_k(made["evaluation"])
    assert len(_texts(figure)) == 5
    assert _labelled(figure)
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["20", "50", "200"]
    exact = figure.axes[0].get_lines()[0].get_ydata()
    assert list(exact) == [made["evaluation"].exact.hit_rate[k] for k in ("20", "50", "200")]
    alone = made["evaluation"].model_copy(update={"champion": None})
    assert len(_texts(plots.hit_rate_by_k(alone))) == 4


def test_hit_rate_by_popularity_has_a_bar_per_bucket(made):
    figure = plots.hit_rate_by_popularity(made["evaluation"])
    assert [bar.get_height() for bar in figure.axes[0].patches] == [0.4, 0.2, 0.1]
    assert _labelled(figure)


def test_ann_recall_is_in_order_of_the_parameter(made):
    figure = plots.ann_recall(made["evaluation"], "nprobe")
    assert _texts(figure) == ["K = 20", "K = 50", "K = 200"]
    assert _labelled(figure)
    assert list(figure.axes[0].get_lines()[0].get_xdata()) == [1, 2, 4, 8, 16, 32, 64]


def test_ann_recall_of_an_index_without_a_parameter_is_empty(made):
    figure = plots.ann_recall(made["evaluation"].model_copy(update={"ann_recall_by_nprobe": {}}), "nprobe")
    assert len(_texts(figure)) == 3


def test_differences_have_a_row_per_metric_and_slice(made):
    evaluation = made["evaluation"]
    part = RetrievalSlice(
        num_queries=9,
        num_ground_truth=9,
        exact=evaluation.exact,
        champion=evaluation.champion,
        differences={"hit_rate@50": Difference(value=0.01, low=None, high=None)},
    )
    figure = plots.differences(evaluation.model_copy(update={"slices": {"new_users": part}}), "hit_rate@50")
    figure.canvas.draw()
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["hit_rate@20", "hit_rate@50", "hit_rate@200", "hit_rate@50 of new_users"]
    assert _labelled(figure)
    points = [line for line in figure.axes[0].get_lines() if line.get_marker() == "D"]
    ahead, base = evaluation.differences["hit_rate@50"].value, evaluation.champion.hit_rate["50"]
    assert points[1].get_xdata()[0] == pytest.approx(100 * ahead / base)
    assert [point.get_markerfacecolor() == "white" for point in points] == [False, False, False, True]
    intervals = [line.get_xdata() for line in figure.axes[0].get_lines() if len(line.get_xdata()) == 2][:3]
    assert intervals[1][1] - intervals[1][0] == pytest.approx(100 * 0.01 / base)
