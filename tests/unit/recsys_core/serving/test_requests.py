"""The service over HTTP, as `mlflow models serve` runs it: what it answers, and that rubbish gets one line."""

import copy
import datetime
import io
import json
import random
import socket
import tempfile
from typing import Any

import mlflow.pyfunc
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mlflow.models import Model
from mlflow.pyfunc import scoring_server
from starlette.applications import Starlette
from starlette.routing import Route

from recsys_core.retrieval import publish
from recsys_core.serving import asked, scoring

DAY = datetime.date(2024, 3, 1)
QUERY = (
    {"kind": "id", "name": "brands", "column": "history__brand", "num_embeddings": 16},
    {"kind": "id", "name": "years", "column": "age", "encoding": "identity", "num_embeddings": 100},
    {"kind": "raw", "name": "spent"},
)
ROW = {"segment": "s1", "age": 30, "history__item_id": [7, 17], "history__brand": ["b1", None], "spent": 1.5}
JSON = "application/json"
_NUM_FUZZED = 100


@pytest.mark.parametrize("mask_seen", [True, False])
def test_mlflow_knows_what_the_release_was_measured_with(made_day, tmp_path, mask_seen):
    made = made_day(tmp_path / "run", DAY, 6)
    queries = publish.queries(made["model"], made["data"], made["embeddings"], 12)
    bundle = publish.Bundle(made["model"], made["index"], queries, mask_seen=mask_seen)
    bundle.fill(tmp_path / "bundle")
    bundle.save((tmp_path / "bundle").iterdir(), tmp_path / "mlflow", Model())
    loaded = mlflow.pyfunc.load_model(str(tmp_path / "mlflow"))
    row = pd.DataFrame([{"segment": "s1", "age": 30, "history__item_id": [7, 17]}])
    for params, masked in (({}, mask_seen), ({"mask_seen": True}, True), ({"mask_seen": False}, False)):
        (found,) = loaded.predict(row, params={"k": 60} | params)["item_ids"]
        assert len(found) == (58 if masked else 60)


@pytest.fixture(scope="module")
def server(made_day, tmp_path_factory, serve):
    root = tmp_path_factory.mktemp("served")
    made = made_day(root / "run", DAY, 6, QUERY, ({"kind": "id", "name": "brand", "num_embeddings": 16},))
    queries = publish.queries(made["model"], made["data"], made["embeddings"], 12)
    bundle = publish.Bundle(made["model"], made["index"], queries, mask_seen=True)
    bundle.fill(root / "bundle")
    bundle.save((root / "bundle").iterdir(), root / "mlflow", Model())
    return serve(root / "mlflow")


def _body(row: dict[str, Any] = ROW, **params: Any) -> bytes:
    return json.dumps({"dataframe_records": [row], "params": params}).encode()


def test_every_form_of_a_request_gets_the_same_answer(server):
    status, answer = server.ask(_body(k=4))
    assert status == 200
    (first,) = answer["predictions"]
    assert len(first["item_ids"]) == len(first["scores"]) == 4
    assert not {7, 17} & {*first["item_ids"]}
    split = {"columns": [*ROW], "data": [[*ROW.values()]]}
    for form in ({"instances": [ROW]}, {"inputs": [ROW]}, {"dataframe_split": split}):
        assert server.ask(json.dumps(form | {"params": {"k": 4}}).encode()) == (200, answer)
    assert (
        server.ask(json.dumps({"inputs": {n: [v] for n, v in ROW.items()}, "params": {"k": 4}}).encode())[1] == answer
    )
    written = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([ROW]), written)
    status, by_default = server.ask(written.getvalue(), "application/vnd.apache.parquet")
    assert (status, by_default["predictions"][0]["item_ids"][:4]) == (200, first["item_ids"])
    assert len(by_default["predictions"][0]["item_ids"]) == asked.DEFAULT_K


def test_exclude_is_a_parameter_and_a_column_and_k_is_capped(server):
    best = server.ask(_body(k=10**9))[1]["predictions"][0]["item_ids"]
    assert len(best) == 58, "60 items but for the two of the history"
    # The index is approximate: what takes the places of the best may differ a little by how many were searched for.
    found = server.ask(_body(k=3, exclude=best[:2]))[1]["predictions"][0]["item_ids"]
    assert (len(found), {*found} & {*best[:2]}) == (3, set())
    own = ROW | {"exclude": best[:4]}
    found = server.ask(_body(own, k=53, exclude=best[4:5]))[1]["predictions"][0]["item_ids"]
    assert {*found} == {*best[5:]}
    assert len(server.ask(_body(k=10**30, mask_seen=False))[1]["predictions"][0]["item_ids"]) == 60


def _without(name: str) -> dict[str, Any]:
    return {key: value for key, value in ROW.items() if key != name}


