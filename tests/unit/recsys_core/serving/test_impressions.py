"""Served lists joined to clicks: by hand on a small log, and what is refused."""

import datetime
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from flows.data_commands import app
from recsys_core.datasets.labelled import labelled_days
from recsys_core.progress import silent
from recsys_core.serving.impressions import Options, Request, run
from recsys_core.serving.service.recorder import SCHEMA, hashed

DAY, NEXT = datetime.date(2024, 1, 2), datetime.date(2024, 1, 3)
NOW = datetime.datetime(2024, 2, 1, tzinfo=datetime.UTC)


def at(clock: str, day: datetime.date = DAY) -> datetime.datetime:
    return datetime.datetime.combine(day, datetime.time.fromisoformat(clock), datetime.UTC)


def served(
    clock: str,
    request_id: str | None,
    items: list[Any],
    user: dict[str, Any] | None = None,
    *,
    day: datetime.date = DAY,
    **other: Any,
) -> dict[str, Any]:
    """One row of a log of requests, best item first."""
    answer = {"item_ids": items, "scores": [1 - place / 10 for place in range(len(items))]}
    return {
        "time": at(clock, day),
        "path": "/recommend",
        "version": "shop/1",
        "request": json.dumps({"user": {"user_id": 1, "age": 30} if user is None else user}),
        "answer": json.dumps({"version": "shop/1"} | answer),
        "seconds": 0.01,
        "changed": [],
        "request_id": request_id,
    } | other


def write_log(folder: Path, *rows: dict[str, Any], name: str = "a") -> Path:
    by_hour: dict[tuple[datetime.date, int], list[dict[str, Any]]] = {}
    for row in rows:
        by_hour.setdefault((row["time"].date(), row["time"].hour), []).append(row)
    for (day, hour), some in by_hour.items():
        place = folder / f"date={day}" / f"hour={hour:02d}"
        place.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(some, SCHEMA), place / f"{name}.parquet")
    return folder


def write_clicks(
    folder: Path, *clicks: tuple[Any, Any, datetime.datetime], key: str = "request_id", days: int = 2
) -> str:
    """Write clicks by day, also of days on which there are none."""
    for day in (DAY + datetime.timedelta(days=number) for number in range(days)):
        own = [one for one in clicks if one[2].date() == day]
        columns = list(zip(*own, strict=True)) or [[], [], []]
        kinds = [pa.array([one[place] for one in clicks]).type if clicks else pa.string() for place in (0, 1)]
        table = pa.table(
            {
                key: pa.array(columns[0], kinds[0]),
                "item_id": pa.array(columns[1], kinds[1]),
                "timestamp": pa.array([int(one.timestamp()) for one in columns[2]], pa.int64()),
            }
        )
        (folder / f"ds={day}").mkdir(parents=True, exist_ok=True)
        pq.write_table(table, folder / f"ds={day}" / "part.parquet")
    return f"{folder}/ds={{day}}"


def joined(tmp_path: Path, log: Path | str, clicks: str, **options: Any) -> Any:
    own = {name: options.pop(name) for name in [*options] if name in Request.model_fields}
    given = {"log": str(log), "clicks": clicks, "out": tmp_path / "out", "now": NOW, "first_day": DAY, "last_day": DAY}
    return run(Request.model_validate(given | own | {"options": Options.model_validate(options)}), silent)


def rows(tmp_path: Path, day: datetime.date = DAY) -> list[dict[str, Any]]:
    return pq.read_table(tmp_path / "out" / f"ds={day}" / "part-00000.parquet").to_pylist()


def labels(tmp_path: Path, day: datetime.date = DAY) -> dict[tuple[str, Any], int]:
    return {(row["request_id"], row["item_id"]): row["click"] for row in rows(tmp_path, day)}


