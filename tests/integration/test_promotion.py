"""Two processes publish at once, into a file and into a server: the newest day is live, and the history is true."""

import datetime
import functools
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from recsys_core import registry, tracking
from recsys_core.registry import lock

FIRST = datetime.date(2024, 3, 1)
# Promotes a version. When it has looked what is live it says so, and before it moves the aliases, where it waits for a
# line if it is asked to.
PROMOTE = """
import contextlib, sys
from recsys_core import registry, tracking
from recsys_core.registry import aliases
uri, name, version, waits = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "waits"
release = next(info for info in registry.releases(uri, name) if info.version == version)
move, lock = aliases.make_live, aliases.locked
@contextlib.contextmanager
def locking(*arguments):
    print("looked", flush=True)
    with lock(*arguments):
        yield
def moving(*arguments):
    print("moving", flush=True)
    if waits:
        sys.stdin.readline()
    return move(*arguments)
aliases.make_live, aliases.locked = moving, locking
print("ready", flush=True)
sys.stdin.readline()
print(registry.promote(tracking.connect(uri), release), flush=True)
"""


class Promoting:
    def __init__(self, forking: Any, uri: str, name: str, version: int, *, waits: bool = False) -> None:
        arguments = ["-c", PROMOTE, uri, name, str(version), "waits" if waits else ""]
        self._process = forking.start(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def output(self) -> str:
        return self._process.stdout.readline().strip()

    def go_on(self) -> None:
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def rest(self) -> str:
        return self._process.communicate()[0]

    def kill(self) -> None:
        self._process.kill()


def register(uri: str, name: str, day: int) -> int:
    client = tracking.connect(uri)
    run = client.create_run("0")
    model = client.create_logged_model("0", name="bundle", source_run_id=run.info.run_id)
    client.finalize_logged_model(model.model_id, "READY")
    tags = {
        "day": str(FIRST + datetime.timedelta(days=day - 1)),
        "run_id": f"run-{day}",
        "bundle_digest": "b" * 32,
        "ground_truth_digest": "g" * 32,
        "metrics": json.dumps({"hit_rate_at_50": 0.2}),
        "checkpoint": f"{name}/{day}/train",
        "model": f"{name}/{day}/export",
        "checked": "true",
    }
    tagged = {registry.PREFIX + key: value for key, value in tags.items()}
    source = f"models:/{model.model_id}"
    made = client.create_model_version(name, source, run.info.run_id, tags=tagged, model_id=model.model_id)
    return int(made.version)


def shown(uri: str, name: str) -> dict[int, tuple[str, int | None]]:
    """By version: L(ive) or P(revious), and which version it replaced."""
    return {
        info.version: ("L" * info.live + "P" * info.previous, info.replaced) for info in registry.releases(uri, name)
    }


def locks(client: MlflowClient) -> list[str]:
    return [found.name for found in client.search_registered_models() if found.name.endswith(".being-promoted")]


@pytest.fixture(params=["file", "server"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "server":
        return request.getfixturevalue("mlflow_server").uri
    tracking.check(tracking.Config(), tmp_path)
    return tracking.location(tracking.Config(), tmp_path)


@pytest.fixture
def promote(forking: Any) -> Callable[..., Promoting]:
    return functools.partial(Promoting, forking)


def test_the_newest_day_is_live_whichever_run_comes_last(uri: str, promote: Callable[..., Promoting]) -> None:
    name = f"pair-{uri.partition(':')[0]}"
    client = tracking.connect(uri)
    client.create_registered_model(name)
    first, older, newer = (register(uri, name, day) for day in (3, 4, 5))
    slow = promote(uri, name, older, waits=True)
    fast = promote(uri, name, newer)
    alone = promote(uri, name, first)
    for process in (slow, fast, alone):
        assert process.output() == "ready"
    alone.go_on()
    assert alone.rest().endswith("None\n")
    # The older day has found nothing against it, and is about to move the aliases when the newer one comes.
    slow.go_on()
    assert [slow.output(), slow.output()] == ["looked", "moving"]
    fast.go_on()
    assert fast.output() == "looked"
    slow.go_on()
    assert slow.rest().endswith("None\n")
    assert fast.rest().endswith("None\n")
    assert shown(uri, name) == {newer: ("L", older), older: ("P", first), first: ("", 0)}
    assert set(client.get_registered_model(name).aliases) == {"champion", "previous"}
    # Again, the older day looks first and is overtaken.
    newest = register(uri, name, 9)
    late = register(uri, name, 8)
    fast, slow = promote(uri, name, newest, waits=True), promote(uri, name, late)
    assert [fast.output(), slow.output()] == ["ready", "ready"]
    fast.go_on()
    assert [fast.output(), fast.output()] == ["looked", "moving"]
    slow.go_on()
    assert slow.output() == "looked"
    fast.go_on()
    assert fast.rest().endswith("None\n")
    assert f"not live: version {newest} of the later day 2024-03-09 stays live" in slow.rest()
    assert shown(uri, name)[newest] == ("L", newer)
    assert shown(uri, name)[late] == ("", None)
    assert not locks(client)


def test_a_process_that_died_with_the_lock_holds_up_no_other(
    uri: str, promote: Callable[..., Promoting], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"died-{uri.partition(':')[0]}"
    client = tracking.connect(uri)
    client.create_registered_model(name)
    older, newer = register(uri, name, 4), register(uri, name, 5)
    dies = promote(uri, name, older, waits=True)
    assert dies.output() == "ready"
    dies.go_on()
    assert [dies.output(), dies.output()] == ["looked", "moving"]
    dies.kill()
    monkeypatch.setattr(lock, "STALE_SECONDS", 0.5)
    assert len(locks(client)) == uri.startswith("http")
    with lock.locked(client, uri, name):
        pass
    again, other = promote(uri, name, older), promote(uri, name, newer)
    for process in (again, other):
        assert process.output() == "ready"
        process.go_on()
    assert other.rest().endswith("None\n")
    again.rest()
    assert shown(uri, name)[newer][0] == "L"
    assert not locks(client)
