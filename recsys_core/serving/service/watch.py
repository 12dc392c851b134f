"""Sees which version of a registered model is to be served, and fetches it: a process of its own, beside the service.

MLflow's client takes seconds to import and the interpreter's lock to talk, and a download is as large as an index. What
it finds is one line of JSON on standard output. It ends with the process that holds its standard input.
"""

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pydantic import ValidationError

from recsys_core import launch, registry, tracking
from recsys_core.artifacts import Frozen, pending
from recsys_core.artifacts.core import move_into_place
from recsys_core.integrity import verify_sealed
from recsys_core.redaction import redact
from recsys_core.registry import ReleaseInfo, named
from recsys_core.serving.service.sources import Fetched, Registered

_PATIENCE = 6
_KEPT = 3  # releases on the disk: what is live, what it replaced, and what comes


class Watched(Frozen):
    """What to look at: places by name, each a registered model and which of its versions; where MLflow is."""

    places: dict[str, Registered]
    uri: str
    cache: Path
    poll_seconds: float


class Line(Frozen):
    """What was found of a place: a release that is to be served from now on, or why there is none."""

    place: str
    release: Fetched | None = None
    error: str | None = None


def main() -> int:
    """Look until standard input ends; its first line says what at."""
    watched = Watched.model_validate_json(sys.stdin.buffer.readline())
    threading.Thread(target=launch.exit_with_starter, daemon=True, name="watch-stdin").start()
    said: dict[str, str] = {}
    while True:
        for place, wanted in watched.places.items():
            line = _look(place, wanted, watched).model_dump_json()
            if said.get(place) != line:
                said[place] = line
                sys.stdout.write(f"{line}\n")
                sys.stdout.flush()
        # What is away, or damaged, is not asked for again at once.
        has_failed = any(Line.model_validate_json(line).error is not None for line in said.values())
        time.sleep(watched.poll_seconds * (_PATIENCE if has_failed else 1))


def _look(place: str, wanted: Registered, watched: Watched) -> Line:
    try:
        return Line(place=place, release=fetched(found(wanted, watched.uri), watched.uri, watched.cache))
    except Exception as error:  # noqa: BLE001 - a registry that is away for a while holds up nothing that is served
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        return Line(place=place, error=redact(f"{kind}{error}".partition("\n")[0]))


def found(wanted: Registered, uri: str) -> ReleaseInfo:
    """Return the version that is wanted now; what moves every day is looked for without MLflow, where that goes.

    Raises:
        ValueError: there is none; names those that there are.
    """
    if not wanted.name or not (wanted.which in (registry.CHAMPION, registry.PREVIOUS) or wanted.which.isdecimal()):
        return named.release_info(wanted.text, uri)[1]
    database = tracking.database(tracking.Config(uri=uri), Path())
    known = registry.listed(database, wanted.name) if database is not None else None
    if known is None:
        known = registry.releases(uri, wanted.name)
    for info in known:
        aliases = {registry.CHAMPION: info.live, registry.PREVIOUS: info.previous}
        if aliases.get(wanted.which, str(info.version) == wanted.which):
            return info
    there = ", ".join(str(info.version) for info in known) or "none"
    raise ValueError(f"{wanted.name} has no version {wanted.which}; there are: {there}")


def fetched(info: ReleaseInfo, uri: str, cache: Path) -> Fetched:
    """Return a release's bundle on this machine; it is downloaded whole or not at all, and what is old is deleted.

    Raises:
        ValueError: what was downloaded is damaged.
    """
    folder = cache / info.name / f"{info.version}-{info.bundle_digest[:12]}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / ".lock").open("w") as lock:
        # Services of one machine may share the cache.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            _download(info, uri, folder)
        os.utime(folder)
        kept = sorted(folder.parent.glob("[0-9]*"), key=lambda one: one.stat().st_mtime)
        for old in kept[:-_KEPT]:
            shutil.rmtree(old)
    return Fetched(info.name, str(info.version), folder)


def _download(info: ReleaseInfo, uri: str, folder: Path) -> None:
    tracking.connect(uri)
    from mlflow.artifacts import download_artifacts

    with pending(folder) as aside:
        source = f"models:/{info.name}/{info.version}/artifacts"
        bundle = Path(download_artifacts(artifact_uri=source, dst_path=str(aside.path)))
        verify_sealed(bundle)
        move_into_place(bundle, folder)
        shutil.rmtree(aside.path, ignore_errors=True)


class Watcher:
    """The process, seen from the service; one that ends by itself is started again."""

    def __init__(self, watched: Watched) -> None:
        """See `lines`."""
        self._watched = watched
        self._process: subprocess.Popen[bytes] | None = None
        self._is_closed = threading.Event()

    def lines(self, on_end: Callable[[int], None]) -> Iterator[Line]:
        """Yield what it finds, until `close`; `on_end` gets the exit code of a process that ended by itself."""
        asked = f"{self._watched.model_dump_json()}\n".encode()
        while not self._is_closed.is_set():
            command = [sys.executable, "-m", "recsys_core.serving.service.watch"]
            with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
                self._process = process
                assert process.stdin is not None
                assert process.stdout is not None
                with contextlib.suppress(BrokenPipeError):  # it has ended, and is started again
                    process.stdin.write(asked)
                    process.stdin.flush()
                for line in process.stdout:
                    try:
                        yield Line.model_validate_json(line)
                    except ValidationError:
                        continue  # a library's own words
            if not self._is_closed.is_set():
                on_end(process.returncode)
            self._is_closed.wait(self._watched.poll_seconds)

    def close(self) -> None:
        """End it."""
        self._is_closed.set()
        if self._process is not None:
            self._process.kill()


if __name__ == "__main__":
    sys.exit(main())
