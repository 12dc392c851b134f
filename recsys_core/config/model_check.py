"""The check of a config's model, which takes torch: in a process of its own, and not again once it has been passed.

What has been passed is remembered as an empty file in the user's cache, named after all that the check depends on.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from recsys_core import fault
from recsys_core.artifacts import Checkpoint, code_version, digest_of
from recsys_core.config import RankingConfig, RunConfig
from recsys_core.features import Engine
from recsys_core.variables import without_credentials

_GRACE_SECONDS = 5
# Devices that torch may find GPUs behind.
_GPUS = ("nvidia", "kfd", "dxg")


class Asked:
    """A process that was asked about a config."""

    def __init__(self, config: RunConfig | RankingConfig, **more: Any) -> None:
        """Start it; `more` is part of the question."""
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `end`
        self._process = subprocess.Popen(
            [sys.executable, "-m", "recsys_core.config"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=without_credentials(os.environ),
            start_new_session=True,
            text=True,
        )
        question = {"ranking": isinstance(config, RankingConfig), "config": config.model_dump(mode="json")} | more
        assert self._process.stdin is not None
        # It ends when this pipe does, as it does with this process.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(f"{json.dumps(question)}\n")
            self._process.stdin.flush()

    def answer(self) -> Any:
        """Return what it found.

        Raises:
            ValueError: the config will not do.
            Fault: something that no code expected.
            RuntimeError: the process died.
        """
        assert self._process.stdout is not None
        lines = self._process.stdout.read().strip().splitlines()
        if self._process.wait() or not lines:
            self._errors.seek(0)
            last = self._errors.read().decode(errors="replace").strip().rpartition("\n")[2]
            raise RuntimeError(f"the process that builds the model ended, code {self._process.returncode}: {last}")
        answer = json.loads(lines[-1])
        if "error" in answer:
            raise ValueError(answer["error"])
        if "fault" in answer:
            raise fault.Fault(answer["fault"])
        return answer["found"]

    def end(self) -> None:
        """End it, if it still runs."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()


class ModelCheck:
    """The check of one config: begun, unless it has been passed before."""

    def __init__(self, config: RunConfig | RankingConfig) -> None:
        """Start the process."""
        self._passed = _record(config)
        self._asked = None if self._passed is not None and self._passed.exists() else Asked(config)

    def wait(self) -> None:
        """Return once the model has passed.

        Raises:
            ValueError: see `building.check`.
        """
        if self._asked is None:
            return
        gpus = self._asked.answer()
        # What there is of GPUs depends on drivers and on other programs.
        if self._passed is not None and not gpus:
            # Where nothing can be written the next check takes longer, and that is all.
            with contextlib.suppress(OSError):
                self._passed.parent.mkdir(parents=True, exist_ok=True)
                self._passed.touch()

    def end(self) -> None:
        """End the process, if there is one."""
        if self._asked is not None:
            self._asked.end()


@contextlib.contextmanager
def begun(config: RunConfig | RankingConfig) -> Iterator[ModelCheck]:
    """Check the model of `config` meanwhile; `wait` of what is yielded returns when that is done."""
    check = ModelCheck(config)
    try:
        yield check
    finally:
        check.end()


def check(config: RunConfig | RankingConfig) -> None:
    """Check that the model can be built of its features, and trained on this machine.

    Raises:
        ValueError: see `building.check`.
    """
    with begun(config) as checking:
        checking.wait()


def changes(config: RunConfig | RankingConfig, base: Checkpoint, before: Path) -> list[str]:
    """Return what differs from the training that is continued, whose features lie in `before`.

    Raises:
        ValueError: see `continuing.changes`.
    """
    asked = Asked(config, base=base.model_dump(mode="json"), before=str(before))
    try:
        return asked.answer()
    finally:
        asked.end()


def _record(config: RunConfig | RankingConfig) -> Path | None:
    """Return the file that is there if the check has been passed.

    None for code that is not ours, as it may change, and where the user has no place for files.
    """
    home, caches = os.environ.get("HOME"), os.environ.get("XDG_CACHE_HOME")
    sections = config.model_dump(mode="json", include={"model", "loss", "train", "launch", "ranking"})
    losses = [sections["loss"]]
    losses += [task["loss"] for task in sections.get("ranking", {}).get("tasks", {}).values() if task["loss"]]
    losses += [part["loss"] for loss in losses if loss["kind"] == "weighted" for part in loss["parts"]]
    kinds = [sections["model"]["kind"], *(loss["kind"] for loss in losses)]
    if any("." in kind for kind in kinds) or not (home or caches):
        return None
    engine = Engine.build(config.features)
    features = [
        [engine.sparse_features(side), engine.dense_features(side), engine.number_sequences(side)]
        for side in ("query", "item")
    ]
    machine = [
        psutil.virtual_memory().total,
        sorted(str(path) for name in _GPUS for path in Path("/dev").glob(f"{name}*")),
        {name: value for name, value in os.environ.items() if name.endswith("_VISIBLE_DEVICES")},
    ]
    described = [code_version(), fault.versions(), type(config).__name__, sections, repr((engine.tables, features))]
    return Path(caches or f"{home}/.cache") / "dayline" / "models" / digest_of([*described, machine])
