"""Begin a day's run: everything that is cheap to find wrong is found wrong here, before hours of work depend on it."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any, TypeVar

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import deployment, flow_run

from recsys_core import config as configs
from recsys_core import holdout, ingest, liveness, registry, tracking
from recsys_core.artifacts import (
    MANIFEST,
    RUN_CONFIG,
    STATE,
    Checkpoint,
    ExportedModel,
    ExportedRanker,
    Holdout,
    Learned,
    NextDay,
    code_version,
    digest_of,
    write_text,
)
from recsys_core.config import RankingConfig, RunConfig, continuing, model_check, preflight
from recsys_core.datasets import examples
from recsys_core.features import Engine
from recsys_core.loading import embedding_files
from recsys_core.progress import Event
from recsys_core.ranking import ingest as ranking_ingest
from recsys_core.ranking import prepare
from recsys_core.registry import ReleaseInfo
from recsys_core.retrieval import ingest as of_examples
from tasks.hidden import reveal
from tasks.perform import Base, Champion, M, RankingRun, Run, listener, without_credentials

R = TypeVar("R", Run, RankingRun)

_ID_DIGITS = 12
_MAX_TAG = 5_000  # characters that MLflow's databases keep of a tag


@task(task_run_name="start run {config}", cache_policy=NO_CACHE, persist_result=False)
@without_credentials
def start_run(config: str, day: date | None, overrides: Sequence[str] = ()) -> Run:
    """Return the run of `day`, to be used as a context: it holds the run's lock and its MLflow run open.

    Raises:
        ValueError: the config, the day, the source or the tracking server is not as it must be, a release that is to
            be continued is gone, or another process is at this very run.
    """
    loaded = _retrieval(config, reveal(overrides), day)
    return _begun(loaded, lambda: _retrieval_run(loaded, day))


def _retrieval_run(loaded: RunConfig, day: date | None) -> Run:
    if loaded.examples is not None:
        return _examples_run(loaded, loaded.examples, day)
    day = day or ingest.last_day(loaded.data, loaded.run_root / "imports", listener(), loaded.holdout)
    fingerprint = ingest.fingerprint(loaded.data, day, loaded.holdout)
    releases = registry.releases(_uri(loaded), loaded.name, "retrieval")
    base, note = _base(loaded, day, releases, ExportedModel)
    return Run(**_compared(_open(loaded, day, fingerprint, base), base, note, releases, ExportedModel))


def _examples_run(loaded: RunConfig, data: examples.Config, day: date | None) -> Run:
    """Return the run where rows are ready-made; which days it needs follows from what is continued."""
    day = day or of_examples.last_day(data)
    releases = registry.releases(_uri(loaded), loaded.name, "retrieval")
    base, note = _base(loaded, day, releases, ExportedModel)
    needed = of_examples.needed(
        data,
        day,
        base_learned=base.learned if base else None,
        window_days=loaded.preprocess.window_days,
        reference_days=loaded.contract.reference_days,
    )
    opened = _open(loaded, day, needed.fingerprint, base)
    return Run(**_compared(opened, base, note, releases, ExportedModel), needed=needed)


@task(task_run_name="start run {config}", cache_policy=NO_CACHE, persist_result=False)
@without_credentials
def start_daily_ranking_run(config: str, day: date | None, overrides: Sequence[str] = ()) -> RankingRun:
    """Return the run of `day` of a ranking model that is retrained daily; see `start_run`."""
    loaded = _ranking(config, reveal(overrides))
    if not loaded.is_daily:
        raise ValueError(
            f"{config}: data.kind is {loaded.data.kind}, and this retrains on rows by day; name a source of "
            "data.kind labelled_days"
        )
    return _begun(loaded, lambda: _daily_ranking_run(loaded, day))


def _daily_ranking_run(loaded: RankingConfig, day: date | None) -> RankingRun:
    day = day or ranking_ingest.last_day(loaded.days, loaded.holdout)
    releases = registry.releases(_uri(loaded), loaded.name, "ranking")
    base, note = _base(loaded, day, releases, ExportedRanker)
    needed = ranking_ingest.needed(
        loaded.days,
        day,
        held_out=loaded.holdout,
        base_learned=base.learned if base else None,
        window_days=loaded.prepare.window_days,
        reference_days=loaded.contract.reference_days,
    )
    opened = _open(loaded, day, needed.fingerprint, base)
    return RankingRun(**_compared(opened, base, note, releases, ExportedRanker), needed=needed)


@task(task_run_name="start run {config}", cache_policy=NO_CACHE, persist_result=False)
@without_credentials
def start_ranking_run(config: str, day: date | None, overrides: Sequence[str] = ()) -> RankingRun:
    """Return the run of a ranking config on splits, to be used as a context; `day` takes the place of `data.day`.

    Raises:
        ValueError: the config, the source or the tracking server is not as it must be, or another process is at it.
    """
    changes = reveal(overrides)
    loaded = _ranking(config, changes)
    if loaded.is_daily:
        raise ValueError(f"{config}: data.kind is {loaded.data.kind}, and this trains once on splits; run it by day")
    if day is not None:
        loaded = _ranking(config, [*changes, f"data.day={day}"])
    data = loaded.split_data
    return _begun(loaded, lambda: RankingRun(**_open(loaded, data.day, prepare.fingerprint(data), None)))


def _begun(loaded: RunConfig | RankingConfig, begin: Callable[[], R]) -> R:
    """Check the config, and return what `begin` does; if MLflow goes away meanwhile, begin again when it is back."""
    deadline = time.monotonic() + loaded.tracking.wait_seconds
    while True:
        _check(loaded)
        try:
            return begin()
        except tracking.errors() as error:
            if not tracking.is_away(error, _uri(loaded)) or time.monotonic() > deadline:
                raise


def _retrieval(config: str, changes: Sequence[str], day: date | None) -> RunConfig:
    """Load a config of retrieval; `day` is that of training rows that are not by day."""
    loaded = configs.load(Path(config), changes)
    if isinstance(loaded, RunConfig) and day is not None and loaded.examples is not None and loaded.examples.day:
        loaded = configs.load(Path(config), [*changes, f"data.day={day}"])
    if not isinstance(loaded, RunConfig):
        message = f"{config}: a ranking config (it has a section `ranking`), and this retrains a retrieval model"
        raise ValueError(message)  # noqa: TRY004 - the file is wrong, not a type
    return loaded


def _ranking(config: str, changes: Sequence[str]) -> RankingConfig:
    loaded = configs.load(Path(config), changes)
    if not isinstance(loaded, RankingConfig):
        raise ValueError(f"{config}: has no section `ranking`, so it is no ranking config")  # noqa: TRY004
    return loaded


def _uri(loaded: RunConfig | RankingConfig) -> str:
    return tracking.location(loaded.tracking, loaded.run_root)


def _check(loaded: RunConfig | RankingConfig) -> None:
    """Look at what a config names on this machine, and make the folder of its runs."""
    preflight.check(loaded)
    model_check.check(loaded)
    root = loaded.run_root
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"run_root {root}: cannot be made ({error.strerror}); --set run_root=… names another"
        ) from None
    tracking.check(loaded.tracking, root, listener())


def _open(loaded: RunConfig | RankingConfig, day: date, fingerprint: str, base: Base | None) -> dict[str, Any]:
    """Lock the run's directory, write its config down, and open its MLflow run; return the fields of a run."""
    root, version = loaded.run_root, code_version()
    _verify_start(loaded)
    files = embedding_files.fingerprints(Engine.build(loaded.features))
    continued = base.version if base else None
    run_id = digest_of([loaded.hash, str(day), version, fingerprint, continued, files])[:_ID_DIGITS]
    directory = root / loaded.name / str(day) / run_id
    with contextlib.ExitStack() as closing:
        closing.enter_context(locked(directory))
        write_text(directory / RUN_CONFIG, configs.show(loaded))
        identity = tracking.Identity(
            name=loaded.name,
            day=day,
            run_id=run_id,
            config_hash=loaded.hash,
            code_version=version,
            flow_run_id=flow_run.id,
            deployment=deployment.name,
        )
        params = loaded.model_dump(mode="json")
        tracker = closing.enter_context(tracking.open_run(loaded.tracking, root, identity, params, listener()))
        return {
            "run_id": run_id,
            "day": day,
            "config": loaded,
            "code_version": version,
            "directory": directory,
            "import_root": root / "imports",
            "fingerprint": fingerprint,
            "pretrained": files,
            "tracker": tracker,
            "closing": closing.pop_all(),
        }
    raise AssertionError("unreachable: nothing above suppresses an error")


