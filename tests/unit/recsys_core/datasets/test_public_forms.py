"""The usual public forms of interactions: what becomes of each, and what is refused, by its file and row."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from recsys_core import ingest, lookup
from recsys_core.datasets import base, interactions, lightgcn, recbole, sequences
from recsys_core.progress import Event, silent
from recsys_core.readers import _csv_text

ReadLog = Callable[[Path, str], dict[str, list[dict[str, Any]]]]
THEN = 881_250_949  # 1997-12-04
DAY = "1997-12-04"


def wrote(kind: Any, root: Path, events: list[Event] | None = None, **config: Any) -> base.Counts:
    sink = silent if events is None else events.append
    return kind.write(kind.Config.model_validate(config), root, sink)


def triples(log: dict[str, list[dict[str, Any]]]) -> list[tuple[Any, ...]]:
    return [(row["user_id"], row["item_id"], row["timestamp"]) for rows in log.values() for row in rows]


@pytest.mark.parametrize(
    ("name", "text", "config", "rated"),
    [
        ("u.data", "7\t2\t5\t{0}\n7\t1\t3\t{0}\n3\t2\t4\t{1}\n", {}, True),
        ("ratings.dat", "7::2::5::{0}\n7::1::3::{0}\n3::2::4::{1}\n", {}, True),
        ("text", "7 2 {0}\n7 1 {0}\n\n3 2 {1}", {}, False),
        ("log.csv", "7,2,{0}\r\n7,1,{0}\r\n3,2,{1}\r\n", {}, False),
        ("milliseconds.csv", "7,2,{0}000\n7,1,{0}000\n3,2,{1}500\n", {}, False),
        (
            "ml.csv",
            '"userId","movieId","rating","timestamp"\n7,2,5,{0}\n7,1,3,{0}\n3,2,4,{1}\n',
            {"header": True, "columns": ["user_id", "item_id", "rating", "timestamp"]},
            True,
        ),
        ("own.csv", "timestamp,item_id,x,user_id\n{0},2,a,7\n{0},1,b,7\n{1},2,c,3\n", {"header": True}, False),
        ("other", "{0}|2|7\n{0}|1|7\n{1}|2|3\n", {"columns": ["timestamp", "item_id", "user_id"]}, False),
        (
            "left_out.tsv",
            "2\t7\tx\t{0}\n1\t7\ty\t{0}\n2\t3\tz\t{1}\n",
            {"columns": ["item_id", "user_id", "-", "timestamp"]},
            False,
        ),
    ],
)
def test_a_line_for_each_interaction(
    name: str, text: str, config: dict[str, Any], rated: bool, tmp_path: Path, read_log: ReadLog
) -> None:
    source = tmp_path / name
    source.write_text(text.format(THEN, THEN + 1), newline="")
    counts = wrote(interactions, tmp_path / "log", source=str(source), **config)
    assert counts[2:] == (1, 3, 2, 2)
    log = read_log(tmp_path / "log", "interactions")
    # Of one second they stand as in the file, and not by their ids.
    assert triples(log) == [(7, 2, THEN), (7, 1, THEN), (3, 2, THEN + 1)]
    assert [row.get("rating") for row in log[DAY]] == ([5.0, 3.0, 4.0] if rated else [None] * 3)
    assert read_log(tmp_path / "log", "users") == {DAY: [{"user_id": 3}, {"user_id": 7}]}
    assert read_log(tmp_path / "log", "items") == {DAY: [{"item_id": 1}, {"item_id": 2}]}


def test_ids_are_text_if_one_is_and_files_may_be_several_and_gzipped(tmp_path: Path, read_log: ReadLog) -> None:
    (tmp_path / "part-0").write_text(f"1 07 2 {THEN}\n2 5 4 {THEN + 86_400}\n")
    with gzip.open(tmp_path / "part-1.gz", "wt") as file:
        file.write(f"1 x 5 {THEN + 9}\n")
    wrote(interactions, tmp_path / "log", source=f"{tmp_path}/part-0,{tmp_path}/part-1.gz", min_rating=3)
    assert triples(read_log(tmp_path / "log", "interactions")) == [(1, "x", THEN + 9), (2, "5", THEN + 86_400)]
    # Each is known from the day on which it first acts.
    assert [len(rows) for rows in read_log(tmp_path / "log", "users").values()] == [1, 1]


@pytest.mark.parametrize("block_bytes", [8, 1 << 20])
def test_lines_without_times_keep_each_user_s_order(
    block_bytes: int, tmp_path: Path, read_log: ReadLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_csv_text, "BLOCK_BYTES", block_bytes)
    (tmp_path / "ml.txt").write_text("7 30\n7 20\n8 30\n7 30\n8 10\n9 10\n")
    wrote(interactions, tmp_path / "log", source=str(tmp_path / "ml.txt"), first_day="1970-01-02")
    assert triples(read_log(tmp_path / "log", "interactions")) == [
        (7, 30, 86_400), (8, 30, 86_400), (9, 10, 86_400), (7, 20, 86_401), (8, 10, 86_401), (7, 30, 86_402),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "config", "message"),
    [
        (f"1 2 3 {THEN}\n1 2 {THEN}\n", {}, "source: line 2: 3 values where there are 4 columns"),
        (f"1 2 3 {THEN}\n1 2 3 soon\n", {}, "source: column 'timestamp', row 1: 'soon' is of another form"),
        (f"1 2 3 {THEN}\n1 2 3 {THEN}000\n", {}, "row 1: 881250949000 counts milliseconds, and rows before it seconds"),
        (f"1 2 3 {THEN}\n1  3 {THEN}\n", {}, "source: column 'item_id', row 1: there is no value"),
        (f"1 2 good {THEN}\n", {}, "source: column 'rating', row 0: 'good' is no number"),
        (f"1 2.5 3 {THEN}\n", {}, "column 'item_id', row 0: id 2.5 is no whole number"),
        ("1 2 5\n1 3 4\n", {}, "source: the last of 3 fields is 5 at most in its first rows, which is no time"),
        ("1 2 3 4 5\n", {}, "line 1: '1 2 3 4 5' has 5 fields, where user item [rating] [timestamp] has 2 to 4"),
        ("1 2\n3\n", {}, "source: line 2: 1 values where there are 2 columns"),
        (f"1 2 {THEN}\n", {"first_day": "2001-01-01"}, "line 1: has a time, so nothing reads first_day"),
        ("user_id,item_id,when\n1,2,5\n", {"header": True}, "line 1: no timestamp among user_id, item_id, when"),
        ("12\n", {}, "line 1: '12' has 1 fields, where"),
        ("", {}, "source: is empty"),
        ("user,item,time\n", {}, "line 1: 'user,item,time' has no time; if it names the columns, say header: true"),
        (f"user,item,when\n1,2,{THEN}\n", {"header": True}, "line 1: no user_id among user, item, when; say in colu"),
        (f"1 2 {THEN}\n", {"columns": ["user_id", "item_id", "-", "timestamp"]}, "line 1: 3 fields, where columns na"),
        (f"1 2 {THEN}\n", {"min_rating": 3}, "line 1: no rating among user_id, item_id, timestamp"),
        (f"1 2 3 {THEN}\n", {"min_rating": 4}, "no interaction of 1 has a rating of 4 or more; lower min_rating"),
        ("user_id::item_id::timestamp\n", {"header": True}, "line 1: a header between '::' cannot be read"),
    ],
)
def test_lines_that_are_none_are_refused(text: str, config: dict[str, Any], message: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_text(text)
    given = interactions.Config.model_validate({"source": str(source)} | config)
    with pytest.raises(ValueError, match=r".") as refused:
        ingest.import_log(given, tmp_path / "log", silent)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"columns": ["user_id", "timestamp"]}, "columns: user_id, timestamp lacks item_id"),
        ({"columns": ["user_id", "item_id", "timestamp"], "first_day": "2001-01-01"}, "first_day: columns has a times"),
        ({"columns": ["user_id", "user_id"]}, "user_id"),
        ({"columns": ["user_id", "item_id", "timestamp"], "min_rating": 3}, "min_rating: there is no rating among"),
        ({"delimiter": ",;"}, "delimiter: ',;' has several characters"),
        ({"encoding": "klingon"}, "'klingon' is no encoding of text"),
    ],
)
def test_what_contradicts_itself_is_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        interactions.Config.model_validate({"source": "x"} | config)


def test_a_line_for_each_user(tmp_path: Path, read_log: ReadLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_csv_text, "BLOCK_BYTES", 8)  # lines of several blocks
    source = tmp_path / "users.txt"
    source.write_text("9 30 20 30\n\n4\t10\n  5  \n7 20 10 \n")
    events: list[Event] = []
    counts = wrote(sequences, tmp_path / "log", events, source=str(source), first_day="2000-01-01")
    midnight = 946_684_800
    assert counts[2:] == (1, 6, 3, 3)
    assert triples(read_log(tmp_path / "log", "interactions")) == [
        (9, 30, midnight), (4, 10, midnight), (7, 20, midnight),
        (9, 20, midnight + 1), (7, 10, midnight + 1), (9, 30, midnight + 2),
    ]  # fmt: skip
    assert read_log(tmp_path / "log", "users") == {"2000-01-01": [{"user_id": user} for user in (4, 7, 9)]}
    assert f"warning: {source}: 1 users have no items, and are not in the log" in [event.message for event in events]


def test_of_a_line_s_ids_one_that_is_no_plain_number_makes_all_text(tmp_path: Path, read_log: ReadLog) -> None:
    (tmp_path / "users.txt").write_text("1 007\n2 7\n")
    wrote(sequences, tmp_path / "log", source=str(tmp_path / "users.txt"))
    assert [row[:2] for row in triples(read_log(tmp_path / "log", "interactions"))] == [(1, "007"), (2, "7")]


def test_a_history_longer_than_a_day_has_seconds_goes_on_the_next_day(tmp_path: Path, read_log: ReadLog) -> None:
    (tmp_path / "users.txt").write_text("1 " + " ".join(["5"] * 86_401) + "\n")
    counts = wrote(sequences, tmp_path / "log", source=str(tmp_path / "users.txt"))
    assert (counts.num_days, counts.num_interactions) == (2, 86_401)
    assert len(read_log(tmp_path / "log", "interactions")["2000-01-02"]) == 1


def test_a_user_with_two_lines_and_a_file_without_items_are_refused(tmp_path: Path) -> None:
    source = tmp_path / "users.txt"
    source.write_text("1 5\n\n2 5\n1 6\n")
    with pytest.raises(ValueError, match=r"users\.txt: line 4: user 1 has line 1 already; write all items"):
        wrote(sequences, tmp_path / "log", source=str(source))
    source.write_text("1\n2\n")
    with pytest.raises(ValueError, match="the source holds no interactions"):
        wrote(sequences, tmp_path / "none", source=str(source))
    (tmp_path / "other.txt").write_text("1 2\n")
    with pytest.raises(ValueError, match="holds 2 files; name the one with a line for each user"):
        wrote(sequences, tmp_path / "both", source=str(tmp_path))


def test_train_and_test_are_two_days(tmp_path: Path, read_log: ReadLog) -> None:
    folder = tmp_path / "gowalla"
    folder.mkdir()
    (folder / "train.txt").write_text("0 2 1\n1 2 \n")
    with pytest.raises(ValueError, match=r"test\.txt: no such file; source is a folder with train\.txt and test\.txt"):
        wrote(lightgcn, tmp_path / "log", source=str(folder))
    (folder / "test.txt").write_text("0\n")
    with pytest.raises(ValueError, match=r"test\.txt: has no interactions"):
        wrote(lightgcn, tmp_path / "nothing", source=str(folder))
    (folder / "test.txt").write_text("0 3\n1\n2 x\n")
    assert wrote(lightgcn, tmp_path / "made", source=str(folder))[2:] == (2, 5, 3, 4)
    log = {day: [(row["user_id"], row["item_id"]) for row in rows] for day, rows in
           read_log(tmp_path / "made", "interactions").items()}  # fmt: skip
    assert log == {"2000-01-01": [(0, "2"), (0, "1"), (1, "2")], "2000-01-02": [(0, "3"), (2, "x")]}
    assert [*read_log(tmp_path / "made", "items")] == ["2000-01-01"]


INTER = "user_id:token\titem_id:token\trating:float\tplace:token\ttimestamp:float\n"


def atomic(folder: Path, **tables: str) -> Path:
    folder.mkdir()
    for table, text in tables.items():
        (folder / f"shop.{table}").write_text(text.format(THEN))
    return folder


def test_atomic_files_with_their_tables(tmp_path: Path, read_log: ReadLog) -> None:
    folder = atomic(
        tmp_path / "shop",
        inter=INTER + "u1\t5\t3\tx\t{0}.0\nu1\t4\t4\tx\t{0}.0\nu2\t5\t\tx\t{0}.5\n",
        user="user_id:token\tage:token\nu1\t30\nu9\t\n",
        item="item_id:token\tgenre:token_seq\tvector:float_seq\tprice:float\n5\tA B\t1 2.5\t3\n7\t\t\t\n",
    )
    events: list[Event] = []
    assert wrote(recbole, tmp_path / "log", events, source=str(folder))[2:] == (1, 3, 3, 3)
    log = read_log(tmp_path / "log", "interactions")
    assert triples(log) == [("u1", 5, THEN), ("u1", 4, THEN), ("u2", 5, THEN)]
    assert [row["rating"] for row in log[DAY]] == [3.0, 4.0, None]
    assert read_log(tmp_path / "log", "users")[DAY] == [
        {"user_id": "u1", "age": 30}, {"user_id": "u9", "age": None}, {"user_id": "u2", "age": None},
    ]  # fmt: skip
    nothing = {"genre": None, "vector": None, "price": None}
    assert read_log(tmp_path / "log", "items")[DAY] == [
        {"item_id": 5, "genre": ["A", "B"], "vector": [1.0, 2.5], "price": 3.0},
        {"item_id": 7} | nothing,
        {"item_id": 4} | nothing,
    ]
    messages = [event.message or "" for event in events]
    assert any("shop.inter: left out: place" in message for message in messages)
    assert sum("lacks 1 that act; their fields are null" in message for message in messages) == 2


def test_atomic_interactions_alone_with_other_names(tmp_path: Path, read_log: ReadLog) -> None:
    text = "user_id:token\tbusiness_id:token\tstars:float\ttimestamp:float\n1\t5\t3\t{0}\n1\t6\t4\t{0}\n"
    folder = atomic(tmp_path / "yelp", inter=text)
    given = {"source": str(folder / "shop.inter"), "columns": {"business_id": "item_id", "stars": "rating"}}
    wrote(recbole, tmp_path / "log", min_rating=4, **given)
    assert triples(read_log(tmp_path / "log", "interactions")) == [(1, 6, THEN)]
    assert read_log(tmp_path / "log", "items") == {DAY: [{"item_id": 6}]}
    config = recbole.Config.model_validate(given)
    before = recbole.fingerprint(config)
    (folder / "shop.item").write_text("item_id:token\n5\n")
    assert recbole.fingerprint(config) != before


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"inter": "user_id\titem_id:token\ttimestamp:float\n"}, "line 1: 'user_id' is no NAME:TYPE"),
        ({"inter": "user_id:id\titem_id:token\n"}, "line 1: 'user_id:id' is no NAME:TYPE of the types token, token_"),
        ({"inter": "user_id:token\titem_id:token\n1\t2\n"}, "shop.inter: line 1: no column 'timestamp', only user_id"),
        ({"inter": INTER + "1\t2\t3\tx\tsoon\n"}, "shop.inter: column 'timestamp', row 0: 'soon' is no time"),
        ({"inter": INTER + "1\t2\t3\tx\t{0}\n", "item": "id:token\n2\n"}, "shop.item: line 1: no column 'item_id'"),
        ({"inter": INTER + "1\t2\t3\tx\t{0}\n", "item": "item_id:token\n2\n2\n"}, "1 rows have a item_id that a row"),
        (
            {"inter": INTER + "1\t2\t3\tx\t{0}\n", "item": "item_id:token\tp:float\n2\tcheap\n"},
            "shop.item: column 'p', row 0: 'cheap' is no number",
        ),
        (
            {"inter": INTER + "1\t2\t3\tx\t{0}\n", "item": "item_id:token\tp:float\n\t3\n"},
            "shop.item: column 'item_id', row 0: there is no id",
        ),
        ({}, "one file NAME.inter is needed, and there is none; name the file"),
    ],
)
def test_atomic_files_that_are_none_are_refused(tables: dict[str, str], message: str, tmp_path: Path) -> None:
    config = recbole.Config(source=str(atomic(tmp_path / "shop", **tables)))
    with pytest.raises(ValueError, match=r".") as refused:
        ingest.import_log(config, tmp_path / "log", silent)
    assert message in str(refused.value)
    assert [path.name for path in tmp_path.iterdir()] == ["shop"]


@pytest.mark.parametrize("kind", ["interactions", "sequences", "lightgcn", "recbole"])
def test_a_source_that_is_not_there_is_named_and_one_that_changes_is_another(kind: str, tmp_path: Path) -> None:
    module = lookup.component(ingest.CATALOGUE, kind)
    config = module.Config(source=str(tmp_path / "absent"))
    with pytest.raises(ValueError, match="absent"):
        ingest.import_log(config, tmp_path / "log", silent)
    atomic(tmp_path / "absent", inter=INTER)
    found = ingest.source_fingerprint(config)
    (tmp_path / "absent" / "shop.inter").write_text(INTER + "1\t2\t3\tx\t5\n")
    assert ingest.source_fingerprint(config) != found
