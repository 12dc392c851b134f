"""`dayline serve` over HTTP: what it answers, what it refuses, and that a swap loses and mixes nothing."""

import contextlib
import datetime
import http.client
import json
import os
import random
import re
import shlex
import shutil
import signal
import socket
import string
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

from flows import cli
from recsys_core import integrity, serving
from recsys_core.progress import silent
from recsys_core.serving import impressions
from recsys_core.serving.service import replay
from recsys_core.serving.service.recorder import Options
from recsys_core.serving.service.sources import Fetched

USER = {"segment": "s1", "age": 30, "history__item_id": [7, 17]}
ITEMS = [{"item": 3, "shelf": 3}, {"item": 4, "shelf": 9}, {"item": None, "shelf": 0}]
JSON = "application/json"
TOKEN = "a-token-of-many-signs"
_NUM_FUZZED = 80


@pytest.fixture(scope="module")
def service(folders, run_service):
    return run_service({"release": folders["a"]}, body_seconds=10, max_body_bytes=4_096, max_k=50)


def _answer(folder: Path, user: dict[str, Any], **params: Any) -> dict[str, Any]:
    (row,) = serving.load(folder).answer({name: [value] for name, value in user.items()}, params).to_pylist()
    return row


def _same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found["item_ids"] == expected["item_ids"]
    assert np.array(found["scores"], np.float32).tobytes() == np.array(expected["scores"], np.float32).tobytes()


