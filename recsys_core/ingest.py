"""Ingest, the first stage: bring the log into the daily layout, and check all of it before anything is trained.

A kind that is not in the daily layout is imported once below `import_root`, and found there by the next run; of one
whose source is parted by day, each day is.
"""

import contextlib
import datetime
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

from recsys_core import artifacts, holdout, integrity, lookup, uri
from recsys_core.artifacts import Dataset, Frozen, Holdout, NextDay, digest_of, digest_of_file
from recsys_core.datasets import _checks, base, daily
from recsys_core.progress import Event, Sink, silent

T = TypeVar("T")

CATALOGUE = "recsys_core.datasets"
_IMPORTED = ".imported"
_NEXT_DAY = NextDay()
Config = Annotated[base.Config, lookup.OneOf(CATALOGUE)]
"""The YAML section `data`: the `Config` of whichever kind it names."""


class Request(artifacts.Request):
    """`fingerprint` is that of the source, see `fingerprint`: where the log lies or is imported to does not count."""

    UNKEYED: ClassVar[frozenset[str]] = artifacts.Request.UNKEYED | {"import_root"}

    config: Config
    day: datetime.date
    holdout: Holdout = NextDay()
    import_root: Path
    fingerprint: str


def run(request: Request, sink: Sink) -> Dataset:
    """Import the log if that is not yet done, check it up to the day that is measured on, and report what it holds.

    Raises:
        ValueError: a bad source, or a log that must not be trained on; nothing is written then.
    """
    root = prepare(request.config, request.import_root, sink, day=request.day, held_out=request.holdout)
    last = holdout.last_day(request.day, request.holdout)
    name = _name(request.config)
    daily.require_day(root, request.day, name("interactions", None) if name else None, last=last)
    if not request.config.in_place:
        _refuse_other_rows(root, last)
    checked = _checks.check(root, last, sink, name)
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


def _name(config: base.Config) -> _checks.Name | None:
    """Return what to call tables and files in messages: those of the source, not of the copy that was made of it."""
    if config.in_place:
        return None

    def name(table: str, path: Path | None) -> str:
        source = config.source[table] if isinstance(config.source, dict) else config.source
        place = str(source or config.kind)
        return place if path is None else f"{place}, {path.parent.name}"

    return name


def fingerprint(config: base.Config, day: datetime.date, held_out: Holdout = _NEXT_DAY) -> str:
    """Return a digest of the source as a run for `day` sees it, from names, sizes and times; no content is read.

    Of a log read in place, or one that is parted by day, only the partitions up to the day that is measured on count:
    those that come later make no difference to today.
    """
    last = holdout.last_day(day, held_out)
    if config.in_place:
        return daily.fingerprint(_in_place(config), day, last)
    if (parts := _days(config, last)) is not None:
        return digest_of([_of_config(config, exclude={"source"}), {str(at): _digest(own) for at, own in parts.items()}])
    return source_fingerprint(config)


def last_day(config: base.Config, import_root: Path, sink: Sink, held_out: Holdout = _NEXT_DAY) -> datetime.date:
    """Return the last day that can be run: it has interactions, and so has the one that is measured on.

    Imports if need be.

    Raises:
        ValueError: a bad source, or no such day.
    """
    alone = not isinstance(held_out, NextDay)
    if config.in_place or (parts := _days(config, None)) is None:
        name = _name(config)
        place = name("interactions", None) if name else None
        return daily.last_day(prepare(config, import_root, sink), place=place, alone=alone)
    there = {at for at, own in parts.items() if "interactions" in own}
    runs = (at for at in there if alone or (at < datetime.date.max and base.day_after(at) in there))
    day = max(runs, default=None)
    if day is None:
        path = config.source["interactions"]
        wanted = "no day of interactions" if alone else "no two days of interactions in a row"
        raise ValueError(f"{path}: {wanted}, and a run needs a day{'' if alone else ' and the one after it'}")
    root = prepare(config, import_root, sink, day=day, held_out=held_out)
    return daily.last_day(root, holdout.last_day(day, held_out), config.source["interactions"], alone=alone)


