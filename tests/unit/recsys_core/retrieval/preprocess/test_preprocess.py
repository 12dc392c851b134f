"""Preprocess: by hand, against a slow oracle that knows no vectors, and what it refuses."""

import datetime
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_core import holdout
from recsys_core.artifacts import Dataset, DayCount, Holdout, Learned, NextDay, Tail, TrainingData
from recsys_core.artifacts import Rows as ByKey
from recsys_core.features import Config as Features
from recsys_core.features import Engine
from recsys_core.gate import Values
from recsys_core.progress import Event, silent
from recsys_core.retrieval import preprocess
from recsys_core.samplers import impressions

FIRST = datetime.date(2024, 1, 1)
MIDNIGHT = 1_704_067_200  # FIRST in Unix seconds
Rows = list[dict[str, Any]]

FEATURES: dict[str, Any] = {
    "embedding_dim": 4,
    "query": [
        {"kind": "sequence", "name": "history__item_id", "table": "item_id"},
        {"kind": "sequence", "name": "history__genres", "table": "genres"},
        {"kind": "sequence", "name": "bought_at", "column": "history__price", "table": "price"},
        {"kind": "id", "name": "user_id", "num_embeddings": 50},
        {"kind": "id", "name": "segment", "num_embeddings": 10},
    ],
    "item": [
        {"kind": "id", "name": "item_id", "num_embeddings": 50},
        {"kind": "id", "name": "genres", "num_embeddings": 10},
        {"kind": "id", "name": "price", "num_embeddings": 10},
        {"kind": "raw", "name": "num_interactions", "normalizer": "log1p"},
    ],
}
SCHEMAS = {
    "interactions": pa.schema({"user_id": pa.int64(), "item_id": pa.string(), "timestamp": pa.int64()}),
    "users": pa.schema({"user_id": pa.int64(), "segment": pa.string(), "nickname": pa.string()}),
    "items": pa.schema({"item_id": pa.string(), "genres": pa.list_(pa.string()), "price": pa.int64()}),
}


def day_at(number: int) -> datetime.date:
    return FIRST + datetime.timedelta(days=number)


def click(day: int, second: int, user: int, item: str) -> dict[str, Any]:
    return {"day": day, "user_id": user, "item_id": item, "timestamp": MIDNIGHT + day * 86_400 + second}


def user_row(day: int, user: int, segment: str | None) -> dict[str, Any]:
    return {"day": day, "user_id": user, "segment": segment, "nickname": f"n{user}"}


def item_row(day: int, item: str, genres: list[str] | None = None, price: int | None = None) -> dict[str, Any]:
    return {"day": day, "item_id": item, "genres": genres, "price": price}