def test_each_shown_item_is_a_row_with_its_position_and_whether_it_was_clicked(tmp_path):
    log = write_log(
        tmp_path / "log",
        served("08:00:00.700", "a", [7, 8, 9], {"user_id": 1, "age": 30, "tags": ["x"]}),
        served("09:10", "b", [8, 7], {"user_id": 2, "age": None, "tags": []}, version="shop/2"),
        served("09:11", "c", [], path="/embed", answer="{}"),
    )
    # In the second in which it was shown; the items of the item table are in another order.
    clicks = write_clicks(tmp_path / "clicks", ("a", 8, at("08:00:00")), ("b", 7, at("09:40")))
    pq.write_table(pa.table({"item_id": [9, 8], "price": [9.5, 8.5]}), tmp_path / "items.parquet")
    report = joined(tmp_path, log, clicks, items=str(tmp_path / "items.parquet"))
    found = rows(tmp_path)
    own = ["request_id", "time", "version", "position", "item_id", "score"]
    assert [*found[0]] == [*own, "user_id", "age", "tags", "price", "click"]
    assert [(row["request_id"], row["position"], row["item_id"], row["click"], row["price"]) for row in found] == [
        ("a", 1, 7, 0, None),
        ("a", 2, 8, 1, 8.5),
        ("a", 3, 9, 0, 9.5),
        ("b", 1, 8, 0, 8.5),
        ("b", 2, 7, 1, None),
    ]
    assert [found[3][name] for name in ("version", "user_id", "age", "tags")] == ["shop/2", 2, None, []]
    assert found[0]["time"] == at("08:00:00.700")
    assert found[1]["score"] == pytest.approx(0.9)
    (day,) = report.days
    assert (day.state, day.counts.requests, day.counts.of_other_paths) == ("joined", 2, 1)
    assert (day.counts.impressions, day.counts.rows, day.counts.positives, day.counts.unknown_items) == (5, 5, 2, 2)
    assert {name: count for name, count in day.counts.clicks.items() if count} == {"joined": 2}
    # It is what a ranking model is trained on.
    parts = labelled_days.days(labelled_days.Config(source=str(tmp_path / "out")), DAY, NEXT)
    assert [*parts] == [DAY]


def test_a_click_belongs_to_the_newest_list_before_it_on_whichever_day(tmp_path):
    user = {"user_id": 5, "age": 1}
    log = write_log(
        tmp_path / "log",
        served("10:00", "a", [7, 8], user),
        served("10:20", "b", [7], user),
        served("23:50", "c", [7, 9], user),
        served("00:10", "d", [7], user, day=NEXT),
    )
    clicks = write_clicks(
        tmp_path / "clicks",
        (5, 7, at("10:25")),
        (5, 7, at("10:26")),  # again
        (5, 7, at("10:25")),  # the same click twice
        (5, 8, at("10:31")),  # after the window
        (5, 9, at("10:01")),  # shown only later
        (5, 1, at("10:02")),  # never shown
        (6, 7, at("10:02")),  # another user
        (None, 7, at("10:02")),
        (5, 9, at("00:20", NEXT)),
        (5, 7, at("00:15", NEXT)),
        key="user_id",
        days=3,
    )
    report = joined(tmp_path, log, clicks, key="user_id", last_day=NEXT)
    expected = {("a", 7): 0, ("a", 8): 0, ("b", 7): 1, ("c", 7): 0, ("c", 9): 1}
    assert labels(tmp_path) == expected
    assert labels(tmp_path, NEXT) == {("d", 7): 1}
    first, second = (day.counts for day in report.days)
    assert first.clicks == {
        "joined": 1,
        "repeated": 1,
        "duplicate": 1,
        "late": 1,
        "early": 1,
        "unmatched": 2,
        "without_key": 1,
    }
    # One of them belongs to the list of the evening before.
    assert (second.clicks["joined"], second.positives, first.positives) == (2, 1, 2)


def test_a_request_that_is_logged_twice_counts_once(tmp_path):
    log = write_log(tmp_path / "log", served("10:00", "a", [7, 8]), served("10:05", "b", [7]))
    write_log(log, served("10:00", "a", [7, 8]), served("10:01", "a", [9]), name="z")
    report = joined(tmp_path, log, write_clicks(tmp_path / "clicks", ("a", 9, at("10:02")), ("a", 7, at("10:02"))))
    # A client that asks again under one id shows the last answer.
    assert labels(tmp_path) == {("a", 9): 1, ("b", 7): 0}
    (day,) = report.days
    assert (day.counts.impressions, day.counts.rows) == (6, 2)
    assert day.counts.dropped == {"logged_twice": 4, "without_key": 0, "without_item": 0, "beyond_shown": 0}
    assert day.counts.clicks["unmatched"] == 1