def test_recommends_what_the_release_does(service, folders):
    status, answer, headers = service.ask("/recommend", {"user": USER, "k": 5})
    assert (status, answer["version"], headers["x-dayline-version"]) == (200, "shop/folder", "shop/folder")
    _same(answer, _answer(folders["a"], USER, k=5))
    assert not {7, 17} & {*answer["item_ids"]}
    _same(service.ask("/recommend", {"user": USER})[1], _answer(folders["a"], USER))
    excluded = answer["item_ids"][:2]
    for params in ({"k": 6, "mask_seen": False}, {"k": 4, "exclude": excluded}):
        _same(service.ask("/recommend", {"user": USER, **params})[1], _answer(folders["a"], USER, **params))
    found = service.ask("/recommend", {"user": USER, "k": 50, "filter": {"brand": "b1", "price": {"min": 9}}})[1]
    places = [(item - 7) // 10 for item in found["item_ids"]]
    assert sorted(places) == [n for n in range(60) if n % 3 == 1 and n * 1.5 >= 9 and n not in (0, 1)]
    assert found["scores"] == sorted(found["scores"], reverse=True)


def test_embeds_what_the_release_does(service, folders):
    status, answer, _ = service.ask("/embed", {"user": USER})
    loaded = serving.load(folders["a"])
    wanted = loaded.embed(loaded.table({name: [value] for name, value in USER.items()}))
    assert (status, answer["version"]) == (200, "shop/folder")
    assert np.array(answer["embedding"], np.float32).tobytes() == wanted.tobytes()


def _without(name: str) -> dict[str, Any]:
    return {key: value for key, value in USER.items() if key != name}


@pytest.mark.parametrize(
    ("body", "place", "message"),
    [
        ({"user": USER, "k": 0}, ["body", "k"], "greater than or equal to 1"),
        ({"user": USER, "k": 51}, ["body", "k"], "less than or equal to 50"),
        ({"user": USER, "k": "5"}, ["body", "k"], "valid integer"),
        ({"user": USER, "top": 5}, ["body", "top"], "not permitted"),
        ({"user": USER | {"x": 1}}, ["body", "user", "x"], "not permitted"),
        ({"user": _without("age")}, ["body", "user", "age"], "required"),
        ({"user": USER | {"age": 30.5}}, ["body", "user", "age"], "valid integer"),
        ({"user": USER | {"age": True}}, ["body", "user", "age"], "valid integer"),
        ({"user": USER | {"age": 2**63}}, ["body", "user", "age"], "less than 9223372036854775808"),
        ({"user": USER | {"segment": 5}}, ["body", "user", "segment"], "valid string"),
        ({"user": USER | {"history__item_id": [7, "x"]}}, ["body", "user", "history__item_id", 1], "valid integer"),
        ({"user": USER, "exclude": [1.5]}, ["body", "exclude", 0], "valid integer"),
        ({"user": USER, "filter": {"colour": "red"}}, ["body", "filter", "colour"], "not permitted"),
        ({"user": USER, "mask_seen": 1}, ["body", "mask_seen"], "valid boolean"),
        ({}, ["body", "user"], "required"),
        (b"[1]", ["body"], "the body is a list; give an object"),
        (b"{", ["body"], "the body is no JSON"),
        (b'{"user": {"age": NaN}}', ["body"], "the body has NaN"),
        (b'{"k": 1, "k": 2}', ["body"], "the body has 'k' twice in an object"),
        (b"\xff", ["body"], "no UTF-8"),
        (b"[" * 4_000, ["body"], "nested too deeply"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_field(service, body, place, message):
    status, answer, headers = service.ask("/recommend", body)
    assert (status, answer["version"], headers["x-dayline-version"]) == (422, "shop/folder", "shop/folder")
    assert (answer["detail"][0]["loc"], message in answer["detail"][0]["msg"]) == (place, True), answer
    assert "input" not in answer["detail"][0]


def test_every_other_refusal_has_a_status_of_its_own(service):
    large = {"user": USER | {"segment": "x" * 5_000}}
    assert service.ask("/recommend", large)[0] == 413
    assert service.ask("/recommend", {"user": USER}, {"Content-Type": "text/plain"})[0] == 415
    assert service.ask("/recommend")[0] == 405
    assert service.ask("/nothing")[0] == 404
    status, answer, _ = service.ask("/rank", {"user": USER})
    assert (status, answer["detail"][0]["msg"]) == (
        404,
        "shop/folder does not answer /rank; it answers /recommend, /embed",
    )
    # A body without a length is not read beyond the limit either.
    with socket.create_connection(("127.0.0.1", service.port)) as raw:
        raw.sendall(b"POST /recommend HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n")
        raw.sendall(b"Transfer-Encoding: chunked\r\n\r\n" + b"800\r\n" + b"x" * 2_048 + b"\r\n")
        raw.sendall(b"900\r\n" + b"x" * 2_304 + b"\r\n")
        assert raw.recv(65_536).startswith(b"HTTP/1.1 413")


def test_the_page_describes_what_is_live_with_a_request_that_is_answered(service):
    page = service.ask("/openapi.json")[1]
    assert {path for path in page["paths"] if "post" in page["paths"][path]} == {"/recommend", "/embed"}
    for path in ("/recommend", "/embed"):
        content = page["paths"][path]["post"]["requestBody"]["content"][JSON]
        assert service.ask(path, content["example"])[0] == 200
        assert content["schema"]["properties"]["user"]
    user = page["components"]["schemas"]["User"]["properties"]
    assert [*user] == ["segment", "age", "history__item_id"]
    assert service.ask("/docs")[0] == 200


def test_its_state_is_shown(service):
    assert service.ask("/health")[:2] == (200, {"status": "alive"})
    assert service.ask("/ready")[:2] == (200, {"status": "ready", "version": "shop/folder"})
    found = service.ask("/version")[1]
    assert found["releases"] == {"retrieval": {"name": "shop", "version": "folder"}}
    before = _counted(service, "/recommend", 200)
    service.ask("/recommend", {"user": USER})
    assert _counted(service, "/recommend", 200) == before + 1
    text = service.ask("/metrics")[1]["text"]
    assert 'dayline_release_info{place="retrieval",release="shop",version="folder"} 1.0' in text
    assert 'dayline_request_seconds_bucket{le="0.005",path="/recommend"}' in text


def _counted(service: Any, path: str, status: int) -> float:
    for line in service.ask("/metrics")[1]["text"].splitlines():
        if line.startswith(f'dayline_requests_total{{path="{path}",status="{status}"}}'):
            return float(line.rpartition(" ")[2])
    return 0.0


def test_a_request_that_cannot_be_taken_in_or_answered_in_time_may_come_again(service, folders, run_service):
    hold, held = threading.Event(), threading.Event()
    other = run_service({"release": folders["a"]}, max_concurrency=2, max_batch=1, request_seconds=1)
    live = other.service.live
    endpoint = live.current.endpoints["/embed"]

    def slow(requests):
        held.set()
        assert hold.wait(600)
        return endpoint.answers(requests)

    live.current = live.current._replace(
        endpoints={**live.current.endpoints, "/embed": endpoint._replace(answers=slow)}
    )
    with ThreadPoolExecutor(2) as threads:
        late = [threads.submit(other.ask, "/embed", {"user": USER}) for _ in range(2)]
        assert held.wait(600)
        # Until one is given up there is no place.
        statuses = {other.ask("/recommend", {"user": USER})[0] for _ in range(3)}
        assert statuses <= {429, 503}
        for status, answer, headers in (one.result() for one in late):
            assert (status, headers["retry-after"]) in ((503, "1"), (429, "1"))
            assert answer["detail"][0]["msg"].startswith(("not answered within 1 s", "2 requests are being"))
    hold.set()
    status = 0
    while status != 200:
        status = other.ask("/recommend", {"user": USER})[0]
        assert status in (200, 429, 503)


def test_a_token_lets_in(folders, run_service, capfd):
    other = run_service({"release": folders["a"]}, token=TOKEN.encode())
    asks = {"user": USER, "k": 2}
    for headers in ({}, {"Authorization": "Bearer no"}, {"Authorization": f"Basic {TOKEN}"}, {"Authorization": TOKEN}):
        status, answer, found = other.ask("/recommend", asks, headers)
        assert (status, found["www-authenticate"], found["x-dayline-version"]) == (401, "Bearer", "shop/folder")
        assert answer["detail"][0]["msg"] == "no valid bearer token"
    for path in ("/version", "/metrics", "/docs", "/openapi.json"):
        assert other.ask(path)[0] == 401
    assert other.ask("/health")[0] == other.ask("/ready")[0] == 200
    assert other.ask("/recommend", asks, {"Authorization": f"Bearer {TOKEN}"})[0] == 200
    assert TOKEN not in "".join(other.lines) + "".join(capfd.readouterr())


def test_clients_that_send_rubbish_or_are_slow_hold_up_no_others(service, ask_on):
    head = b"POST /recommend HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"
    rng = random.Random(5)
    beginnings = [b"", b"POST /reco", head, head + b'{"user', *(rng.randbytes(200) for _ in range(6))]
    with contextlib.ExitStack() as opened:
        slow = [opened.enter_context(socket.create_connection(("127.0.0.1", service.port))) for _ in range(50)]
        for number, one in enumerate(slow):
            one.settimeout(600)
            one.sendall(beginnings[number % len(beginnings)])
        connection = service.connect()
        expected = ask_on(connection, "/recommend", {"user": USER, "k": 3})
        assert expected[0] == 200
        for _ in range(20):
            assert ask_on(connection, "/recommend", {"user": USER, "k": 3})[:2] == expected[:2]
        connection.close()
        # Each is answered or closed, however long it would go on.
        for number, one in enumerate(slow):
            try:
                answer = one.recv(65_536)
            except ConnectionResetError:
                answer = b""
            kind = number % len(beginnings)
            if kind in (2, 3):
                assert answer.startswith(b"HTTP/1.1 408"), answer
            else:
                assert not answer or answer.startswith(b"HTTP/1.1 400"), answer


def test_a_new_release_goes_live_and_an_old_one_again_with_no_answer_lost_or_mixed(folders, run_service, ask_on):
    running = run_service({"release": folders["a"]})
    users = [USER | {"age": age, "history__item_id": [7 + 10 * (age % 60)]} for age in range(20, 32)]
    expected = {f"{name}/1": [_answer(folders[name], user, k=4) for user in users] for name in ("a", "b")} | {
        "shop/folder": [_answer(folders["a"], user, k=4) for user in users]
    }
    over, seen = threading.Event(), set()

    def ask(first: int) -> int:
        connection, number = running.connect(), 0
        while not over.is_set():
            place = (first + number) % len(users)
            status, answer, _ = ask_on(connection, "/recommend", {"user": users[place], "k": 4})
            assert status == 200
            _same(answer, expected[answer["version"]][place])
            seen.add(answer["version"])
            number += 1
        connection.close()
        return number

    with ThreadPoolExecutor(4) as threads:
        clients = [threads.submit(ask, number) for number in range(4)]
        try:
            for name in ("b", "a", "b"):
                wanted = f"{name}/1"
                running.service.take("release", Fetched(name, "1", folders[name]))
                while wanted not in seen and not any(one.done() for one in clients):
                    time.sleep(0.01)
                seen.clear()
        finally:
            over.set()
        assert all(one.result() > 0 for one in clients)
    assert running.ask("/version")[1]["version"] == "b/1"
    assert running.lines[-3:] == [
        "serving b/1, which replaces shop/folder",
        "serving a/1, which replaces b/1",
        "serving b/1, which replaces a/1",
    ]


def test_a_release_that_is_damaged_is_not_taken(folders, run_service, tmp_path):
    running = run_service({"release": folders["a"]})
    shutil.copytree(folders["b"], tmp_path / "bad")
    content = bytearray((tmp_path / "bad" / "index" / "index.faiss").read_bytes())
    content[len(content) // 2] ^= 4
    (tmp_path / "bad" / "index" / "index.faiss").write_bytes(content)
    running.service.take("release", Fetched("shop", "9", tmp_path / "bad"))
    assert running.lines[-1].startswith("shop/folder stays: shop/9: ")
    assert "index.faiss: damaged" in running.lines[-1]
    found = running.ask("/version")[1]
    assert (found["version"], "damaged" in found["refused"]["release"]) == ("shop/folder", True)
    assert running.ask("/recommend", {"user": USER})[0] == 200
    running.service.take("release", Fetched("shop", "10", folders["b"]))
    assert running.ask("/version")[1]["refused"] == {}


def _float32(values: Any) -> list[float]:
    return np.array(values, np.float32).tolist()


def _renamed(folder: Path, copy: Path, rows: str) -> None:
    """Copy a bundle with the column `shelf` of its items called otherwise."""
    shutil.copytree(folder, copy)
    (copy / integrity.SEAL).unlink()
    table = pq.read_table(copy / rows)
    pq.write_table(
        table.rename_columns([{"shelf": "shelf_2"}.get(name, name) for name in table.column_names]), copy / rows
    )
    engine = json.loads((copy / "features" / "engine.json").read_text())
    for feature in engine["config"]["item"]:
        if feature["name"] == "shelf":
            feature["column"] = "shelf_2"
            engine["types"]["item"]["shelf_2"] = engine["types"]["item"].pop("shelf")
    (copy / "features" / "engine.json").write_text(json.dumps(engine))
    integrity.seal(copy, {})


def test_releases_that_only_go_together_are_taken_together(folders, run_service, tmp_path):
    running = run_service({"release": folders["a"], "rank_release": folders["ctr"]})
    _renamed(folders["b"], tmp_path / "shop", "items.parquet")
    _renamed(folders["ctr"], tmp_path / "ctr", "examples.parquet")
    running.service.take("release", Fetched("shop", "2", tmp_path / "shop"))
    assert "reads column 'shelf' of items" in running.ask("/version")[1]["refused"]["release"]
    running.service.take("rank_release", Fetched("ctr", "2", tmp_path / "ctr"))
    found = running.ask("/version")[1]
    assert (found["version"], found["refused"]) == ("shop/2 ctr/2", {})
    # What is live already is not loaded again.
    lines = len(running.lines)
    running.service.take("release", Fetched("shop", "2", tmp_path / "shop"))
    assert len(running.lines) == lines


def test_ranks_what_is_given_and_what_is_found(folders, run_service):
    running = run_service({"release": folders["b"], "rank_release": folders["ctr"]})
    retrieval, scorer = serving.load(folders["b"]), serving.load(folders["ctr"])
    user = {"user": "u1", "age": 0.5, "tags": ["a", None]}
    status, answer, _ = running.ask("/rank", {"user": user, "items": ITEMS})
    rows = {name: [user[name]] * 3 for name in user} | {name: [one[name] for one in ITEMS] for name in ITEMS[0]}
    expected = scorer.answer(rows, {}).to_pydict()
    assert (status, answer["version"]) == (200, "ctr/folder")
    for name in ("probability", "score"):
        assert _float32(answer[name]) == _float32(expected[name])
    assert answer["out_of_range"] == expected["out_of_range"]
    # Both: the age is of whole years for one of them, so a request gives it so.
    both = USER | {"age": 1} | {"user": "u1", "tags": ["a", None]}
    asked = {"user": both, "k": 5, "candidates": 20, "exclude": [27]}
    status, answer, headers = running.ask("/recommend_and_rank", asked)
    assert (status, answer["version"], headers["x-dayline-version"]) == (
        200,
        "shop/folder ctr/folder",
        answer["version"],
    )
    found = _answer(folders["b"], {name: both[name] for name in USER}, k=20, exclude=[27])
    places = [(item - 7) // 10 for item in found["item_ids"]]
    rows = {"user": ["u1"] * 20, "age": [1.0] * 20, "tags": [["a", None]] * 20}
    rows |= {"item": [place % 8 for place in places], "shelf": [place % 10 for place in places]}
    scores = scorer.answer(rows, {})["probability"].to_pylist()
    best = sorted(range(20), key=lambda place: -scores[place])[:5]
    assert answer["item_ids"] == [found["item_ids"][place] for place in best]
    assert _float32(answer["scores"]) == [scores[place] for place in best]
    assert _float32(answer["retrieval_scores"]) == [found["scores"][place] for place in best]
    detail = running.ask("/recommend_and_rank", {"user": both | {"age": 1.5}})[1]["detail"]
    assert detail[0]["loc"] == ["body", "user", "age"]
    assert {*running.ask("/openapi.json")[1]["paths"]} >= {"/recommend", "/embed", "/rank", "/recommend_and_rank"}
    assert isinstance(retrieval, serving.Recommender)


def test_releases_that_do_not_go_together_are_not_served(folders, run_service, tmp_path):
    failed = run_service({"release": folders["a"], "rank_release": folders["b"]}).failed
    assert "shop/folder is a retrieval release, and --rank-release takes a ranking one" in str(failed)
    shutil.copytree(folders["a"], tmp_path / "shop")
    (tmp_path / "shop" / "digests.json").unlink()
    items = pq.read_table(tmp_path / "shop" / "items.parquet")
    pq.write_table(items.drop_columns("shelf"), tmp_path / "shop" / "items.parquet")
    failed = run_service({"release": tmp_path / "shop", "rank_release": folders["ctr"]}).failed
    assert "the ranking release reads column 'shelf' of items, and the items of the retrieval release have" in str(
        failed
    )
    (tmp_path / "shop" / "items.parquet").unlink()
    failed = run_service({"release": tmp_path / "shop", "rank_release": folders["ctr"]}).failed
    assert "the retrieval release has no fields of its items" in str(failed)


def test_the_command_serves_a_folder_and_ends_in_good_order(folders):
    command = [
        sys.executable,
        "-c",
        "from flows import cli; cli.main()",
        "serve",
        "--release",
        str(folders["a"]),
        "--port",
        "0",
    ]
    environment = os.environ | {"DAYLINE_SERVE_TOKEN": TOKEN}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        port = int(process.stderr.readline().rpartition(":")[2])
        assert process.stderr.readline() == "serving shop/folder\n"
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
        body = json.dumps({"user": USER, "k": 2})
        headers = {"Content-Type": JSON, "Authorization": f"Bearer {TOKEN}"}
        connection.request("POST", "/recommend", body, headers)
        assert json.loads(connection.getresponse().read())["version"] == "shop/folder"
        # What has begun is answered, though the signal comes first.
        connection.putrequest("POST", "/recommend")
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            connection.putheader(name, value)
        connection.endheaders()
        process.send_signal(signal.SIGTERM)
        assert process.stderr.readline() == "ending: what was taken in is answered\n"
        connection.send(body.encode())
        answer = connection.getresponse()
        assert (answer.status, len(json.loads(answer.read())["item_ids"])) == (200, 2)
        assert process.wait(600) == 0
        assert TOKEN not in process.stderr.read()


def test_requests_are_logged_by_hour_and_asked_again(folders, run_service, tmp_path):
    log = tmp_path / "log"
    options = Options(folder=log, share=1, drop=("age",), hash=("segment",), flush_rows=3)
    running = run_service({"release": folders["a"]}, logged=options)
    asked = [{"user": _without("age") | {"age": None}, "k": 4}, {"user": USER, "k": 5}, {"user": USER, "k": 0}]
    answers = [running.ask("/recommend", one) for one in (*asked, *asked)]
    assert [status for status, _, _ in answers] == [200, 200, 422] * 2
    named = running.ask("/recommend", asked[0], {"X-Request-Id": "web-1:7"})
    assert named[2]["x-request-id"] == "web-1:7"
    status, refused, _ = running.ask("/recommend", asked[0], {"X-Request-Id": "a b"})
    assert (status, refused["detail"][0]["loc"]) == (422, ["header", "x-request-id"])
    assert running.ask("/embed", {"user": USER})[0] == 200
    running.close()
    files = sorted(log.rglob("*.parquet"))
    assert len(files) == 2
    assert all(file.parent.name.startswith("hour=") and file.parent.parent.name.startswith("date=2") for file in files)
    assert not [one for one in log.rglob("*") if one.name.startswith(".")]
    rows = [*replay.read(log)]
    assert [row["path"] for row in rows] == ["/recommend"] * 5 + ["/embed"]
    ids = [headers["x-request-id"] for status, _, headers in (*answers, named) if status == 200]
    assert [row["request_id"] for row in rows[:-1]] == ids
    assert len(set(ids)) == 5
    # A log of before has no such column, and can be asked again.
    before = pq.read_table(files[0]).drop_columns("request_id")
    pq.write_table(before, tmp_path / "before.parquet")
    assert len([*replay.read(str(tmp_path / "before.parquet"))]) == before.num_rows
    for row, sent, (_, answer, _) in zip(rows, asked[:2] * 2, [a for a in answers if a[0] == 200], strict=False):
        request = json.loads(row["request"])
        assert request["user"]["age"] is None
        assert request["user"]["segment"] not in ("s1", None)
        assert request["user"]["history__item_id"] == [7, 17]
        assert (request["k"], row["version"]) == (sent["k"], "shop/folder")
        assert json.loads(row["answer"]) == answer
        assert row["changed"] == (["age", "segment"] if sent["user"]["age"] else ["segment"])


def test_a_replay_says_how_another_release_answers(folders, run_service, tmp_path, monkeypatch):
    log = tmp_path / "log"
    running = run_service({"release": folders["a"]}, logged=Options(folder=log, share=1))
    users = [USER | {"age": age, "segment": f"s{age % 5}"} for age in range(20, 60)]
    for user in users:
        for path in ("/recommend", "/embed"):
            assert running.ask(path, {"user": user})[0] == 200
    running.close()
    arguments = ["replay", str(log), "--json", "--release"]
    same = CliRunner().invoke(cli.app, [*arguments, str(folders["a"]), "--identical"])
    assert same.exit_code == 0, same.output
    found = json.loads(same.stdout)
    assert (found["total"]["num_requests"], found["total"]["identical"]) == (80, 80)
    assert (found["total"]["overlap"], found["total"]["max_difference"], found["example"]) == (1, 0, None)
    assert found["logged"] == {"shop/folder": 80}
    other = CliRunner().invoke(cli.app, [*arguments, str(folders["b"]), "--identical"])
    assert other.exit_code == 1
    found = json.loads(other.stdout)
    before, now = ([_answer(folders[name], user)["item_ids"] for user in users] for name in ("a", "b"))
    overlap = np.mean([len({*a} & {*b}) / len(a) for a, b in zip(before, now, strict=True)])
    assert found["paths"]["/recommend"]["overlap"] == pytest.approx(overlap)
    assert found["paths"]["/recommend"]["first"] == np.mean([a[0] == b[0] for a, b in zip(before, now, strict=True)])
    assert "differ" in found["example"]
    low = CliRunner().invoke(cli.app, [*arguments[:2], "--release", str(folders["b"]), "--minimum-overlap", "1"])
    assert (low.exit_code, low.stdout.startswith("80 requests asked of shop/folder; ")) == (1, True)
    ranking = CliRunner().invoke(cli.app, [*arguments, str(folders["ctr"]), "--requests", "3"])
    assert json.loads(ranking.stdout)["total"]["missing"] == 3
    # MLflow sets it in the process that asks it.
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    where = ["--run-root", str(tmp_path / "runs")]
    empty = CliRunner().invoke(cli.app, [*arguments[:2], "--release", "nothing", *where])
    assert empty.exit_code == 2
    assert empty.stderr.splitlines()[-1].startswith("error: --release nothing@champion: there is no"), empty.stderr
    # What was asked of one release warms up the next one.
    warm = run_service({"release": folders["b"]}, warm_up=[*replay.read(log, 5)])
    assert warm.ask("/recommend", {"user": USER})[0] == 200


def test_a_service_whose_lines_are_read_by_no_one_ends_too(folders):
    command = [sys.executable, "-c", "from flows import cli; cli.main()", "serve", "--port", "0", "--release"]
    with subprocess.Popen([*command, str(folders["a"])], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("listening on")
        assert process.stderr.readline() == "serving shop/folder\n"
        process.stderr.close()
        process.terminate()
        assert process.wait(600) == 0


def _rounds_rows_alike() -> bool:
    """Whether this processor multiplies a row to the same bits alone and among others."""
    layers = [torch.nn.Linear(width, 8) for width in (8, 24, 40)]
    for layer in layers:
        rows = torch.linspace(-1, 1, 12 * layer.in_features).view(12, -1).sin()
        with torch.no_grad():
            if not torch.equal(layer(rows), torch.cat([layer(row) for row in rows.split(1)])):
                return False
    return True


def test_every_way_gives_the_same_bits(service, folders, run_service, tmp_path):
    url = f"http://127.0.0.1:{service.port}"
    arguments = ["check-serving", "--json", "--release"]
    ended = CliRunner().invoke(cli.app, [*arguments, str(folders["a"]), "--url", url])
    assert (ended.exit_code, ended.exception) == (0, None), ended.output
    found = json.loads(ended.stdout)
    assert {way: one["identical"] for way, one in found["ways"]["vectors"].items()} == {
        "together": 12,
        "measured": 12,
        "service": 12,
    }
    ranking = run_service({"release": folders["ctr"]}, token=TOKEN.encode())
    (tmp_path / "token").write_text(TOKEN)
    options = ["--url", f"http://127.0.0.1:{ranking.port}", "--token-file", str(tmp_path / "token")]
    # Some processors' products round otherwise by how many rows they are of; then the command says how far off.
    expected = 0 if _rounds_rows_alike() else 1
    ended = CliRunner().invoke(cli.app, [*arguments[:1], "--release", str(folders["ctr"]), *options])
    assert ended.exit_code in (0, expected), ended.output
    assert "ctr/folder, probability, service: 12 of 12 rows the same" in ended.stdout
    assert "eager: not compared (the folder of a bundle has no training beside it; name one with" in ended.stderr
    training = folders["ctr"].parent / "ctr-run" / "train"
    ended = CliRunner().invoke(cli.app, [*arguments, str(folders["ctr"]), "--checkpoint", str(training)])
    assert ended.exit_code in (0, expected), ended.output
    found = json.loads(ended.stdout)
    for name in ("score", "probability"):
        assert max(one["max_difference"] for one in found["ways"][name].values()) <= 1e-6
    assert found["left_out"] == {"service": "no --url"}
    for name in ("score", "probability"):
        assert found["ways"][name]["eager"]["max_difference"] <= found["ways"][name]["eager"]["tolerance"]
    refused = CliRunner().invoke(cli.app, [*arguments, str(folders["ctr"]), "--url", url])
    assert (refused.exit_code, "does not answer /rank" in refused.stderr) == (2, True)
    # A measured vector whose last bit is another one is seen.
    shutil.copytree(folders["a"], tmp_path / "shop")
    (tmp_path / "shop" / integrity.SEAL).unlink()
    rows = pq.read_table(tmp_path / "shop" / "queries.parquet")
    vectors = np.stack(rows["embedding"].to_numpy(zero_copy_only=False)).copy()
    vectors[3, 2] = np.nextafter(vectors[3, 2], np.float32(9))
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
    place = rows.column_names.index("embedding")
    pq.write_table(rows.set_column(place, "embedding", column), tmp_path / "shop" / "queries.parquet")
    ended = CliRunner().invoke(cli.app, [*arguments, str(tmp_path / "shop")])
    assert ended.exit_code == 1
    assert json.loads(ended.stdout)["ways"]["vectors"]["measured"]["identical"] == 11
    ended = CliRunner().invoke(cli.app, [*arguments[:1], "--release", str(tmp_path / "shop")])
    assert ended.exit_code == 1
    assert "/folder, vectors, measured: 11 of 12 rows the same, the others by at most " in ended.stdout


def _rubbish(rng: random.Random, depth: int = 0) -> Any:
    plain = [None, True, False, 0, -1, 7, 2**31, 2**63 - 1, 2**63, -(2**63), 10**400, 0.5, -1e300, 1e-300, "user", [7]]
    kind = rng.randrange(9 if depth < 3 else 7)
    if kind < 5:
        return rng.choice([*plain, {"min": 1}, "b1"])
    if kind < 7:
        return "".join(rng.choices([*string.printable, "é", "\ud800", "\x00"], k=rng.randrange(9)))
    if kind == 7:
        return [_rubbish(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {rng.choice(["min", "max", "age", "x"]): _rubbish(rng, depth + 1) for _ in range(rng.randrange(3))}


def test_no_rubbish_is_answered_by_a_fault(service, ask_on):
    rng, connection, statuses = random.Random(3), service.connect(), []
    for _ in range(_NUM_FUZZED):
        body: dict[str, Any] = {"user": dict(USER), "k": 3, "filter": {"brand": "b1"}}
        for _ in range(rng.randrange(1, 3)):
            place = rng.choice([body, body["user"], body["filter"]] if isinstance(body.get("user"), dict) else [body])
            if isinstance(place, dict):
                names = [*place, "exclude", "mask_seen", "price", "x"]
                place[rng.choice(names)] = _rubbish(rng)
            if not isinstance(body.get("filter"), dict):
                break
        status, answer, _ = ask_on(connection, rng.choice(["/recommend", "/embed"]), body)
        statuses.append(status)
        assert status in (200, 422), (body, answer)
    assert statuses.count(422) > _NUM_FUZZED // 2
    assert 200 in statuses
    connection.close()


def test_the_clients_of_the_page_are_answered(folders, run_service, tmp_path):
    page = (Path(__file__).parents[4] / "docs" / "serving.md").read_text()
    service = run_service({"release": folders["a"]}, token=TOKEN.encode())
    (program,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    here = f"127.0.0.1:{service.port}"
    known = f"user = {USER!r}\ntoken = {TOKEN!r}\n"
    program = known + program.replace("127.0.0.1:8080", here).replace("timeout=1", "timeout=600")
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    found = _answer(folders["a"], USER, k=3)
    assert ended.stdout == f"shop/folder {found['item_ids']}\n"
    command = shlex.split(re.search(r"\$ (curl -s \S+/recommend .*)", page)[1].replace("127.0.0.1:8080", here))
    assert shutil.which("curl"), "the page shows it"
    (tmp_path / "request.json").write_text(json.dumps({"user": USER, "k": 3}))
    command += ["-H", f"Authorization: Bearer {TOKEN}"]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert json.loads(ended.stdout)["item_ids"] == found["item_ids"]


def test_a_log_of_served_lists_is_joined_to_clicks(folders, run_service, tmp_path):
    log = tmp_path / "log"
    running = run_service({"release": folders["a"]}, logged=Options(folder=log, share=1, drop=("age",)))
    found = [running.ask("/recommend", {"user": USER, "k": 3}) for _ in range(4)]
    running.close()
    lists = [(headers["x-request-id"], answer["item_ids"]) for _, answer, headers in found]
    now = datetime.datetime.now(datetime.UTC)
    clicks = pa.table(
        {"request_id": [lists[1][0], lists[2][0], ""], "item_id": [lists[1][1][2], lists[2][1][0], 1], "at": [now] * 3}
    )
    # The last one shows that the clicks are there up to a later day.
    later = pa.array([now + datetime.timedelta(days=days) for days in (0, 0, 3)])
    pq.write_table(clicks.set_column(2, "at", later), tmp_path / "clicks.parquet")
    options = impressions.Options(click_time="at", leave_out=("age",), window_seconds=86_400)
    request = impressions.Request(
        log=str(log),
        clicks=str(tmp_path / "clicks.parquet"),
        out=tmp_path / "out",
        now=now + datetime.timedelta(days=5),
        options=options,
    )
    report = impressions.run(request, silent)
    assert sum(day.counts.positives for day in report.days if day.counts) == 2
    parts = sorted((tmp_path / "out").glob("ds=*/*.parquet"))
    rows = pa.concat_tables([pq.ParquetFile(part).read() for part in parts]).to_pylist()
    shown = [(name, place, item) for name, items in lists for place, item in enumerate(items, 1)]
    assert [(row["request_id"], row["position"], row["item_id"]) for row in rows] == shown
    assert [place for place, row in enumerate(rows) if row["click"]] == [5, 6]
    assert {row["version"] for row in rows} == {"shop/folder"}
    assert all(row["segment"] == USER["segment"] and "age" not in row for row in rows)
    assert rows[0]["history__item_id"] == USER["history__item_id"]