def make_log(root: Path, interactions: Rows, users: Rows, items: Rows) -> Dataset:
    tables = {"interactions": interactions, "users": users, "items": items}
    last = max(row["day"] for rows in tables.values() for row in rows)
    days = []
    for number in range(last + 1):
        counts = {}
        for name, rows in tables.items():
            todays = [row for row in rows if row["day"] == number]
            if name == "interactions":
                todays.sort(key=lambda row: row["timestamp"])
            counts[f"num_{name}"] = len(todays)
            # Two files, because nothing says that a day is one.
            for part, chunk in enumerate((todays[: len(todays) // 2], todays[len(todays) // 2 :])):
                if chunk:
                    path = root / name / f"ds={day_at(number)}" / f"part-{part:05d}.parquet"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    pq.write_table(pa.Table.from_pylist(chunk, schema=SCHEMAS[name]), path)
        if any(counts.values()):
            days.append(DayCount(day=day_at(number), **counts))
    return Dataset(
        path=root,
        key="",
        digest="d",
        num_rows=len(interactions),
        config_hash="",
        code_version="",
        files=(),
        root=root,
        day=day_at(last - 1),
        days=tuple(days),
        columns={name: {f.name: str(f.type) for f in schema} for name, schema in SCHEMAS.items()},
    )


def make_request(dataset: Dataset, day: int, output: Path, **fields: Any) -> preprocess.Request:
    fields.setdefault("config", preprocess.Config())
    features = Features.model_validate(fields.pop("features", FEATURES))
    return preprocess.Request(
        output=output, config_hash="", code_version="", features=features, dataset=dataset, day=day_at(day), **fields
    )


def read(folder: Path) -> Rows:
    (path,) = folder.iterdir()
    return pq.ParquetFile(path).read().to_pylist()


@pytest.fixture
def small(tmp_path: Path) -> Dataset:
    clicks = [
        click(0, 10, 1, "a"),
        click(0, 20, 1, "b"),
        click(0, 20, 2, "a"),
        click(1, 5, 1, "c"),
        click(1, 5, 1, "a"),  # the same second: neither sees the other
        click(1, 9, 1, "b"),
        click(2, 1, 2, "d"),
        click(2, 2, 3, "a"),
        click(2, 3, 2, "a"),
        click(2, 4, 2, "d"),
    ]
    users = [user_row(0, 1, "x"), user_row(0, 2, "y"), user_row(1, 1, "z"), user_row(2, 2, "w"), user_row(2, 3, None)]
    items = [
        item_row(0, "a", ["g1", "g2"], 5),
        item_row(0, "b", None, 6),
        item_row(0, "unsold", ["g1"], None),
        item_row(1, "c", ["g3"], None),
        item_row(1, "b", [], 7),
        item_row(2, "d", ["g1"], 1),
        item_row(2, "a", ["late"], 9),
    ]
    return make_log(tmp_path / "log", clicks, users, items)


def test_by_hand(small: Dataset, tmp_path: Path) -> None:
    config = preprocess.Config.model_validate(
        {"history": {"max_length": 3}, "sampling": {"alpha": 0.5, "smoothing": 1}}
    )
    data = preprocess.run(make_request(small, 1, tmp_path / "out", config=config), silent)

    def example(user: int, item: str, seconds: int, segment: str, *history: str) -> dict[str, Any]:
        genres = {"a": ["g1", "g2"], "b": [], "c": ["g3"]}
        price = {"a": 5, "b": 7, "c": None}
        return {
            "user_id": user,
            "item_id": item,
            "timestamp": MIDNIGHT + seconds,
            "segment": segment,
            "history__item_id": list(history),
            "history__genres": [genre for i in history for genre in genres[i]],
            "history__price": [price[i] for i in history],
        }

    assert read(data.examples) == [
        example(1, "a", 10, "x"),
        example(1, "b", 20, "x", "a"),
        example(2, "a", 20, "y"),
        example(1, "c", 86_405, "z", "a", "b"),
        example(1, "a", 86_405, "z", "a", "b"),
        example(1, "b", 86_409, "z", "b", "c", "a"),
    ]
    assert read(data.items) == [
        {"item_id": "a", "genres": ["g1", "g2"], "price": 5, "num_interactions": 3, "sampling_weight": 3**0.5 + 1},
        {"item_id": "b", "genres": [], "price": 7, "num_interactions": 2, "sampling_weight": 2**0.5 + 1},
        {"item_id": "unsold", "genres": ["g1"], "price": None, "num_interactions": 0, "sampling_weight": 1.0},
        {"item_id": "c", "genres": ["g3"], "price": None, "num_interactions": 1, "sampling_weight": 2.0},
    ]
    new_user = {"user_id": 3, "segment": None, "history__item_id": [], "history__genres": [], "history__price": []}
    assert read(data.ground_truth) == [
        {
            "user_id": 2,
            "segment": "w",
            "history__item_id": ["a"],
            "history__genres": ["g1", "g2"],
            "history__price": [5],
            "gt_items": ["a", "d"],
            "seen_items": ["a"],
        },
        new_user | {"gt_items": ["a"], "seen_items": []},
    ]
    assert (data.num_rows, data.num_items, data.num_queries, data.num_ground_truth) == (6, 4, 2, 3)
    assert (data.first_day, data.day, data.ground_truth_day) == (day_at(0), day_at(1), day_at(2))


def test_a_sampler_s_own_weights_take_the_place_of_the_counted_ones(small: Dataset, tmp_path: Path) -> None:
    given = tmp_path / "weights.txt"
    given.write_text("id:string\tweight:float\nunsold\t4\nc\t3\nb\t2\na\t0.5\n")
    data = preprocess.run(make_request(small, 1, tmp_path / "out", weights=given, weights_digest="d"), silent)
    assert {row["item_id"]: row["sampling_weight"] for row in read(data.items)} == {
        "a": 0.5,
        "b": 2,
        "c": 3,
        "unsold": 4,
    }
    given.write_text("id:string\tweight:float\nunsold\t4\nc\t3\nb\t2\n")
    with pytest.raises(
        ValueError, match=r"weights\.txt: item 'a' of the item table has no row \(1 of 4 items like it\)"
    ):
        preprocess.run(make_request(small, 1, tmp_path / "other", weights=given, weights_digest="e"), silent)
    assert not (tmp_path / "other").exists()


def test_a_sampler_of_impressions_draws_what_was_shown_and_left(small: Dataset, tmp_path: Path) -> None:
    shown = {"item_id": ["a", "b", "b", "gone", "c"], "click": [0, 0, 0, 0, 1]}
    place = tmp_path / "shown" / f"ds={day_at(1)}"
    place.mkdir(parents=True)
    pq.write_table(pa.table(shown), place / "part.parquet")
    sampler = impressions.Config(source=str(place.parent), ratio=0.25)
    data = preprocess.run(make_request(small, 1, tmp_path / "out", shown=sampler, shown_digest="d"), silent)
    rows = read(data.items)
    weights = {row["item_id"]: row["num_interactions"] ** 0.75 + 1 for row in rows}
    counts = {"a": 1, "b": 2}
    for row in rows:
        item = row["item_id"]
        expected = 0.25 * counts.get(item, 0) / 3 + 0.75 * weights[item] / sum(weights.values())
        assert row["sampling_weight"] == pytest.approx(expected)
    with pytest.raises(ValueError, match=f"no impressions of {day_at(0)}"):
        preprocess.run(make_request(small, 0, tmp_path / "other", shown=sampler, shown_digest="e"), silent)


def test_others_leave_the_positive_out_wherever_it_occurs(small: Dataset, tmp_path: Path) -> None:
    config = preprocess.Config.model_validate({"history": {"mode": "others", "max_length": 2}})
    data = preprocess.run(make_request(small, 1, tmp_path / "out", config=config), silent)
    assert [(row["user_id"], row["item_id"], row["history__item_id"]) for row in read(data.examples)] == [
        (1, "a", ["c", "b"]),
        (1, "b", ["c", "a"]),
        (2, "a", []),
        (1, "c", ["a", "b"]),
        (1, "a", ["c", "b"]),
        (1, "b", ["c", "a"]),
    ]
    assert [row["history__item_id"] for row in read(data.ground_truth)] == [["a"], []]


def test_catalogue_of_all_adds_the_next_days_new_items_only(small: Dataset, tmp_path: Path) -> None:
    config = preprocess.Config(catalogue="all")
    data = preprocess.run(make_request(small, 1, tmp_path / "out", config=config), silent)
    items = {row["item_id"]: row for row in read(data.items)}
    assert list(items) == ["a", "b", "unsold", "c", "d"]
    assert (items["a"]["price"], items["d"]["num_interactions"], data.num_items) == (5, 0, 5)


def test_windows(small: Dataset, tmp_path: Path) -> None:
    config = preprocess.Config(window_days=1, popularity_days=1)
    data = preprocess.run(make_request(small, 1, tmp_path / "out", config=config), silent)
    assert [row["history__item_id"] for row in read(data.examples)] == [["a", "b"], ["a", "b"], ["a", "b", "c", "a"]]
    assert (data.first_day, data.num_rows) == (day_at(1), 3)
    assert [row["num_interactions"] for row in read(data.items)] == [1, 1, 0, 1]


def test_the_future_changes_the_ground_truth_and_nothing_else(small: Dataset, tmp_path: Path) -> None:
    clicks = [click(0, 10, 1, "a"), click(1, 20, 1, "b"), click(2, 3, 9, "new"), click(2, 4, 1, "b")]
    users = [user_row(0, 1, "x"), user_row(2, 1, "changed"), user_row(2, 9, "late")]
    items = [item_row(0, "a", ["g"], 1), item_row(0, "b", None, 2), item_row(2, "new"), item_row(2, "a", ["later"], 3)]
    full = preprocess.run(make_request(make_log(tmp_path / "1", clicks, users, items), 1, tmp_path / "out1"), silent)
    bare = make_log(tmp_path / "2", [*clicks[:2], click(2, 0, 1, "a")], users[:1], items[:2])
    other = preprocess.run(make_request(bare, 1, tmp_path / "out2"), silent)

    def digests(data: TrainingData) -> dict[str, str]:
        return {file.path: file.digest for file in data.files if not file.path.startswith("ground_truth")}

    assert digests(full) == digests(other)
    assert len(digests(full)) > 3
    assert full.digest != other.digest


def test_the_same_request_makes_the_same_bytes_and_reports_its_rows(small: Dataset, tmp_path: Path) -> None:
    events: list[Event] = []
    first = preprocess.run(make_request(small, 1, tmp_path / "1"), events.append)
    second = preprocess.run(make_request(small, 1, tmp_path / "2"), silent)
    assert (first.digest, first.key) == (second.digest, second.key)
    assert first == TrainingData.load(tmp_path / "1")
    assert [(event.done, event.total) for event in events] == [(6, 6), (6, 6)]
    assert events[-1].metrics["known/item_id"] == 4
    assert events[-1].metrics["known/history__item_id"] == 4


def test_a_warm_start_takes_the_days_since_the_base_and_keeps_its_rows(small: Dataset, tmp_path: Path) -> None:
    small = small.model_copy(
        update={"days": (*small.days, DayCount(day=day_at(3), num_interactions=1, num_users=0, num_items=0))}
    )
    path = small.root / "interactions" / f"ds={day_at(3)}" / "part-00000.parquet"
    path.parent.mkdir()
    pq.write_table(pa.Table.from_pylist([click(3, 0, 3, "d")], schema=SCHEMAS["interactions"]), path)
    base = preprocess.run(make_request(small, 0, tmp_path / "base"), silent)
    fields = continuing(base)
    data = preprocess.run(make_request(small, 2, tmp_path / "warm", **fields), silent)
    assert (data.first_day, data.num_rows) == (day_at(1), 7)
    assert base.learned == Learned(first_day=day_at(0), last_day=day_at(0))
    assert data.learned == Learned(first_day=day_at(0), last_day=day_at(2))
    assert read(data.examples)[-1]["history__item_id"] == ["a", "d", "a"]
    ids = pa.table({"item_id": ["a", "b", "unsold", "c", "d"], "genres": [None] * 5, "price": pa.nulls(5)})
    ids = ids.append_column("num_interactions", pa.array([0] * 5))
    encoded = [Engine.load(d.engine).transform(ids, "item").sparse["item_id"].values.tolist() for d in (base, data)]
    assert encoded == [[1, 2, 3, 0, 0], [1, 2, 3, 4, 5]]

    with pytest.raises(ValueError, match=r"digest .* wanted"):
        preprocess.run(make_request(small, 2, tmp_path / "x", **fields | {"base_engine_digest": "other"}), silent)
    with pytest.raises(ValueError, match="give all three or none"):
        make_request(small, 2, tmp_path / "x", base_learned=base.learned)
    with pytest.raises(ValueError, match="cannot be continued on 2024-01-01"):
        make_request(small, 0, tmp_path / "x", **continuing(data))
    with pytest.raises(ValueError, match="measured on 2024-01-02: its rows are not those of 2024-01-03"):
        make_request(small, 2, tmp_path / "x", **fields, measured=base)


def continuing(base: TrainingData) -> dict[str, Any]:
    return {
        "base_learned": base.learned,
        "base_engine": base.engine,
        "base_engine_digest": base.engine_digest,
    }


def test_absorbing_learns_from_the_measured_rows_and_the_next_day_has_none_left(small: Dataset, tmp_path: Path) -> None:
    """Over three days each row of the log is an example of exactly one training."""
    clicks = [click(3, 7, 1, "e"), click(3, 8, 3, "b")]
    days = (*small.days, DayCount(day=day_at(3), num_interactions=2, num_users=0, num_items=1))
    whole = small.model_copy(update={"days": days})
    for table, rows in (("interactions", clicks), ("items", [item_row(3, "e", ["g9"], 9)])):
        path = small.root / table / f"ds={day_at(3)}" / "part-00000.parquet"
        path.parent.mkdir()
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMAS[table]), path)

    def known(day: int) -> Dataset:
        """The log as the run of `day` has checked it: up to the day after."""
        return whole.model_copy(update={"days": tuple(count for count in days if count.day <= day_at(day + 1))})

    learned: list[tuple[Any, ...]] = []
    base: TrainingData | None = None
    for day in range(3):
        fields = continuing(base) if base else {}
        measured = preprocess.run(make_request(known(day), day, tmp_path / f"{day}", **fields), silent)
        assert measured.num_rows == (0 if base else 3)
        assert [measured.first_day, measured.day, measured.ground_truth_day] == [
            day_at(day),
            day_at(day),
            day_at(day + 1),
        ]
        if base:
            assert measured.engine_digest == base.engine_digest
            assert measured.learned == base.learned
            assert pq.read_schema(next(measured.examples.iterdir())).names[:3] == ["user_id", "item_id", "timestamp"]
        fields = continuing(measured) | {"measured": measured}
        base = preprocess.run(make_request(known(day), day + 1, tmp_path / f"{day}-absorbed", **fields), silent)
        assert base.learned == Learned(first_day=day_at(0), last_day=day_at(day + 1))
        assert read(base.ground_truth) == read(measured.ground_truth)
        for data in (measured, base):
            learned += [(row["timestamp"], row["user_id"], row["item_id"]) for row in read(data.examples)]
    assert base is not None
    log = [
        row for path in sorted(small.root.glob("interactions/*/*.parquet")) for row in pq.read_table(path).to_pylist()
    ]
    assert sorted(learned) == sorted((row["timestamp"], row["user_id"], row["item_id"]) for row in log)
    # What is released then knows the newest day's items, by their rows of before and new ones.
    assert [row["item_id"] for row in read(base.items)] == ["a", "b", "unsold", "c", "d", "e"]
    assert next(row for row in read(base.items) if row["item_id"] == "e")["num_interactions"] == 1
    (first,) = (row for row in read(base.examples) if row["user_id"] == 1)
    assert first["history__item_id"] == ["a", "b", "c", "a", "b"]
    items = pa.table({"item_id": ["a", "e"], "genres": [None] * 2, "price": pa.nulls(2), "num_interactions": [0, 0]})
    assert Engine.load(base.engine).transform(items, "item").sparse["item_id"].values.tolist() == [1, 6]


def test_what_the_live_release_reads_stays_though_the_features_of_now_do_not(small: Dataset, tmp_path: Path) -> None:
    features = {"embedding_dim": 4, "query": [], "item": [{"kind": "id", "name": "item_id", "num_embeddings": 9}]}
    columns = ("segment", "history__genres", "long_gone")
    data = preprocess.run(make_request(small, 1, tmp_path / "out", features=features, live_columns=columns), silent)
    assert {"segment", "history__genres"} <= read(data.ground_truth)[0].keys()
    assert "long_gone" not in read(data.ground_truth)[0]


def test_what_slices_are_told_apart_by_stays_though_no_feature_reads_it(small: Dataset, tmp_path: Path) -> None:
    features = {"embedding_dim": 4, "query": [], "item": [{"kind": "id", "name": "item_id", "num_embeddings": 9}]}

    def run(output: str, **columns: Values) -> TrainingData:
        request = make_request(small, 1, tmp_path / output, features=features, sliced_by=columns)
        return preprocess.run(request, silent)

    data = run("out", rich=Values("segment", "text"), cheap=Values("price", "number"))
    assert "segment" in read(data.ground_truth)[0]
    assert "price" in read(data.items)[0]
    with pytest.raises(ValueError, match=r"gate\.slices\.poor\.column: there is no column 'segmnt' .*'segment'\?"):
        run("missing", poor=Values("segmnt", "text"))
    for values in (Values("segment", "number"), Values("price", "boolean")):
        with pytest.raises(ValueError, match=rf"gate\.slices\.it\.value: a {values.kind}, and the column .* is "):
            run("missing", it=values)
    assert not (tmp_path / "missing").exists()


def test_the_base_engine_counts_by_its_digest_not_by_where_it_lies(small: Dataset, tmp_path: Path) -> None:
    def key(engine: str, digest: str) -> str:
        learned = Learned(first_day=day_at(0), last_day=day_at(0))
        fields = {"base_learned": learned, "base_engine": tmp_path / engine, "base_engine_digest": digest}
        return make_request(small, 1, tmp_path / "out", **fields).key

    assert key("here", "d") == key("there", "d")
    assert key("here", "d") != key("here", "e")


@pytest.mark.parametrize(
    ("side", "feature", "message"),
    [
        ("query", {"name": "segmnt"}, r"features.query: there is no column 'segmnt' .* did you mean 'segment'\?"),
        ("query", {"name": "history__genre"}, "did you mean 'history__genres'"),
        ("query", {"name": "answer", "column": "item_id"}, "column 'item_id' is part of the answer"),
        ("item", {"name": "num_interaction"}, "did you mean 'num_interactions'"),
    ],
)
def test_refuses_a_feature_without_its_column(
    small: Dataset, tmp_path: Path, side: str, feature: dict[str, str], message: str
) -> None:
    features = {"embedding_dim": 4, "query": [], "item": []} | {side: [{"kind": "id", "num_embeddings": 9, **feature}]}
    with pytest.raises(ValueError, match=message):
        preprocess.run(make_request(small, 1, tmp_path / "out", features=features), silent)
    assert not list(tmp_path.glob("*out*"))


def test_refuses_a_field_that_it_would_overwrite(small: Dataset, tmp_path: Path) -> None:
    columns = small.columns | {"items": small.columns["items"] | {"num_interactions": "int64"}}
    with pytest.raises(ValueError, match="'num_interactions', which preprocess computes"):
        preprocess.run(make_request(small.model_copy(update={"columns": columns}), 1, tmp_path / "out"), silent)


def test_refuses_a_day_that_cannot_be_measured(small: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"day 2024-01-03: no interactions on the day after it.* is 2024-01-02$"):
        preprocess.run(make_request(small, 2, tmp_path / "out"), silent)
    one_day = small.model_copy(update={"days": small.days[:1]})
    with pytest.raises(ValueError, match="no day that follows another"):
        preprocess.run(make_request(one_day, 0, tmp_path / "out"), silent)


def test_refuses_a_window_without_interactions(tmp_path: Path) -> None:
    clicks = [click(0, 1, 1, "a"), click(3, 1, 1, "a")]
    log = make_log(tmp_path / "log", clicks, [user_row(0, 1, "x")], [item_row(0, "a")])
    with pytest.raises(ValueError, match=r"learn from in the 2 days up to 2024-01-03; widen preprocess.window_days"):
        preprocess.run(make_request(log, 2, tmp_path / "out", config=preprocess.Config(window_days=2)), silent)
    late = make_log(tmp_path / "late", clicks[1:], [user_row(0, 1, "x")], [item_row(0, "a")])
    with pytest.raises(ValueError, match="to learn from up to 2024-01-03"):
        preprocess.run(make_request(late, 2, tmp_path / "out"), silent)


def test_refuses_a_log_that_contradicts_itself(tmp_path: Path) -> None:
    clicks, users, items = [click(0, 1, 1, "a"), click(1, 1, 1, "a")], [user_row(0, 1, "x")], [item_row(0, "a")]
    unknown_user = make_log(tmp_path / "1", [*clicks, click(0, 2, 7, "a")], users, items)
    with pytest.raises(ValueError, match="an interaction is with 7, which is not in the log's users"):
        preprocess.run(make_request(unknown_user, 0, tmp_path / "out"), silent)
    late_user = make_log(tmp_path / "2", clicks, [user_row(1, 1, "x")], items)
    with pytest.raises(ValueError, match="user 1 acts on 2024-01-01 and is in no users partition"):
        preprocess.run(make_request(late_user, 0, tmp_path / "out"), silent)
    no_users = late_user.model_copy(update={"root": tmp_path / "nowhere"})
    with pytest.raises(ValueError, match="nowhere: has no folder .users."):
        preprocess.run(make_request(no_users, 0, tmp_path / "out"), silent)


def test_whole_numbers_in_a_double_field_are_its_ids(small: Dataset, tmp_path: Path) -> None:
    made = preprocess.run(make_request(small, 1, tmp_path / "integers"), silent)
    files = sorted((small.root / "items").glob("*/*.parquet"))
    for path in files:
        items = pq.ParquetFile(path).read()
        pq.write_table(items.set_column(2, "price", items["price"].cast(pa.float64())), path)
    events: list[Event] = []
    again = preprocess.run(make_request(small, 1, tmp_path / "doubles"), events.append)
    messages = [event.message for event in events if event.message]
    assert messages == ["warning: items: price is double; its whole numbers are read as ids"]
    before, after = (Engine.load(one.engine).encoders["price"].state() for one in (made, again))
    assert before == after
    items = pq.ParquetFile(files[0]).read()
    last = pa.array([*[None] * (items.num_rows - 1), 1.5])
    pq.write_table(items.set_column(2, "price", last), files[0])
    with pytest.raises(
        ValueError, match=rf"{files[0].name}: column 'price', row {items.num_rows - 1}: id 1.5 is no whole"
    ):
        preprocess.run(make_request(small, 1, tmp_path / "fraction"), silent)
    assert not (tmp_path / "fraction").exists()


def test_names_the_file_that_is_damaged(small: Dataset, tmp_path: Path) -> None:
    path = small.root / "users" / "ds=2024-01-01" / "part-00000.parquet"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"part-00000.parquet: cannot be read as Parquet .* write the partition again"):
        preprocess.run(make_request(small, 1, tmp_path / "out"), silent)