_HUGE = 2**63
REFUSED: list[tuple[bytes, str]] = [
    (_body(k=0), "k is 0; ask for at least one item"),
    (_body(k=-5), "k is -5"),
    (_body(k=True), "k is true or false; give a whole number"),
    (_body(k="5"), "k is a text"),
    (_body(k=5.0), "k is a number with a fraction"),
    (_body(k=[5]), "k is a list"),
    (_body(k=None), "k is null"),
    (_body(top_k=5), "params has no 'top_k'; there are k, exclude, mask_seen"),
    (_body(exclude=7), "exclude is a whole number; give a list of item ids"),
    (_body(exclude=["x"]), "column 'exclude' takes item ids, which are int64"),
    (_body(exclude=[_HUGE]), "column 'exclude' takes item ids"),
    (_body(exclude=[[7]]), "column 'exclude' takes item ids"),
    (_body(mask_seen="no"), "mask_seen is a text"),
    (_body(ROW | {"exclude": 7}), "column 'exclude' takes lists of item ids"),
    (_body(ROW | {"exclude": [1.5]}), "column 'exclude' takes lists of item ids"),
    (_body(ROW | {"history__brand": ["b1"]}), "row 0: column 'history__brand' has 1 entries and 'history__item_id' 2"),
    (_body(ROW | {"age": _HUGE}), "column 'age' takes int64: "),
    (_body(ROW | {"age": 100}), "feature 'years', column 'age': id 100 is not in 0..99"),
    (_body(ROW | {"age": -1}), "feature 'years', column 'age': id -1 is not in 0..99"),
    (_body(ROW | {"age": 30.5}), "column 'age' takes int64: "),
    (_body(ROW | {"age": True}), "column 'age' takes int64: true and false are no integers"),
    (_body(ROW | {"age": "old"}), "column 'age' takes int64: "),
    (_body(ROW | {"age": {"years": [30]}}), "column 'age' takes int64: "),
    (_body(ROW | {"history__item_id": [[7], [17]]}), "column 'history__item_id' takes list<int64>: "),
    (_body(ROW | {"history__item_id": [7, 1.5]}), "column 'history__item_id' takes list<int64>: "),
    (_body(ROW | {"history__item_id": [7, 2**70]}), "column 'history__item_id' takes list<int64>: "),
    (_body(ROW | {"history__item_id": "7,17"}), "column 'history__item_id' takes list<int64>: "),
    (_body(ROW | {"segment": 5}), "column 'segment' takes string: "),
    (_body(ROW | {"segment": "x" * 100_000 + "\ud800"}), "column 'segment' takes string: "),
    (_body(ROW | {"spent": "much"}), "column 'spent' takes float64: "),
    (_body(ROW | {"spent": True}), "column 'spent' takes float64: true and false are no numbers"),
    (_body().replace(b"1.5", b"1e999"), "column 'spent' takes float64: a number is beyond ±3.4e+38"),
    (_body().replace(b"1.5", b"NaN"), "the body has NaN, which is no JSON; give null where a number is unknown"),
    (_body().replace(b"1.5", b"9" * 5_000), "the body has an integer of 5,000 digits"),
    (_body(ROW | {"spent": -1e300}), "column 'spent' takes float64: a number is beyond ±3.4e+38"),
    (_body(_without("age")), "column 'age' is missing (found segment, history__item_id, history__brand, spent)"),
    (_body(ROW | {"x": 1}), "column 'x' is none of the model's, which takes segment, age, history__item_id, "),
    (_body({}), "no rows"),
    (b'{"dataframe_records": []}', "no rows; send one at least"),
    (b'{"dataframe_records": [3]}', "row 0 is a whole number; give an object of columns"),
    (b'{"dataframe_records": null}', "dataframe_records is null; give a list of rows"),
    (json.dumps({"inputs": [ROW, _without("age")]}).encode(), "row 1: column 'age' is missing"),
    (json.dumps({"inputs": [ROW, ROW | {"x": 1}]}).encode(), "row 1: column 'x' is not in the rows before"),
    (
        json.dumps({"inputs": {"age": [1, 2], "segment": ["s1"]}}).encode(),
        "column 'age' has 2 rows and column 'segment' 1",
    ),
    (b'{"dataframe_records": [{"age": 1, "age": 2}]}', "the body has 'age' twice in an object"),
    (
        b'{"dataframe_split": {"columns": ["a", "a"], "data": [[1, 2]]}}',
        "dataframe_split.columns has 'a' more than once",
    ),
    (b'{"dataframe_split": {"columns": ["a"], "data": [[1, 2]]}}', "dataframe_split.data, row 0: no list of 1 values"),
    (b'{"rows": []}', "the body has no key 'rows'; send one of dataframe_records"),
    (b'{"inputs": [], "instances": []}', "the body has instances and inputs of "),
    (b'{"params": {}}', "the body has none of dataframe_records"),
    (b"[1]", "the body is a list; give an object with one of"),
    (b'{"inputs": [', "the body is no JSON: Expecting value: line 1 column 13"),
    (b'{"inputs": "\xff"}', "the body is no UTF-8 (byte 12)"),
    (b'{"inputs": ' + b"[" * 200_000, "the body is JSON that is nested too deeply"),
    (json.dumps({"inputs": [ROW] * (asked.MAX_ROWS + 1)}).encode(), "10,001 rows in one request; send at most 10,000"),
    (b'{"inputs": "' + b"x" * asked.MAX_BODY_BYTES + b'"}', "a body of 33,554,446 bytes; send at most 33,554,432"),
]