def test_only_items_that_were_shown_are_rows(tmp_path):
    log = write_log(
        tmp_path / "log",
        served("10:00", "a", [7, 8, 9], {"user_id": 1}),
        served("10:01", "b", [7], {"user_id": None}),
        served("10:02", "c", [7], {"age": 3}, version="shop/2"),
    )
    clicks = write_clicks(tmp_path / "clicks", (1, 9, at("10:05")), key="user_id")
    report = joined(tmp_path, log, clicks, key="user_id", shown=2)
    assert labels(tmp_path) == {("a", 7): 0, ("a", 8): 0}
    assert report.days[0].counts.dropped == {
        "logged_twice": 0,
        "without_key": 2,
        "without_item": 0,
        "beyond_shown": 1,
    }


def test_ranked_items_are_shown_in_the_order_of_their_probability(tmp_path):
    request = {"user": {"age": 3}, "items": [{"item_id": 7, "price": 2}, {"item_id": 8, "price": 2.5}]}
    ranked = served("10:00", "a", [], path="/rank", request=json.dumps(request))
    ranked["answer"] = json.dumps({"version": "ctr/1", "probability": [0.25, 0.75], "score": [-1.0, 1.0]})
    log = write_log(tmp_path / "log", ranked)
    clicks = write_clicks(tmp_path / "clicks", ("a", 7, at("10:05")))
    joined(tmp_path, log, clicks, paths=("/rank",))
    found = [
        {name: row[name] for name in ("position", "item_id", "score", "age", "price", "click")}
        for row in rows(tmp_path)
    ]
    assert found == [
        {"position": 1, "item_id": 8, "score": 0.75, "age": 3, "price": 2.5, "click": 0},
        {"position": 2, "item_id": 7, "score": 0.25, "age": 3, "price": 2.0, "click": 1},
    ]
    write_log(log, ranked | {"changed": ["item_id"]})
    with pytest.raises(ValueError, match="'item_id' is hashed or dropped in the log, so the items that were shown are"):
        joined(tmp_path, log, clicks, paths=("/rank",), overwrite=True)


def test_a_hashed_key_is_joined_by_its_hash_and_is_no_feature(tmp_path):
    user = {"user_id": hashed("u1"), "age": 3}
    log = write_log(
        tmp_path / "log",
        served("10:00", "a", [7], user, changed=["user_id"]),
        served("10:01", "b", [8], {"user_id": hashed("u2"), "age": 3}, changed=["user_id"]),
    )
    clicks = write_clicks(tmp_path / "clicks", ("u2", 8, at("10:05")), ("u1", 9, at("10:05")), key="user_id")
    joined(tmp_path, log, clicks, key="user_id")
    assert labels(tmp_path) == {("a", 7): 0, ("b", 8): 1}
    assert rows(tmp_path)[0]["user_id_hashed"] == hashed("u1")
    assert "user_id" not in rows(tmp_path)[0]


@pytest.mark.parametrize(
    ("logged", "options", "message"),
    [
        ({"changed": ["age"]}, {}, "column 'age' is hashed or dropped in the log.*--leave-out age"),
        ({"changed": ["user_id"]}, {"key": "user_id"}, "the log has dropped 'user_id', by which it is to be joined"),
        ({"request_id": None}, {}, "an earlier service, which gave requests no id: --key COLUMN, one of user_id, age"),
        ({"answer": '{"item_ids": [1]}'}, {}, "row 0: no request or answer of /recommend"),
        ({"answer": "7"}, {}, "row 0: no request or answer of /recommend"),
        ({"answer": '{"item_ids": [1, "a"], "scores": [1, 2]}'}, {}, "ids of items: "),
        (
            {"answer": '{"item_ids": ["7"], "scores": [1]}'},
            {},
            "items are string in the log and int64 among the clicks",
        ),
        ({"request": '{"user": {"user_id": null, "city": null}}'}, {}, "column 'user_id' .*nothing but nulls.*--type"),
        ({"request": '{"user": {"position": 3}}'}, {}, "column 'position' of the requests has the name of one"),
        ({}, {"key": "session"}, r"--key session: no request has such a column \(they have user_id, age\)"),
        ({}, {"types": {"age": "string"}}, "column 'age' of the requests is string in the table"),
        ({}, {"click_key": "session"}, "no column 'session' .*--click-key, --click-item and --click-time name"),
        ({}, {"paths": ("/embed",)}, "paths: '/embed' answers with no list"),
        ({}, {"types": {"age": "number"}}, "types: age=number is no type"),
        ({}, {"label": "position"}, "label: 'position' is another column of the rows"),
        ({"time": at("11:00")}, {}, "its time 2024-01-02 11:00:00 is not of the hour that its folder names"),
        ({}, {"last_day": NEXT}, "no requests of 2024-01-03; it has those of 2024-01-02 to 2024-01-02"),
    ],
)
def test_what_cannot_be_joined_is_refused_and_leaves_nothing(tmp_path, logged, options, message):
    user = {"user_id": None if logged.get("changed") == ["user_id"] else 1, "age": None if logged.get("changed") else 3}
    row = served("10:00", "a", [7], user) | logged
    place = tmp_path / "log" / f"date={DAY}" / "hour=10"
    place.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist([row], SCHEMA), place / "a.parquet")
    key = options.get("key", "request_id")
    clicks = write_clicks(tmp_path / "clicks", (1 if key == "user_id" else "a", 7, at("10:05")), key=key)
    with pytest.raises(ValueError, match=message):
        joined(tmp_path, tmp_path / "log", clicks, **options)
    assert [*tmp_path.glob("out/*")] == []