@st.composite
def logs(draw: st.DrawFn) -> tuple[Rows, Rows, Rows]:
    """Few users, items and seconds, so that ties, repeats, changes and empty days are common; 4 days, the last acts."""
    days, some_users, some_items = st.integers(0, 3), st.integers(1, 3), st.sampled_from("abcd")
    clicks = draw(st.lists(st.builds(click, days, st.integers(0, 3), some_users, some_items), max_size=25))
    clicks += [click(day, 0, 1, "a") for day in (2, 3)]
    changes = st.one_of(st.none(), st.sampled_from("xyz"))
    users = [user_row(0, user, draw(changes)) for user in (3, 1, 2)]
    users += draw(st.lists(st.builds(user_row, days, some_users, changes), max_size=4))
    # Items that no past click needs are first known on the last day.
    past = {row["item_id"] for row in clicks if row["day"] < 3}
    genres = st.one_of(st.none(), st.lists(st.one_of(st.none(), st.sampled_from("gh")), max_size=2))
    prices = st.one_of(st.none(), st.integers(0, 9))
    items = [item_row(0 if item in past else 3, item, draw(genres), draw(prices)) for item in "abcd"]
    items += draw(st.lists(st.builds(item_row, st.integers(2, 3), st.sampled_from("ab"), genres, prices), max_size=4))
    return clicks, users, sorted(items, key=lambda row: row["day"])


