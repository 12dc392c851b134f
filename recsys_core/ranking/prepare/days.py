"""Stage `prepare` of daily ranking: which rows a day's run learns from and is measured on, and the features fitted.

Days of which all rows are meant are read where they lie; of others the rows that are meant are written.
"""

import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, NamedTuple, Self

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, PositiveInt, model_validator

from recsys_core import artifacts, holdout, readers
from recsys_core.artifacts import DayHoldout, Frozen, LabelledData, LabelledLog, LabelledSplit, Learned, NextDay, Tail
from recsys_core.datasets import _ids, base
from recsys_core.features import Config as Features
from recsys_core.features import Engine
from recsys_core.gate import Values
from recsys_core.holdout import Part
from recsys_core.progress import Event, Sink
from recsys_core.ranking import Config as Ranking
from recsys_core.ranking.prepare.agreement import fit, require_columns, require_ids
from recsys_core.ranking.prepare.labels import blocks, naming, positives

_STAGE = "prepare"


class Config(Frozen):
    """YAML section `prepare` of a daily ranking config: a cold start learns from the last `window_days` days.

    null: from all days that there are.
    """

    window_days: PositiveInt | None = None


class Request(artifacts.Request):
    """What preparing `day` needs: of a release that is continued what it has learned from, and its engine.

    All three of the base are null for a cold start. With `absorbs`, the base is the state that was measured on the rows
    that `day` holds out, and learns from them. `sliced_by` are the columns that parts of the measured rows are made by,
    by the name of the part.
    """

    UNKEYED: ClassVar[frozenset[str]] = artifacts.Request.UNKEYED | {"base_engine"}

    config: Config
    ranking: Ranking
    features: Features
    log: LabelledLog
    day: datetime.date
    holdout: DayHoldout
    time_column: str | None
    base_learned: Learned | None = None
    base_engine: Path | None = None
    base_engine_digest: str | None = None
    sliced_by: dict[str, Values] = Field(default={})
    absorbs: bool = False

    @model_validator(mode="after")
    def _whole_base(self) -> Self:
        given = {part is not None for part in (self.base_learned, self.base_engine, self.base_engine_digest)}
        assert len(given) == 1, "base_learned, base_engine and base_engine_digest go together"
        assert self.base_learned is not None or not self.absorbs, "what absorbs has learned something before"
        return self


class _Split(NamedTuple):
    """The rows of a split: the folders where they are now, and as the record names them; `lines` are its digests."""

    name: str
    places: list[Path]
    folders: list[Path]
    lines: list[str]
    num_positives: int

    @property
    def reader(self) -> readers.Reader:
        """The rows."""
        return readers.opened(tuple(self.places))


def run(request: Request, sink: Sink) -> LabelledData:
    """Divide the days' rows, check that they have the columns that are needed, and fit the features on what is learned.

    Raises:
        ValueError: there are no rows to learn from or to be measured on, a column is missing or of another kind than
            on other days, an id is none, the base has learned from what is to be measured, or its engine is another.
    """
    log, day = request.log, request.day
    there = [one.day for one in log.days]
    if request.absorbs and request.base_learned is not None:
        measured = holdout.held_out(request.holdout, day)
        parts, learned = holdout.absorb(request.base_learned, measured.day, there)
        plan = holdout.Plan(parts, measured, learned)
    else:
        plan = holdout.plan(request.holdout, day, there, request.base_learned, request.config.window_days)
    before = _base_engine(request)
    engine = Engine.build(request.features, base=before)
    with artifacts.pending(request.output) as aside:
        train = _divided(request, plan.train, aside.path, "train")
        test = _divided(request, (plan.held_out,), aside.path, "test")
        _require_rows(request, train, test, sink)
        tables = {split.name: split.reader for split in (train, test)}
        _require_columns(request, tables, engine, sink)
        if tables["train"].num_rows:
            fit(engine, tables["train"], None)
        elif before is not None and before.meanings() != engine.meanings():
            raise ValueError(
                f"day {day}: the release that is continued has other features, and has learned from all rows up to "
                "then, so that there are none to fit the new ones on; run a later day, or start cold "
                "(train.warm_start: false)"
            )
        filled = {f"{kind}/{name}": float(n) for name, kinds in engine.report.items() for kind, n in kinds.items()}
        num_rows = sum(reader.num_rows for reader in tables.values())
        sink(Event(stage=_STAGE, done=num_rows, total=num_rows, metrics=filled))
        # The digest of this file is the data's, so it follows from the content and not from where it lies.
        artifacts.write_text(aside.path / "files.json", "\n".join([*train.lines, *test.lines]))
        engine.save(aside.path / "features")
        return aside.commit(
            LabelledData,
            request,
            num_rows=tables["train"].num_rows,
            root=request.output.absolute(),
            splits=tuple(
                LabelledSplit(
                    name=split.name,
                    num_rows=tables[split.name].num_rows,
                    num_positives=split.num_positives,
                    folders=tuple(split.folders),
                )
                for split in (train, test)
            ),
            columns={field.name: str(field.type) for field in tables["train"].schema},
            engine_digest=engine.digest,
            day=day,
            learned=plan.learned,
        )


