"""Profiles of small tables by hand, of large ones against numpy and polars, and what is refused."""

import datetime
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys_core import profile
from recsys_core.profile import ColumnProfile, plot, tags, values
from recsys_core.profile.columns import Column
from recsys_core.progress import Event, silent


def of(array: pa.Array) -> ColumnProfile:
    column = Column(array.type)
    column.add(pa.chunked_array([array.slice(0, 2), array.slice(2)]))
    return column.profile(3)


def test_numbers_by_hand():
    found = of(pa.array([1.0, 4.0, None, float("nan"), float("inf"), -0.0, 1.0]))
    assert (found.rows, found.nulls, found.values, found.nans, found.infinities) == (7, 1, 4, 1, 1)
    assert (found.distinct, found.zeros, found.min, found.max) == (3, 1, 0.0, 4.0)
    assert (found.mean, found.std) == (1.5, 1.5)
    assert found.quantiles["0.5"] == 1.0
    assert found.top[0].model_dump() == {"value": 1.0, "count": 2, "share": 0.5}
    assert sum(found.histogram.counts) == 4


def test_texts_lists_times_and_the_rest():
    texts = of(pa.array(["b", "äöü", None, "b"]))
    assert (texts.distinct, texts.min, texts.max, texts.lengths.max) == (2, "b", "äöü", 3)
    assert [(top.value, top.count) for top in texts.top] == [("b", 2), ("äöü", 1)]
    lists = of(pa.array([[[1, 2], [3]], None, [], [[None, 3]]]))
    assert (lists.nulls, lists.values, lists.distinct, lists.lengths.max, lists.lengths.mean) == (1, 4, 3, 2, 1.0)
    day = datetime.date(2024, 2, 29)
    times = of(pa.array([day, None]))
    assert (times.min, times.max, times.mean, times.zeros) == ("2024-02-29", "2024-02-29", None, None)
    assert of(pa.array([True, False, True])).top[0].value is True
    assert of(pa.array(["x", "y", "x"]).dictionary_encode()).distinct == 2
    assert of(pa.array([b"\xff"])).top[0].value == "\\xff"
    assert of(pa.array([None, None])).distinct is None
    assert of(pa.array([{"a": 1}])).values == 0
    assert of(pa.array([], pa.int64())).distinct == of(pa.array([], pa.string())).distinct == 0
    assert of(pa.array(["x"], pa.string_view())).distinct == 1
    assert of(pa.array([2**63 + 5], pa.uint64())).max == 2**63 + 5
    assert of(pa.array([1e308, -1e308])).std is None
    assert of(pa.array([1.5], pa.float16())).max == 1.5
    assert of(pa.array([datetime.time(3, 4)], pa.time32("s"))).max == "03:04:00"


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two partitions of a table whose columns outgrow the exact counts."""
    folder = tmp_path_factory.mktemp("large") / "interactions"
    rng = np.random.default_rng(0)
    for day in (1, 2):
        num_rows = 150_000
        table = pa.table(
            {
                "user_id": rng.integers(0, 200_000, num_rows),
                "name": pa.array(np.minimum(rng.zipf(1.3, num_rows), 10**6)).cast(pa.string()),
                "price": rng.lognormal(size=num_rows),
                "label": rng.integers(0, 2, num_rows),
            }
        )
        path = folder / f"ds=2024-01-0{day}" / "part.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(table, path, row_group_size=40_000)
    return folder


def test_a_large_table_against_polars(large: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(values, "EXACT_VALUES", 5_000)
    events: list[Event] = []
    found = profile.run(str(large), events.append)
    exact = pl.read_parquet(large / "**" / "*.parquet")
    assert (found.rows, found.files) == (300_000, 2)
    assert found.partitions == {"ds": {"2024-01-01": 150_000, "2024-01-02": 150_000}}
    assert found.bytes == sum(path.stat().st_size for path in large.rglob("*.parquet"))
    for name in ("user_id", "name", "price"):
        column, truth = found.columns[name], exact[name]
        assert column.distinct_error > 0
        assert column.distinct == pytest.approx(truth.n_unique(), rel=4 * column.distinct_error)
    price = found.columns["price"]
    assert price.mean == pytest.approx(exact["price"].mean())
    assert price.std == pytest.approx(exact["price"].std(ddof=0))
    assert (price.min, price.max) == (exact["price"].min(), exact["price"].max())
    for level, value in price.quantiles.items():
        rank = (exact["price"] <= value).sum() / 300_000
        assert abs(rank - float(level)) <= price.quantile_error + 1e-3
    counts = dict(exact["name"].value_counts().iter_rows())
    for top in found.columns["name"].top[:5]:
        assert counts[top.value] - found.columns["name"].top_error <= top.count <= counts[top.value]
    assert found.columns["name"].top[0].value == "1"
    assert found.columns["label"].tags == ("label",)
    assert (events[-1].done, events[-1].message[:4]) == (300_000, "done")
    assert events[0].metrics["rows_per_second"] > 0


def test_a_sample_and_some_columns(large: Path):
    found = profile.run(str(large), silent, columns=["price", "price"], sample_rows=5_000)
    assert list(found.columns) == ["price"]
    assert (found.rows, found.sampled_rows, found.columns["price"].rows) == (300_000, 5_000, 5_000)
    assert found.columns["price"].mean == pytest.approx(np.exp(0.5), rel=0.15)


def test_pictures(large: Path, tmp_path: Path):
    nested = pa.table(
        {"a": [[1], None], "n": pa.nulls(2), "t": [datetime.date(2024, 1, 1)] * 2, "x": ["$<b>", "é"], "y": [1, 5]}
    )
    pq.write_table(nested, tmp_path / "small.parquet")
    found = profile.run(str(tmp_path / "small.parquet"), silent)
    plot.save(found, tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    plot.save(found, tmp_path / "p.html")
    assert "data:image/png;base64," in (tmp_path / "p.html").read_text()
    with pytest.raises(ValueError, match=r"p\.svg: a plot is written as \.png or \.html"):
        plot.save(found, tmp_path / "p.svg")


@pytest.mark.parametrize(
    ("one", "other", "kind"),
    [
        (pa.nulls(2), pa.array([["a"], ["b"]]), "list<element: string>"),
        (pa.array([1, 2], pa.int16()), pa.array([3, 4]), "int64"),
        (pa.array(["a", "b"]).dictionary_encode(), pa.array(["c", "d"], pa.string_view()), "string"),
        (pa.array([[1, 2]] * 2, pa.large_list(pa.int32())), pa.array([[3]] * 2), "list<item: int64>"),
    ],
    ids=str,
)
def test_files_may_hold_a_column_in_several_types(tmp_path: Path, one: pa.Array, other: pa.Array, kind: str):
    for name, column in (("a", one), ("b", other)):
        pq.write_table(pa.table({"x": column}), tmp_path / f"{name}.parquet")
    found = profile.run(str(tmp_path), silent, num_top=3).columns["x"]
    expected = of(pa.array([*one.to_pylist(), *other.to_pylist()]))
    assert (found.type, found.rows, found.nulls) == (kind, 4, one.null_count)
    assert (found.values, found.distinct, found.top) == (expected.values, expected.distinct, expected.top)


def test_times_that_no_calendar_has_are_shown_as_the_numbers_that_they_are():
    found = of(pa.array([5, 2**60], pa.timestamp("us")))
    assert (found.min, found.max) == ("1970-01-01 00:00:00.000005", f"{2**60} (timestamp[us])")
    assert of(pa.array([2**31 - 1], pa.int32()).cast(pa.date32())).max == "2147483647 (date32[day])"


def test_what_is_refused(tmp_path: Path):
    one, two = tmp_path / "a.parquet", tmp_path / "b.parquet"
    pq.write_table(pa.table({"x": [1], "y": ["a"]}), one)
    pq.write_table(pa.table({"x": [1.5], "z": ["a"]}), two)
    with pytest.raises(ValueError, match=r"b\.parquet: its columns differ from those of .*a\.parquet: 'x' is dou"):
        profile.run(str(tmp_path), silent)
    with pytest.raises(ValueError, match="no column 'xx', only x, y; did you mean 'x'"):
        profile.run(str(one), silent, columns=["xx"])
    two.write_bytes(one.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"b\.parquet: not a readable Parquet file"):
        profile.run(str(two), silent)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty: a directory without any"):
        profile.run(str(tmp_path / "empty"), silent)


@pytest.mark.parametrize(
    ("name", "array", "table", "expected"),
    [
        ("user_id", [1, 2], "", ("user", "id")),
        ("movieId", [1, 2], "", ("item", "id")),
        ("item_category", [1, 2], "", ("item",)),
        ("age", [1, 2], "users", ("user",)),
        ("price", [1.0, 2.0], "items", ("item",)),
        ("clicked_items", [[1], [2]], "", ("item", "sequence")),
        ("click", [0, 1], "", ("label",)),
        ("weight", [0.5, 1.0], "", ("weight",)),
        ("request_id", ["a", "b"], "", ("id",)),
        ("request_id", ["a", "a"], "", ("context",)),
        ("hour", [1, 2], "", ("context",)),
    ],
)
def test_tags_have_reasons(name: str, array: list, table: str, expected: tuple[str, ...]):
    suggestion = tags.suggest(name, of(pa.array(array)), table)
    assert suggestion.tags == expected
    assert suggestion.reason


def test_tables_are_called_by_their_folder():
    assert profile.table_name("data/shop/users") == "users"
    assert profile.table_name("data/shop/users/ds=2024-01-01/*.parquet") == "users"
    assert profile.table_name("logs/day-1.csv.gz") == "day_1"
    assert profile.table_name("*") == "table"