def oracle(rows: tuple[Rows, Rows, Rows], config: preprocess.Config, first: int) -> tuple[Rows, Rows, Rows]:
    """What preprocess makes for day 2 by one question per row and no arrays."""
    clicks, users, items = rows
    clicks = sorted(clicks, key=lambda row: row["timestamp"])
    past, future = [r for r in clicks if r["day"] < 3], [r for r in clicks if r["day"] == 3]
    known = {row["item_id"]: row for row in items if row["day"] < 3}
    if config.catalogue == "all":
        known = {row["item_id"]: row for row in items if row["day"] == 3} | known
    length = config.history.max_length

    def query(user: int, day: int, history: list[str]) -> dict[str, Any]:
        fields = [row for d in range(day + 1) for row in users if row["day"] == d and row["user_id"] == user][-1]
        history = history[-length:]
        return {
            "user_id": user,
            "segment": fields["segment"],
            "history__item_id": history,
            "history__genres": [genre for item in history for genre in known[item]["genres"] or []],
            "history__price": [known[item]["price"] for item in history],
        }

    examples = []
    for row in past:
        own = [r for r in past if r["user_id"] == row["user_id"]]
        if config.history.mode == "before":
            history = [r["item_id"] for r in own if r["timestamp"] < row["timestamp"]]
        else:
            history = [r["item_id"] for r in own if r["item_id"] != row["item_id"]]
        example = query(row["user_id"], row["day"], history)
        if row["day"] >= first:
            examples.append(example | {"item_id": row["item_id"], "timestamp": row["timestamp"]})

    since = 0 if config.popularity_days is None else 3 - config.popularity_days
    counts = Counter(row["item_id"] for row in past if row["day"] >= since)
    weights = {item: counts[item] ** config.sampling.alpha + config.sampling.smoothing for item in known}
    table = [
        {key: value for key, value in row.items() if key != "day"}
        | {"num_interactions": counts[item], "sampling_weight": pytest.approx(weights[item])}
        for item, row in known.items()
    ]

    truths = []
    for user in {row["user_id"] for row in future}:
        own = [r["item_id"] for r in past if r["user_id"] == user]
        taken = {r["item_id"] for r in future if r["user_id"] == user}
        truths.append(query(user, 3, own) | {"gt_items": sorted(taken), "seen_items": sorted(set(own))})
    return examples, table, truths