def prepare(
    config: base.Config,
    import_root: Path,
    sink: Sink,
    catalogue: str = CATALOGUE,
    day: datetime.date | None = None,
    held_out: Holdout = _NEXT_DAY,
) -> Path:
    """Return the root of what `config` names in its catalogue's layout, importing it unless that has been done.

    With `day`, days after the one that its run is measured on need not be there, and are not imported.
    """
    if config.in_place:
        return _in_place(config)
    last = None if day is None else holdout.last_day(day, held_out)
    if catalogue == CATALOGUE and (parts := _days(config, last)) is not None:
        destination = import_root / f"{config.kind}-{digest_of(_of_config(config))}"
        with locked(destination.parent):
            _drop_days(destination, {at for at in _imported(destination, sink) if at not in parts}, last)
            _import_days(config, destination, sink, parts)
        return destination.absolute()
    destination = import_root / f"{config.kind}-{source_fingerprint(config, catalogue)}"
    with locked(destination.parent):
        if not destination.exists():
            importer = lookup.component(catalogue, config.kind)
            _whole(destination, lambda aside: importer.write(config, aside, sink))
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
        raise ValueError(f"{config.source}: {config.kind} is read as it is; name it as data.source")
    importer = lookup.component(catalogue, config.kind)
    return write_whole(destination, lambda aside: importer.write(config, aside, sink), overwrite=overwrite)


def write_whole(destination: Path, write: Callable[[Path], T], *, overwrite: bool = False) -> T:
    """Return what `write` does, called with a folder that becomes `destination` when it is complete and not before.

    Raises:
        ValueError: a `destination` that exists without `overwrite`.
    """
    with locked(destination.absolute().parent):
        if destination.exists() and not overwrite:
            raise ValueError(f"{destination}: exists; name another folder, or allow it to be overwritten")
        return _whole(destination, write)


def import_day(config: base.Config, destination: Path, sink: Sink, day: datetime.date) -> base.Counts:
    """Write one day of the source into the log at `destination`, in place of that day's rows; others stay as they are.

    Raises:
        ValueError: a bad source, one that is not parted by day, or one that has no such day.
    """
    parts = _days(config, day, alone=True)
    if parts is None:
        raise ValueError(f"{config.kind}: the source is not parted by day; import it whole, without --day")
    if "interactions" not in parts.get(day, {}):
        path = config.source["interactions"]
        raise ValueError(f"{path}: no interactions of {day}; name another day, or write its partition first")
    with locked(destination.absolute().parent):
        integrity.discard(destination / _IMPORTED / f"{day}.json")
        (counts,) = _import_days(config, destination, sink, {day: parts[day]})
    if counts is None:
        raise ValueError(f"{config.source}: the interactions of {day} are empty; write its partition again")
    return counts


def _days(
    config: base.Config, last: datetime.date | None, *, alone: bool = False
) -> dict[datetime.date, dict[str, Any]] | None:
    """Return the parts of the source by day, up to `last`, or of it `alone`; None for what has none."""
    module = lookup.component(CATALOGUE, config.kind)
    if not hasattr(module, "days"):
        return None
    if alone:
        return module.days(config, last, last)
    return module.days(config, None, last)


def _import_days(
    config: base.Config, destination: Path, sink: Sink, parts: dict[datetime.date, dict[str, Any]]
) -> list[base.Counts | None]:
    """Import the days of which `destination` does not have these very parts."""
    module, counts = lookup.component(CATALOGUE, config.kind), list[base.Counts | None]()
    known = _imported(destination, sink)
    for at in sorted(parts):
        if known.get(at) == _digest(parts[at]):
            continue
        aside = destination / f".{at}.partial"
        shutil.rmtree(aside, ignore_errors=True)
        try:
            counts.append(module.write_day(config, parts[at], aside, sink))
            rows = {table: own.get(str(at), 0) for table, own in base.written_rows(aside).items()}
            # Until the mark is written the day counts as not imported, whatever of it is in place.
            integrity.discard(destination / _IMPORTED / f"{at}.json")
            for table in daily.TABLES:
                (destination / table).mkdir(exist_ok=True)
                made, there = (root / table / base.partition(at) for root in (aside, destination))
                if made.is_dir():
                    artifacts.move_into_place(made, there)
                elif there.is_dir():
                    shutil.rmtree(there)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        mark = _Mark(digest=_digest(parts[at]), rows=rows)
        artifacts.write_text(destination / _IMPORTED / f"{at}.json", integrity.sealed(mark.model_dump()))
    return counts