def test_clicks_of_other_columns_or_types_are_refused(tmp_path):
    log = write_log(tmp_path / "log", served("10:00", "a", [7]))
    for table, message in (
        ({"request_id": ["a"], "item_id": [7], "timestamp": ["soon"]}, "row 0, column 'timestamp': 'soon' is no time"),
        (
            {"request_id": ["a"], "item_id": [7], "timestamp": [None]},
            "row 0, column 'timestamp': no time; drop the row",
        ),
        (
            {"request_id": [["a"]], "item_id": [7], "timestamp": [1]},
            "column 'request_id': its type list.* cannot hold ids",
        ),
        ({"request_id": [1], "item_id": [7], "timestamp": [1_704_190_000]}, "are string in the log and int64 among"),
    ):
        for day in (DAY, NEXT):
            place = tmp_path / "clicks" / f"ds={day}"
            place.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.table(table), place / "part.parquet")
        with pytest.raises(ValueError, match=message):
            joined(tmp_path, log, str(tmp_path / "clicks"))


def test_a_day_is_joined_when_its_last_clicks_are_there(tmp_path):
    log = write_log(tmp_path / "log", served("10:00", "a", [7]), served("10:00", "b", [7], day=NEXT))
    clicks = write_clicks(tmp_path / "clicks", ("a", 7, at("10:05")))
    report = joined(tmp_path, log, clicks, first_day=None, last_day=None)
    assert [(day.day, day.state) for day in report.days] == [(DAY, "joined"), (NEXT, "waiting")]
    assert report.days[1].reason.startswith("the clicks of 2024-01-04 are not there yet")
    with pytest.raises(ValueError, match="2024-01-03 is not complete: the clicks of 2024-01-04 are not there yet"):
        joined(tmp_path, log, clicks, last_day=NEXT)
    early = at("00:29", NEXT)
    report = joined(tmp_path, log, clicks, last_day=None, now=early, out=tmp_path / "early")
    assert report.days[0].reason == "clicks belong to it until 2024-01-03 00:30:00 UTC"
    # Of a table that is not parted by day, its last click says how far it is.
    whole = tmp_path / "whole.csv"
    whole.write_text("request_id,item_id,timestamp\na,7,2024-01-02T10:05:00Z\nb,7,2024-01-03 00:29:59\n")
    report = joined(tmp_path, log, str(whole), last_day=None, out=tmp_path / "whole")
    assert report.days[0].reason == f"the clicks in {whole} end at 2024-01-03 00:29:59"
    whole.write_text(whole.read_text() + "b,7,2024-01-03 00:30:00\n")
    assert joined(tmp_path, log, str(whole), out=tmp_path / "whole").days[0].counts.positives == 1