@settings(max_examples=60, deadline=None)
@given(
    rows=logs(),
    mode=st.sampled_from(["before", "others"]),
    max_length=st.integers(1, 4),
    window_days=st.one_of(st.none(), st.integers(1, 3)),
    popularity_days=st.one_of(st.none(), st.integers(1, 3)),
    catalogue=st.sampled_from(["known", "all"]),
)
def test_agrees_with_a_slow_oracle(
    rows: tuple[Rows, Rows, Rows],
    mode: Any,
    max_length: int,
    window_days: int | None,
    popularity_days: int | None,
    catalogue: Any,
) -> None:
    config = preprocess.Config(
        window_days=window_days,
        popularity_days=popularity_days,
        history=preprocess.History(mode=mode, max_length=max_length),
        catalogue=catalogue,
    )
    with tempfile.TemporaryDirectory() as scratch:
        dataset = make_log(Path(scratch) / "log", *rows)
        data = preprocess.run(make_request(dataset, 2, Path(scratch) / "out", config=config), silent)
        examples, items, truths = read(data.examples), read(data.items), read(data.ground_truth)
    expected_examples, expected_items, expected_truths = oracle(
        rows, config, first=0 if window_days is None else 3 - window_days
    )
    assert examples == expected_examples

    def by(key: str, table: Rows) -> Rows:
        return sorted(table, key=lambda row: row[key])

    assert by("item_id", items) == by("item_id", expected_items)
    unordered = [row | {name: sorted(row[name]) for name in ("gt_items", "seen_items")} for row in truths]
    assert by("user_id", unordered) == by("user_id", expected_truths)
    assert data.num_ground_truth == sum(len(row["gt_items"]) for row in truths)
    assert np.all(np.diff([row["timestamp"] for row in examples]) >= 0)