def _digest(parts: dict[str, Any]) -> str:
    return digest_of({name: part.fingerprint for name, part in parts.items()})


def _imported(destination: Path, sink: Sink) -> dict[datetime.date, str]:
    """Return what was imported to `destination` by day, each with the digest of its parts.

    A day whose mark is damaged counts as not imported.
    """
    return {at: mark.digest for at, mark in _marks(destination, sink).items()}


class _Mark(Frozen):
    """A day that was imported: the digest of its parts, and its rows by table."""

    digest: str
    rows: dict[str, int]


def _marks(destination: Path, sink: Sink) -> dict[datetime.date, _Mark]:
    found: dict[datetime.date, _Mark] = {}
    for path in sorted((destination / _IMPORTED).glob("[!.]*.json")):
        try:
            found[datetime.date.fromisoformat(path.stem)] = integrity.read_record(_Mark, path)
        except ValueError as error:
            message = error if isinstance(error, integrity.DamagedError) else f"{path}: is named after no day"
            sink(Event(stage=base.STAGE, message=f"warning: {message}; its day is imported again"))
    return found


def _refuse_other_rows(root: Path, last: datetime.date) -> None:
    """Refuse an imported log of which a day up to `last` has not the rows that were written when it was imported."""
    written = {table: dict(rows) for table, rows in base.written_rows(root).items()}
    for at, mark in _marks(root, silent).items():
        for table, rows in mark.rows.items():
            written.setdefault(table, {})[str(at)] = rows
    for table, by_day in written.items():
        found = {str(day): daily.num_rows(paths) for day, paths in daily.partitions(root, table).items() if day <= last}
        for day in sorted({*by_day, *found}):
            rows, there = by_day.get(day, 0), found.get(day, 0)
            if day <= str(last) and rows != there:
                raise ValueError(
                    f"{root / table / f'ds={day}'}: {there} rows where {rows} were imported; remove {root}, and run "
                    "again to import it anew"
                )


def _drop_days(destination: Path, gone: set[datetime.date], last: datetime.date | None) -> None:
    """Remove days that the source does not have any more, of those up to `last`."""
    for at in gone:
        if last is None or at <= last:
            (destination / _IMPORTED / f"{at}.json").unlink()
            for table in daily.TABLES:
                shutil.rmtree(destination / table / base.partition(at), ignore_errors=True)


def _whole(destination: Path, write: Callable[[Path], T]) -> T:
    aside = destination.with_name(f".{destination.name}.partial")
    if aside.exists():
        shutil.rmtree(aside)
    try:
        written = write(aside)
        artifacts.move_into_place(aside, destination)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return written


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder that imports are written to.

    Two runs of one new source would otherwise import it into the same place; the second waits and finds it there.
    """
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
    return uri.local(config.source)


def source_fingerprint(config: base.Config, catalogue: str = CATALOGUE) -> str:
    """Return a digest of a source that is imported whole, and of the code that imports it; no content is read."""
    module = lookup.component(catalogue, config.kind)
    if hasattr(module, "fingerprint"):
        source = module.fingerprint(config)
    else:
        # What a URL holds is pinned by its checksum, which is one of the configuration's keys.
        where: str | None = config.source
        read = where is not None and not where.startswith(("http://", "https://"))
        source = uri.fingerprint(uri.resolve(uri.local(where), of_any_format=True)) if where and read else None
    return digest_of([_of_config(config, catalogue, exclude={"source", "day"}), source])


def _of_config(config: base.Config, catalogue: str = CATALOGUE, exclude: set[str] | None = None) -> list[Any]:
    """Return what a config says, but where the source is and a ranking table's day, which only names its runs."""
    # An importer that was changed must import again.
    own = Path(str(lookup.component(catalogue, config.kind).__file__))
    code = sorted({*Path(base.__file__).parent.glob("*.py"), *own.parent.glob("*.py")})
    return [config.model_dump(mode="json", exclude=exclude), [digest_of_file(file) for file in code]]
