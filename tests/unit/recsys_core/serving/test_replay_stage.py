"""Logged requests asked of a new release and of the live one, as the gate wants them compared."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recsys_core import progress, serving
from recsys_core.serving import replay
from recsys_core.serving.service.recorder import Options, Recorder
from recsys_core.serving.service.sources import Fetched

USER = {"segment": "s1", "age": 30, "history__item_id": [7, 17]}
COMMON = {"num_requests": 1_000, "bundle_digest": "b", "champion_digest": None, "config_hash": "c", "code_version": "v"}


def _log(folder: Path, requests: list[tuple[str, Any]], **options: Any) -> str:
    recorder = Recorder(Options(folder=folder, share=1, **options))
    for path, request in requests:
        recorder.offer(path, "shop/1", request, b"{}", 0.01, "a")
    recorder.close()
    return str(folder)


def _replayed(log: str, output: Path, bundle: Path, champion: Path | None, **fields: Any) -> Any:
    request = replay.Request.model_validate(
        COMMON
        | {
            "output": output,
            "log": log,
            "files": replay.newest(log, fields.get("num_requests", 1_000)),
            "bundle": bundle,
            "champion": None if champion is None else Fetched("shop", "3", champion),
        }
        | fields
    )
    return replay.run(request, progress.silent)


def _items(folder: Path, user: dict[str, Any], k: int) -> list[int]:
    return (
        serving.load(folder)
        .answer({name: [value] for name, value in user.items()}, {"k": k})
        .to_pylist()[0]["item_ids"]
    )


def test_answers_are_compared_with_those_of_the_live_release(folders, tmp_path):
    users = [USER | {"age": age, "segment": f"s{age % 5}"} for age in range(20, 50)]
    asked = [("/recommend", {"user": user, "k": 5}) for user in users]
    others = [("/embed", {"user": USER}), ("/rank", {"user": {}, "items": []}), ("/recommend", {"user": {"age": 3}})]
    log = _log(tmp_path / "log", [*asked, *others])
    same = _replayed(log, tmp_path / "same", folders["a"], folders["a"])
    # What neither answers counts for nothing, and a path that such a model does not have is none of its requests.
    assert (same.num_rows, same.unanswered, same.compared, same.changed, same.overlap) == (32, 0, 30, 0, 1)
    assert (same.champion, same.log) == ("shop/3", log)
    assert same.seconds > 0
    assert same.champion_seconds > 0
    found = _replayed(log, tmp_path / "other", folders["b"], folders["a"])
    before, now = ([_items(folders[name], user, 5) for user in users] for name in ("a", "b"))
    pairs = [*zip(before, now, strict=True)]
    assert found.changed == pytest.approx(np.mean([a[0] != b[0] for a, b in pairs]))
    assert found.overlap == pytest.approx(np.mean([len({*a} & {*b}) / 5 for a, b in pairs]))
    # Without a live release all that does not fit any more is a request that was answered.
    alone = _replayed(log, tmp_path / "alone", folders["a"], None)
    assert (alone.num_rows, alone.unanswered, alone.compared, alone.overlap) == (32, 1, 0, None)
    assert alone.refusal == "/recommend: user.segment: Field required"


def test_requests_that_the_new_release_alone_refuses_are_counted(folders, tmp_path):
    log = _log(tmp_path / "log", [("/recommend", {"user": USER, "filter": {"brand": "b1"}, "k": 3})] * 4)
    without = tmp_path / "shop"
    without.mkdir()
    for part in folders["a"].iterdir():
        if part.name not in ("items.parquet", "digests.json"):
            (without / part.name).symlink_to(part)
    found = _replayed(log, tmp_path / "made", without, folders["a"])
    assert (found.num_rows, found.unanswered, found.compared) == (4, 4, 0)
    assert found.refusal == "/recommend: filter: Extra inputs are not permitted"


def test_of_given_items_the_best_one_is_compared(folders, tmp_path):
    user = {"user": "u1", "age": 0.5, "tags": ["a", None]}
    items = [{"item": number % 8, "shelf": number % 10} for number in range(6)]
    log = _log(
        tmp_path / "log", [("/rank", {"user": user, "items": items}), ("/rank", {"user": user, "items": items[:1]})]
    )
    found = _replayed(log, tmp_path / "made", folders["ctr"], folders["ctr"])
    assert (found.num_rows, found.compared, found.changed, found.overlap) == (2, 1, 0, None)


def test_the_newest_requests_are_replayed_and_a_log_may_be_still_to_come(folders, tmp_path):
    requests = [("/recommend", {"user": USER | {"age": age}, "k": 1}) for age in range(20, 30)]
    log = _log(tmp_path / "log", requests, flush_rows=4)
    files = replay.newest(log, 3)
    assert len(files) == 2
    assert files[0][0] > files[1][0]
    request = {"output": tmp_path, "log": log, "files": files, "bundle": tmp_path, "champion": None}
    rows = [*replay._rows(replay.Request.model_validate(COMMON | request | {"num_requests": 3}))]
    assert [json.loads(row["request"])["user"]["age"] for row in rows] == [28, 29, 27]
    assert _replayed(log, tmp_path / "made", folders["a"], None, num_requests=3).num_rows == 3
    assert replay.newest(str(tmp_path / "absent"), 3) == ()
    nothing = _replayed(str(tmp_path / "absent"), tmp_path / "none", folders["a"], folders["a"])
    assert (nothing.num_rows, nothing.champion, nothing.seconds) == (0, "shop/3", None)
    (tmp_path / "log" / "x.parquet").write_bytes(b"no log")
    with pytest.raises(ValueError, match="x.parquet: cannot be read"):
        replay.newest(log, 100)
