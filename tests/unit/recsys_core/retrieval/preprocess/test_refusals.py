"""What preprocess refuses, and what it takes all the same."""

import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_log import (
    FIRST,
    click,
    item_row,
    make_log,
    make_request,
    read,
    user_row,
)

from recsys_core.artifacts import Dataset, DayCount
from recsys_core.features import Engine
from recsys_core.progress import Event, silent
from recsys_core.retrieval import preprocess


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