@pytest.mark.parametrize(("body", "expected"), REFUSED, ids=lambda value: value[:40] if isinstance(value, str) else "")
def test_what_does_not_fit_is_answered_with_one_line_that_names_it(server, body, expected):
    status, answer = server.ask(body)
    assert (status, answer["error_code"]) == (400, "INVALID_PARAMETER_VALUE")
    assert expected in answer["message"]
    assert "\n" not in answer["message"]
    assert len(answer["message"]) < 400


@pytest.mark.parametrize(
    "content_type", [None, "", "text/html", "application/json; charset=latin-1", "application/pickle"]
)
def test_another_type_of_body_is_refused(server, content_type):
    status, answer = server.ask(_body(), content_type)
    assert status == 400
    assert "content type" in answer["message"]


@pytest.mark.parametrize("content_type", ["text/csv", "application/vnd.apache.parquet"])
def test_files_that_are_none_are_refused(server, content_type):
    for body in (b"", b"PAR1", b"a,b\n1,2,3\n4", b"\xff\xfe\x00"):
        status, answer = server.ask(body, content_type)
        assert status == 400
        assert "\n" not in answer["message"]


PARQUET, CSV = "application/vnd.apache.parquet", "text/csv"
_ONE = {name: [value] for name, value in ROW.items()}
_HEADER = b"segment,age,history__item_id,history__brand,spent\n"


def _parquet(changes: dict[str, Any], *more: tuple[str, pa.Array]) -> bytes:
    columns = [(name, pa.array(values)) for name, values in (_ONE | changes).items()] + [*more]
    written = io.BytesIO()
    pq.write_table(pa.Table.from_arrays([array for _, array in columns], names=[name for name, _ in columns]), written)
    return written.getvalue()


def _microseconds(value: int, kind: pa.DataType) -> bytes:
    return _parquet({"age": pa.array([value], kind)})