def test_rows_are_read_of_the_files_that_ingest_has_counted(tmp_path: Path) -> None:
    log = make_log(
        tmp_path / "log",
        [click(0, 1, 1, "a"), click(0, 2, 1, "a"), click(1, 1, 1, "a")],
        [user_row(0, 1, "x")],
        [item_row(0, "a")],
    )
    day = log.root / "interactions" / f"ds={FIRST}"
    # A writer's complete leftover is no row; a part that lies in a subfolder, or has no suffix, is.
    (day / ".part-00000.parquet").write_bytes((day / "part-00000.parquet").read_bytes())
    (day / "hour=0").mkdir()
    (day / "part-00000.parquet").rename(day / "hour=0" / "000000_0")
    made = preprocess.run(make_request(log, 0, tmp_path / "out"), silent)
    assert made.num_rows == len(read(made.examples)) == 2
    (day / "more.parquet").write_bytes((day / "part-00001.parquet").read_bytes())
    with pytest.raises(ValueError, match="ds=2024-01-01: 3 rows where ingest counted 2; the log has changed since"):
        preprocess.run(make_request(log, 0, tmp_path / "again"), silent)


def test_users_and_items_may_be_known_since_long_before_1970(tmp_path: Path) -> None:
    clicks = [click(0, 1, 1, "a"), click(0, 2, 2, "b"), click(1, 1, 2, "a")]
    users = [user_row(0, 1, "x"), user_row(0, 2, "y"), user_row(1, 2, "z")]
    log = make_log(tmp_path / "log", clicks, users, [item_row(0, "a", price=1), item_row(0, "b", price=2)])
    expected = preprocess.run(make_request(log, 0, tmp_path / "out"), silent)
    early = datetime.date(1, 1, 1)
    for table in ("users", "items"):
        (log.root / table / f"ds={FIRST}").rename(log.root / table / f"ds={early}")
    days = (
        DayCount(day=early, num_interactions=0, num_users=2, num_items=2),
        DayCount(day=FIRST, num_interactions=2, num_users=0, num_items=0),
        *log.days[1:],
    )
    made = preprocess.run(make_request(log.model_copy(update={"days": days}), 0, tmp_path / "early"), silent)
    assert read(made.examples) == read(expected.examples)
    assert read(made.ground_truth) == read(expected.ground_truth)
    assert [row["segment"] for row in read(made.examples)] == ["x", "y"]


