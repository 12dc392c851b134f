"""Preprocess by hand: what it learns from, and what it measures on."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_log import MIDNIGHT, SCHEMAS, click, continuing, day_at, item_row, make_log, make_request, read, user_row

from recsys_core.artifacts import Dataset, DayCount, Learned, TrainingData
from recsys_core.features import Engine
from recsys_core.gate import Values
from recsys_core.progress import Event, silent
from recsys_core.retrieval import preprocess
from recsys_core.samplers import impressions


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


def test_sequences_by_hand(small: Dataset, tmp_path: Path) -> None:
    config = preprocess.Config.model_validate({"examples": "sequences", "history": {"max_length": 3}})
    data = preprocess.run(make_request(small, 1, tmp_path / "out", config=config), silent)
    rows = read(data.examples)
    # User 1 took a b, then c and a in one second, which know neither each other, then b.
    assert [(row["user_id"], row["history__item_id"], row["targets"], row["known"]) for row in rows] == [
        (1, ["a"], ["a", "b"], [0, 1]),
        (1, ["b", "c", "a"], ["c", "a", "b"], [1, 1, 3]),
        (2, [], ["a"], [0]),
    ]
    # Fields are those of the first target's day, and the time is that of the last.
    assert [(row["segment"], row["timestamp"] - MIDNIGHT) for row in rows] == [("x", 20), ("z", 86_409), ("y", 20)]
    assert rows[1]["history__price"] == [7, None, 5]
    assert (data.num_rows, data.num_targets, data.most_targets) == (3, 6, 3)