def _verify_start(loaded: RunConfig | RankingConfig) -> None:
    """Compare the training that is fine-tuned with its digests; a checkpoint of older days holds none itself."""
    chosen = loaded.train.fine_tune_from
    folder = chosen and (chosen.path.parent if chosen.path.name == STATE else chosen.path)
    if folder is None or not (folder / MANIFEST).exists():
        return
    try:
        Checkpoint.load(folder).verify(loaded.run_root / loaded.name)
    except ValueError as error:
        raise ValueError(f"train.fine_tune_from.path: {error}; bring its files back, or name another") from None


def _base(
    config: RunConfig | RankingConfig, day: date, releases: Sequence[ReleaseInfo], record: type[M]
) -> tuple[Base | None, str | None]:
    """Load what training continues, None for a cold start; and say what differs from it, if anything does.

    Raises:
        ValueError: it differs from what the config wants in a way that `train.on_change` does not admit, or that
            nothing can be taken over of.
    """
    if not config.train.warm_start or not releases:
        return None, None
    uri = _uri(config)
    info = registry.base_release(uri, config.name, day)
    if info is None:
        return None, None
    base, found = _continued(config, info, record)
    release = f"release {info.name} version {info.version} of {info.day}"
    if found and info.last_learned == day and config.train.on_change == "carry":
        absorbed = f"{release} has absorbed all rows up to {day}, and none is left to learn from what differs from it"
        info = registry.base_release(uri, config.name, day, leaves_rows=True)
        if info is None:
            raise ValueError(
                f"{absorbed}: {'; '.join(found)}. Run a later day, or start cold with train.on_change: cold"
            )
        base, found = _continued(config, info, record)
        release = f"release {info.name} version {info.version} of {info.day}"
    if found and config.train.on_change == "refuse":
        raise ValueError(
            f"train.on_change: refuse, and {release} differs: {'; '.join(found)}. Bring these back, or set "
            "train.on_change to carry or cold"
        )
    if found and config.train.on_change == "cold":
        return None, f"cold start (train.on_change), as {release} differs: {'; '.join(found)}"
    note = f"{release} is continued with changes: {'; '.join(found)}" if found else None
    return base, note