HOLDOUTS = [NextDay(), Tail(hours=6), ByKey(share=0.5, by="user_id")]


@pytest.mark.parametrize("kind", HOLDOUTS, ids=lambda kind: kind.kind)
@pytest.mark.parametrize("absorbs", [False, True])
def test_what_is_held_out_is_neither_learned_from_nor_known(kind: Holdout, tmp_path: Path, *, absorbs: bool) -> None:
    """Three runs, each continuing the one before; in the end each row was learned from once, or withheld."""
    rng, seconds = np.random.default_rng(0), range(600, 86_400, 1_200)
    clicks = [
        click(day, second, int(rng.integers(1, 9)), "abcd"[rng.integers(0, 4)])
        for day in range(5)
        for second in seconds
    ]
    users = [user_row(0, number, "x") for number in range(1, 9)]
    log = make_log(tmp_path / "log", clicks, users, [item_row(0, item) for item in "abcd"])
    keys = pa.table({"user_id": [*range(1, 9)]})

    def selected(row: dict[str, Any], day: int) -> bool:
        """Whether a run of `day` is measured on a row."""
        number, second = divmod(row["timestamp"] - MIDNIGHT, 86_400)
        if isinstance(kind, NextDay):
            return number == day + 1
        if isinstance(kind, Tail):
            return number == day and second >= 64_800
        return number == day and bool(holdout.selected(kind, keys, FIRST, None)[row["user_id"] - 1])

    learned: Counter[tuple[int, int, str]] = Counter()
    base: TrainingData | None = None
    for day in (0, 1, 3):
        last = day + 1 if isinstance(kind, NextDay) else day
        dataset = log.model_copy(update={"days": log.days[: last + 1]})
        fields = continuing(base) if base else {}
        data = preprocess.run(make_request(dataset, day, tmp_path / f"{day}", holdout=kind, **fields), silent)
        truth = {(row["user_id"], item) for row in read(data.ground_truth) for item in row["gt_items"]}
        held_out = [row for row in clicks if selected(row, day)]
        assert truth == {(row["user_id"], row["item_id"]) for row in held_out}
        assert data.ground_truth_day == day_at(last)
        held_out_at = {(row["timestamp"], row["user_id"]) for row in held_out}
        past = [row for row in clicks if row["day"] <= day and (row["timestamp"], row["user_id"]) not in held_out_at]
        for query in read(data.ground_truth):
            known = [row["item_id"] for row in past if row["user_id"] == query["user_id"]]
            assert query["history__item_id"] == known[-50:]
        counts = Counter(row["item_id"] for row in past)
        assert {row["item_id"]: row["num_interactions"] for row in read(data.items)} == counts
        made = [data]
        if absorbs:
            fields = continuing(data) | {"measured": data, "holdout": kind}
            made.append(preprocess.run(make_request(dataset, last, tmp_path / f"{day}-absorbed", **fields), silent))
            assert made[-1].learned == Learned(first_day=FIRST, last_day=day_at(last))
        for one in made:
            examples = read(one.examples)
            assert [row["timestamp"] for row in examples] == sorted(row["timestamp"] for row in examples)
            learned.update((row["timestamp"], row["user_id"], row["item_id"]) for row in examples)
            for row in examples:
                before = [
                    c["item_id"] for c in clicks if c["user_id"] == row["user_id"] and c["timestamp"] < row["timestamp"]
                ]
                assert set(row["history__item_id"]) <= set(before)
        base = made[-1]
    until = last if absorbs else 3
    withheld = [row for row in clicks if not absorbs and any(selected(row, day) for day in (0, 1, 2, 3))]
    if not isinstance(kind, ByKey):
        # A later run learns from what another was measured on.
        withheld = [row for row in withheld if selected(row, 3)]
    due = Counter((row["timestamp"], row["user_id"], row["item_id"]) for row in clicks if row["day"] <= until)
    due.subtract((row["timestamp"], row["user_id"], row["item_id"]) for row in withheld if row["day"] <= until)
    assert learned == +due


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            Tail(hours=0.001),
            "day 2024-01-02: no interaction is held out, on which the run is to be measured; raise holdout",
        ),
        (
            Tail(hours=23.99999),
            "all interactions are held out, so that none is left to learn from; lower holdout.hours",
        ),
        (
            ByKey(share=0.001, by="user_id"),
            "no interaction is held out, on which the run is to be measured; raise holdout",
        ),
    ],
)
def test_a_holdout_of_nothing_or_everything_is_refused(kind: Holdout, message: str, tmp_path: Path) -> None:
    clicks = [click(1, 43_200, 1, "a"), click(1, 43_300, 1, "b")]
    log = make_log(tmp_path / "log", clicks, [user_row(0, 1, "x")], [item_row(0, "a"), item_row(0, "b")])
    with pytest.raises(ValueError, match=r".") as refused:
        preprocess.run(make_request(log, 1, tmp_path / "out", holdout=kind), silent)
    assert message in str(refused.value)