def test_days_that_are_there_stay_and_their_columns_hold(tmp_path):
    log = write_log(tmp_path / "log", served("10:00", "a", [7]))
    clicks = write_clicks(tmp_path / "clicks", ("a", 7, at("10:05")))
    joined(tmp_path, log, clicks)
    before = (tmp_path / "out" / f"ds={DAY}" / "part-00000.parquet").stat().st_ino
    # What a killed join has left is no day, and in no one's way.
    (tmp_path / "out" / f".ds={NEXT}.partial" / "x").mkdir(parents=True)
    (again,) = joined(tmp_path, log, clicks).days
    assert (again.state, again.reason, again.counts.rows) == ("kept", None, 1)
    assert (tmp_path / "out" / f"ds={DAY}" / "part-00000.parquet").stat().st_ino == before
    write_log(log, served("10:01", "b", [7]), name="b")
    (changed,) = joined(tmp_path, log, clicks).days
    assert (changed.state, changed.reason) == ("kept", "its log changed since; --overwrite joins it again")
    assert joined(tmp_path, log, clicks, overwrite=True).days[0].counts.rows == 2
    with pytest.raises(ValueError, match="joined with window_seconds 1800, and not 60; name another folder"):
        joined(tmp_path, log, clicks, window_seconds=60)
    write_clicks(tmp_path / "clicks", ("a", 7, at("10:05")), days=3)
    write_log(log, served("10:00", "c", [7], {"user_id": 1, "city": "x"}, day=NEXT))
    with pytest.raises(ValueError, match="column 'city' of the requests is new to the table, which has user_id, age"):
        joined(tmp_path, log, clicks, last_day=NEXT)
    write_log(log, served("10:00", "c", [7], {"user_id": 1, "age": 3.5}, day=NEXT))
    with pytest.raises(ValueError, match="column 'age' of the requests is int64 in the table"):
        joined(tmp_path, log, clicks, last_day=NEXT)
    write_log(log, served("10:00", "c", [7], {"user_id": 1, "city": "x"}, day=NEXT))
    joined(tmp_path, log, clicks, last_day=NEXT, types={"city": "string"})
    assert [(row["age"], row["city"]) for row in rows(tmp_path, NEXT)] == [(None, "x")]


def test_item_tables_are_of_the_day_and_have_each_item_once(tmp_path):
    log = write_log(tmp_path / "log", served("10:00", "a", [7]))
    clicks = write_clicks(tmp_path / "clicks", ("a", 7, at("10:05")))
    for table, message in (
        ({"item_id": [7, 7], "price": [1, 2]}, "row 1: item 7 is there a second time"),
        ({"item_id": [None, 7], "price": [1, 2]}, "row 0: item_id is null"),
        ({"item_id": ["7"], "price": [1]}, "items are string, and int64 in the log"),
        ({"item_id": [7], "age": [1]}, "column 'age' is one of the requests too"),
        ({"id": [7]}, "no column 'item_id'"),
    ):
        pq.write_table(pa.table(table), tmp_path / f"items-{DAY}.parquet")
        with pytest.raises(ValueError, match=message):
            joined(tmp_path, log, clicks, items=str(tmp_path / "items-{day}.parquet"))


def test_the_command_says_what_became_of_days_and_clicks(tmp_path):
    log = write_log(tmp_path / "log", served("10:00", "a", [7, 8]), served("10:00", "b", [7], day=NEXT))
    clicks = write_clicks(tmp_path / "clicks", ("a", 7, at("10:05")), ("a", 1, at("10:05")))
    arguments = ["join-impressions", "--log", str(log), "--clicks", clicks, "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    first, second = result.stdout.splitlines()
    assert first == "2024-01-02: 2 rows of 2 shown items; 1 clicked; clicks: 1 joined, 1 unmatched"
    assert second.startswith("2024-01-03: waits, the clicks of 2024-01-04 are not there yet")
    assert f"--set data.kind=labelled_days --set data.source={tmp_path / 'out'}" in result.stderr
    again = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
    days = json.loads(again.stdout)["days"]
    assert [(day["day"], day["state"]) for day in days] == [("2024-01-02", "kept"), ("2024-01-03", "waiting")]
    assert days[0]["counts"]["clicks"]["joined"] == 1
    pq.write_table(pa.table({"item_id": [7], "weight": [1.5]}), tmp_path / "items.parquet")
    named = [*arguments[:-1], str(tmp_path / "named"), "--items", str(tmp_path / "items.parquet")]
    result = CliRunner().invoke(app, named, catch_exceptions=False)
    assert result.stdout.startswith(first)
    assert "note: 2024-01-02: 1 rows are of items that the item table does not have" in result.stderr
    bad = CliRunner().invoke(app, [*arguments, "--type", "age"])
    assert "give COL=TYPE" in bad.output