def _require_columns(request: Request, tables: dict[str, readers.Reader], engine: Engine, sink: Sink) -> None:
    places = {"train": f"{request.log.source} up to {request.day}", "test": f"{request.log.source}, what is held out"}
    sliced = {f"gate.slices.{name}.column": values.column for name, values in request.sliced_by.items()}
    require_columns(places, tables, engine, request.ranking, sliced)
    for name, values in request.sliced_by.items():
        values.require(tables["test"].schema.field(values.column).type, f"gate.slices.{name}")
    for column in engine.columns_of_ids():
        if (message := _ids.message(column, tables["train"].schema.field(column).type)) is not None:
            sink(Event(stage=_STAGE, message=message))
    for reader in tables.values():
        require_ids(reader.place, reader, engine)


def _base_engine(request: Request) -> Engine | None:
    if request.base_engine is None:
        return None
    engine = Engine.load(request.base_engine)
    if engine.digest != request.base_engine_digest:
        raise ValueError(
            f"{request.base_engine}: digest {engine.digest}, wanted {request.base_engine_digest}; restore it"
        )
    return engine


def _divided(request: Request, parts: tuple[Part, ...], home: Path, split: str) -> _Split:
    """Return the rows of the parts; those of days that are divided are written below `home`."""
    days = {one.day: one for one in request.log.days if one.num_rows}
    found = _Split(split, [], [], [], 0)
    for part in parts:
        if (one := days.get(part.day)) is None:
            continue
        folder, num_positives = one.folder, one.num_positives
        if not part.is_whole:
            folder = Path("rows") / split / base.partition(part.day)
            num_rows, num_positives = _write(request, part, one.folder, home / folder / "part-00000.parquet")
            if not num_rows:
                continue
        found.places.append(home / folder)
        found.folders.append(folder)
        # What is written here counts as a file of the artifact itself.
        for file in request.log.files_of(part.day) if part.is_whole else ():
            found.lines.append(f"{split} {base.partition(part.day)}/{file.path} {file.digest}")
        found = found._replace(num_positives=found.num_positives + num_positives)
    if not found.places:
        folder = Path("rows") / split
        (home / folder).mkdir(parents=True)
        last = readers.opened(max(days.values(), key=lambda one: one.day).folder)
        pq.write_table(last.schema.empty_table(), home / folder / "part-00000.parquet")
        return found._replace(places=[home / folder], folders=[folder])
    return found


def _write(request: Request, part: Part, source: Path, path: Path) -> tuple[int, int]:
    """Write the rows of a part of the day in `source`; return how many they are, and how many of them positive."""
    reader, counts = readers.opened(source), list[int]()

    def rows() -> Iterator[pa.Table]:
        for block, table in enumerate(blocks(reader, reader.schema.names)):
            place = reader.place(block)
            with naming(place):
                kept = table.filter(pa.array(holdout.kept(part, table, request.time_column)))
            counts.append(positives(place, kept, request.ranking))
            yield kept

    return base.write_parquet(path, rows()), sum(counts)


def _require_rows(request: Request, train: _Split, test: _Split, sink: Sink) -> None:
    """Refuse a run without rows to learn from or to be measured on, and report what cannot be measured.

    A warm start without new rows learns nothing, and is measured all the same.
    """
    day, kind = request.day, request.holdout
    to_learn, to_measure = train.reader.num_rows, test.reader.num_rows
    if not to_measure:
        assert not isinstance(kind, NextDay), "ingest has looked at it"
        where = f"{request.log.source}: of the {_num_rows(request.log, day):,} rows of {day} none"
        if isinstance(kind, Tail):
            raise ValueError(
                f"{where} lies in its newest {kind.hours:g} hours, on which the run is measured; raise holdout.hours"
            )
        raise ValueError(
            f"{where} is of the share of {kind.by!r} on which the run is measured; raise holdout.share, or hold out by "
            "another column"
        )
    if to_measure == _num_rows(request.log, day) and not isinstance(kind, NextDay):
        limit = "holdout.hours" if isinstance(kind, Tail) else "holdout.share"
        raise ValueError(
            f"{request.log.source}: all {to_measure:,} rows of {day} are held out, so that none is left to learn from; "
            f"lower {limit}"
        )
    message = f"{train.num_positives:,} of the {to_learn:,} rows up to {day} are positive"
    if not 0 < train.num_positives < to_learn:
        if request.base_learned is None:
            raise ValueError(f"{request.log.source}: {message}; a model learns from rows of both labels")
        if to_learn:
            sink(Event(stage=_STAGE, message=f"warning: {message}; are the events of the labels there?"))
        else:
            sink(Event(stage=_STAGE, message=f"no new rows: what is continued has learned from all up to {day}"))
    if not 0 < test.num_positives < to_measure:
        share = f"{test.num_positives:,} of the {to_measure:,} rows that are measured on are positive"
        sink(Event(stage=_STAGE, message=f"warning: {share}; no AUC is defined over them"))


def _num_rows(log: LabelledLog, day: datetime.date) -> int:
    return next((one.num_rows for one in log.days if one.day == day), 0)