@pytest.mark.parametrize(
    ("body", "content_type", "expected"),
    [
        # A few kilobytes that are a gigabyte when each row has its own.
        (_parquet({n: v * 999 for n, v in (_ONE | {"segment": ["x" * 100_000]}).items()}), PARQUET, "when unpacked"),
        (
            _parquet({"history__brand": [["x" * 100_000] * 999]}),
            PARQUET,
            "bytes when unpacked; send at most 33,554,432",
        ),
        (_parquet({"history__item_id": [[7] * 5_000_000]}), PARQUET, "bytes when unpacked; send at most 33,554,432"),
        (_parquet({}, ("age", pa.array([31]))), PARQUET, "column 'age' is there more than once"),
        (_microseconds(30, pa.timestamp("us")), PARQUET, "column 'age' takes int64: a timestamp[us] is a time"),
        (_microseconds(30, pa.duration("us")), PARQUET, "column 'age' takes int64: a duration[us] is a time"),
        (_microseconds(30, pa.time64("us")), PARQUET, "column 'age' takes int64: a time64[us] is a time"),
        (_microseconds(10**18, pa.timestamp("us")), PARQUET, "column 'age' has values of timestamp[us] that Python"),
        (_microseconds(10**8, pa.date32()), PARQUET, "column 'age' has values of date32[day] that Python"),
        (
            _microseconds(1, pa.timestamp("us", "+25:00")),
            PARQUET,
            "column 'age' has values of timestamp[us, tz=+25:00]",
        ),
        (_HEADER + b"s1,30,,,1.5,9\n", CSV, "row 0 has 6 values and the header 5"),
        (_HEADER + b"s1,30,,,1.5\ns1,30\n", CSV, "row 1 has 2 values and the header 5"),
        (_HEADER + b"s1,NA,,,1.5\n", CSV, "column 'age' takes int64: "),
        (b"age," + _HEADER + b"30,s1,30,,,1.5\n", CSV, "column 'age' is there more than once"),
        (b",".join([b"x"] * 10_001), CSV, "10,001 columns; no model takes more than 10,000"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_rows_of_a_file_are_read_as_they_are_written_or_refused(server, body, content_type, expected):
    status, answer = server.ask(body, content_type)
    assert (status, expected in answer["message"]) == (400, True), answer
    assert "\n" not in answer["message"]


def test_an_empty_field_alone_is_unknown(server):
    named, other, empty = (
        server.ask(_HEADER + text + b",30,,,1.5\n", CSV)[1]["predictions"] for text in (b"NA", b"Na", b"")
    )
    assert named == other, "two texts that the model has not seen"
    assert named != empty


def test_what_no_code_expected_is_one_line_that_names_a_file(tmp_path, monkeypatch, capfd, start_server):
    folder = tmp_path / ("deep" * 50)  # no name is cut, however long
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))

    def fail(columns, params):
        raise RuntimeError("x" * 300 + "\nlines")

    route = Route("/invocations", scoring.handler(fail), methods=["POST"])
    running = start_server(Starlette(routes=[route]))
    try:
        with socket.create_connection(("127.0.0.1", running.port)) as gone:
            gone.sendall(b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
        for _ in range(2):
            status, answer = running.ask(_body())
    finally:
        running.close()
    (file,) = folder.glob("dayline-fault-*.txt")
    assert (status, answer["error_code"]) == (500, "INTERNAL_ERROR")
    assert answer["message"] == f"a fault of Dayline, written to {file}: RuntimeError: {'x' * 186}…"
    assert "RuntimeError: " + "x" * 300 in (message := file.read_text())
    assert "ClientDisconnect" not in message
    assert not capfd.readouterr().err, "of the client that is gone either"


_RUBBISH: list[Any] = [
    *(10**9, -1, 0, 2**63 - 1, 2**63, -(2**70), 1.5, -0.0, 1e308, True, None, "", "x" * 3_000, "\ud800", "\x00"),
    *([], {}, [[[]]], [None], [1, "a"], {"a": {"b": [1]}}, [{"a": 1}], [1.5], [True], ["7"] * 50, list(range(3_000))),
]


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, one in items for place in _places(one, (*path, key)))]


def _mutated(rng: random.Random) -> bytes:
    """One or two things of a good request replaced, left out, added or renamed, or its bytes damaged."""
    body: Any = {"dataframe_records": [copy.deepcopy(ROW), copy.deepcopy(ROW)], "params": {"k": 5, "exclude": [27]}}
    for _ in range(rng.randint(1, 2)):
        *path, last = rng.choice([place for place in _places(body) if place])
        parent = body
        for key in path:
            parent = parent[key]
        action = rng.choice(["replace", "replace", "replace", "remove", "add", "rename"])
        if action == "replace":
            parent[last] = copy.deepcopy(rng.choice(_RUBBISH))
        elif action == "remove":
            del parent[last]
        elif isinstance(parent, dict):
            parent[rng.choice([*ROW, "exclude", "k", "K", "", "index"])] = copy.deepcopy(rng.choice(_RUBBISH))
            if action == "rename":
                parent.pop(last, None)
        else:
            parent.append(copy.deepcopy(rng.choice(_RUBBISH)))
    data = bytearray(json.dumps(body).encode())
    if rng.random() < 0.25:
        for _ in range(rng.randint(1, 3)):
            data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data[: rng.randrange(len(data))] if rng.random() < 0.05 else data)


def test_no_mutated_request_is_answered_with_more_than_one_line_or_ends_the_service(server):
    good, rng = server.ask(_body(k=5)), random.Random(11)
    memory, statuses = psutil.Process().memory_info().rss, []
    for _ in range(_NUM_FUZZED):
        body = _mutated(rng)
        status, answer = server.ask(body)
        statuses.append(status)
        assert status in (200, 400), body
        if status == 400:
            assert "\n" not in answer["message"], body
            assert len(answer["message"]) < 400, body
        else:
            assert all(len(one["item_ids"]) <= 60 for one in answer["predictions"]), body
    assert statuses.count(400) > _NUM_FUZZED // 2
    assert server.ask(_body(k=5)) == good
    assert psutil.Process().memory_info().rss - memory < 300 << 20


def test_the_door_is_left_as_it_was_once_the_server_is_made(server):
    assert scoring_server._async_catch_mlflow_exception.__module__ == scoring_server.__name__


def test_rows_times_items_are_limited():
    asked.limit(10_000, 100)
    with pytest.raises(ValueError, match="k is 101 for 10,000 rows; rows times k may be 1,000,000 at most"):
        asked.limit(10_000, 101)
    with pytest.raises(ValueError, match="10,001 rows in one request; send at most 10,000"):
        asked.limit(10_001, 1)