def _continued(config: RunConfig | RankingConfig, info: ReleaseInfo, record: type[M]) -> tuple[Base, list[str]]:
    """Load a release to continue, and say what differs from it."""
    model = registry.load_model(info, _uri(config), config.run_root, record)
    checkpoint, engine = registry.load_checkpoint(info, config.run_root), Engine.load(model.engine)
    # Of a release of before it was recorded no more is known than its day.
    learned = checkpoint.learned or Learned(first_day=info.day, last_day=info.day)
    base = Base(
        version=info.version,
        learned=learned,
        checkpoint=checkpoint,
        engine=model.engine,
        engine_digest=engine.digest,
    )
    alike = continuing.is_alike(config, checkpoint, engine)
    return base, [] if alike else model_check.changes(config, checkpoint, model.engine)


def _compared(
    opened: dict[str, Any], base: Base | None, note: str | None, releases: Sequence[ReleaseInfo], record: type[M]
) -> dict[str, Any]:
    """Return the fields of a run with its base and its champion; `note` goes to the listener and to MLflow."""
    config, day = opened["config"], opened["day"]
    with contextlib.ExitStack() as closing:
        closing.push(opened["closing"])
        if note is not None:
            listener()(Event(stage="start", message=note))
            opened["tracker"].log_tags({"warm_start": note[:_MAX_TAG]})
        as_it_is = base.version if base is not None and base.learned.last_day == day else None
        known = releases if config.gate.maximum_drop is not None else []
        champion = _champion(config, contender(known, day, opened["run_id"], as_it_is, config.holdout), record)
        return opened | {"base": base, "champion": champion, "closing": closing.pop_all()}
    raise AssertionError("unreachable: nothing above suppresses an error")


def _champion(config: RunConfig | RankingConfig, info: ReleaseInfo | None, record: type[M]) -> Champion[M] | None:
    """Load what the gate compares with, if it does."""
    if info is None:
        return None
    model = registry.load_model(info, _uri(config), config.run_root, record)
    return Champion[record](version=info.version, day=info.day, model=model)


def contender(
    releases: Sequence[ReleaseInfo],
    day: date,
    run_id: str,
    as_it_is: int | None = None,
    held_out: Holdout = NextDay(),  # noqa: B008 - frozen
) -> ReleaseInfo | None:
    """Return the live release as a run of `day` should see it, so that a rerun sees what the first run saw.

    A release that has learned from a later day, or from what is held out, has been trained on the very rows that it
    would be measured on, and the run's own, or the version that is measured `as_it_is`, is what is to be judged: in
    their place stands what they replaced.
    """
    measured = holdout.held_out(held_out, day)
    known = {info.version: info for info in releases}
    live = next((info for info in releases if info.live), None)

    def is_left_out(info: ReleaseInfo) -> bool:
        return (
            info.last_learned > day
            or (info.learned is not None and holdout.has_learned(info.learned, measured))
            or info.run_id == run_id
            or info.version == as_it_is
            or info.rolled_back
        )

    candidates = registry.history(live, known) if live is not None else []
    return next((info for info in candidates if not is_left_out(info)), None)


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the run's directory. The lock ends with the process, however that ends."""
    with contextlib.ExitStack() as holding:
        try:
            holding.enter_context(liveness.held(directory / tracking.LOCK))
        except BlockingIOError as held:
            raise ValueError(f"{directory}: process {held} is at this run; wait for it, or end it") from None
        yield
