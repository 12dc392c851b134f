"""Ingest, the first stage: bring the log into the daily layout, and check all of it before anything is trained.

A kind that is not in the daily layout is imported once below `import_root`, and found there by the next run.
"""

import contextlib
import datetime
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar

from recsys_core import artifacts, lookup, uri
from recsys_core.artifacts import Dataset, digest_of, digest_of_file
from recsys_core.datasets import _checks, base, daily
from recsys_core.progress import Sink

CATALOGUE = "recsys_core.datasets"
Config = Annotated[base.Config, lookup.OneOf(CATALOGUE)]
"""The YAML section `data`: the `Config` of whichever kind it names."""


class Request(artifacts.Request):
    """`fingerprint` is that of the source, see `fingerprint`: where the log lies or is imported to does not count."""

    UNKEYED: ClassVar[frozenset[str]] = artifacts.Request.UNKEYED | {"import_root"}

    config: Config
    day: datetime.date
    import_root: Path
    fingerprint: str


def run(request: Request, sink: Sink) -> Dataset:
    """Import the log if that is not yet done, check it up to the day after `day`, and report what it holds.

    Raises:
        ValueError: a bad source, or a log that must not be trained on; nothing is written then.
    """
    root = prepare(request.config, request.import_root, sink)
    daily.require_day(root, request.day)
    checked = _checks.check(root, request.day + datetime.timedelta(days=1), sink)
    with artifacts.pending(request.output) as aside:
        # The digest of these two files is the dataset's, so it follows from the content and not from where it lies.
        files = [file.model_dump(mode="json") for file in checked.files]
        artifacts.write_text(aside.path / "files.json", json.dumps(files, indent=1))
        days = [day.model_dump(mode="json") for day in checked.days]
        report = {"day": request.day.isoformat(), "days": days, "columns": checked.columns}
        artifacts.write_text(aside.path / "report.json", json.dumps(report, indent=1))
        return aside.commit(
            Dataset,
            request,
            num_rows=sum(day.num_interactions for day in checked.days),
            root=root,
            day=request.day,
            days=checked.days,
            columns=checked.columns,
        )


def fingerprint(config: base.Config, day: datetime.date) -> str:
    """Return a digest of the source as a run for `day` sees it, from names, sizes and times; no content is read.

    Of a log read in place only the partitions up to the day after count: tomorrow's make no difference to today.
    """
    if config.in_place:
        return daily.fingerprint(_in_place(config), day)
    return source_fingerprint(config)


def last_day(config: base.Config, import_root: Path, sink: Sink) -> datetime.date:
    """Return the last day that can be run: it has interactions, and the day after has, too. Imports if need be.

    Raises:
        ValueError: a bad source, or no such day.
    """
    return daily.last_day(prepare(config, import_root, sink))


def prepare(config: base.Config, import_root: Path, sink: Sink, catalogue: str = CATALOGUE) -> Path:
    """Return the root of what `config` names in its catalogue's layout, importing it unless that has been done."""
    if config.in_place:
        return _in_place(config)
    destination = import_root / f"{config.kind}-{source_fingerprint(config, catalogue)}"
    with _locked(destination.parent):
        if not destination.exists():
            _import(config, destination, sink, catalogue)
    return destination.absolute()


def import_log(
    config: base.Config, destination: Path, sink: Sink, *, overwrite: bool = False, catalogue: str = CATALOGUE
) -> Any:
    """Write the source in its catalogue's layout at `destination`, which appears when it is complete and not before.

    Returns what the kind's `write` does: of a log its `Counts`, of labelled tables the rows of each split.

    Raises:
        ValueError: a bad source, a kind that is read in place, or a `destination` that exists without `overwrite`.
    """
    if config.in_place:
        raise ValueError(f"{config.source}: {config.kind} is the daily layout already; name it as data.source")
    with _locked(destination.absolute().parent):
        if destination.exists() and not overwrite:
            raise ValueError(f"{destination}: exists; name another folder, or allow it to be overwritten")
        return _import(config, destination, sink, catalogue)


def _import(config: base.Config, destination: Path, sink: Sink, catalogue: str) -> Any:
    aside = destination.with_name(f".{destination.name}.partial")
    if aside.exists():
        shutil.rmtree(aside)
    try:
        counts = lookup.component(catalogue, config.kind).write(config, aside, sink)
        artifacts.move_into_place(aside, destination)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return counts


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    # Two runs of one new source would otherwise import it into the same place; the second waits and finds it there.
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _in_place(config: base.Config) -> Path:
    if uri.is_remote(config.source):
        raise ValueError(f"{config.source}: a log is read from local folders only; mount it or copy it")
    return Path(config.source).expanduser().absolute()


def source_fingerprint(config: base.Config, catalogue: str = CATALOGUE) -> str:
    """Return a digest of a source that is imported whole, and of the code that imports it; no content is read."""
    module = lookup.component(catalogue, config.kind)
    # An importer that was changed must import again.
    own = Path(str(module.__file__))
    code = sorted({*Path(base.__file__).parent.glob("*.py"), *own.parent.glob("*.py")})
    if hasattr(module, "fingerprint"):
        source = module.fingerprint(config)
    else:
        # What a URL holds is pinned by its checksum, which is one of the configuration's keys.
        where: str | None = config.source
        read = where is not None and not where.startswith(("http://", "https://"))
        source = uri.fingerprint(uri.resolve(str(where), suffixes=("",))) if read else None
    # A ranking table's day is only what its runs are named by.
    fields = config.model_dump(mode="json", exclude={"source", "day"})
    return digest_of([fields, source, [digest_of_file(file) for file in code]])
