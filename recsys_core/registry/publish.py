"""The publish stage: the day's bundle becomes a version of the registered model, and goes live once it has served.

Whatever kills it, a rerun finds what is there by its tags and ends with the same single version and the same aliases.
What is in a bundle, and what is said of it, is its product's: `retrieval.publish` and `ranking.publish` stand on this.
"""

import abc
import datetime
import json
import tempfile
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import Field

from recsys_core import artifacts, launch, registry
from recsys_core.artifacts import Checkpoint, ExportedModel, ExportedRanker, Frozen, Product, Release
from recsys_core.progress import silent
from recsys_core.registry import ReleaseInfo
from recsys_core.registry.bundle import Bundle, CheckRequest
from recsys_core.tracking import Tracker

# The stage that checks a product's bundle, which runs beside those that have torch imported.
_CHECKS: dict[Product, str] = {"retrieval": "check_bundle", "ranking": "rank_check_bundle"}


class Config(Frozen):
    """What section `publish` has whatever is published."""

    check_seconds: float = Field(default=600, gt=0, description="how long loading the bundle and serving them may take")
    absorb: bool = Field(
        default=False,
        description="once the gate has passed, learn from the rows that were measured on too, and release that state",
    )


C = TypeVar("C", bound=Config)
M = TypeVar("M", ExportedModel, ExportedRanker)


class Request(artifacts.Request, abc.ABC, Generic[C, M]):
    """What publishing needs of any product, and what each says for itself.

    `day` is the run's. `checkpoint` and `model` are of what is released, which may have learned from more than what was
    measured. `passed` and `reasons` are the gate's decision.
    """

    UNKEYED: ClassVar[frozenset[str]] = artifacts.Request.UNKEYED | {"run_root"}

    config: C
    name: str
    run_id: str
    day: datetime.date
    passed: bool
    reasons: tuple[str, ...]
    checkpoint: Checkpoint
    model: M
    run_root: Path

    @property
    @abc.abstractmethod
    def bundle_digest(self) -> str:
        """Digest of what would be served."""

    @property
    @abc.abstractmethod
    def metrics(self) -> dict[str, float]:
        """What the day measured, by names that MLflow takes."""

    @property
    @abc.abstractmethod
    def ground_truth_digest(self) -> str:
        """Digest of the rows that it was measured on."""

    @property
    @abc.abstractmethod
    def num_rows(self) -> int:
        """How many rows the release counts as."""

    @abc.abstractmethod
    def bundle(self) -> Bundle:
        """Return what is served."""


def run(request: Request[Any, Any], tracker: Tracker, how: launch.Config) -> Release:
    """Publish below the tracker's run, or record why not; `how` says how the process is started that serves.

    The release's `decision` is `rejected` (the gate said no; nothing is registered), `registered` (kept, but what is
    live stays: it is of a later day, or this one was rolled back) or `live`.

    Raises:
        AwayError: MLflow does not answer within `tracking.wait_seconds`.
        ValueError: the bundle, as MLflow gives it back, does not serve; what was live stays so.
    """
    with artifacts.pending(request.output) as aside:
        decision, reasons, version = "rejected", request.reasons, None
        if request.passed:
            tracker.require()
            bundle = request.bundle()
            bundle.fill(aside.path)
            release = _find(request, bundle, tracker) or _register(aside.path, request, bundle, tracker)
            if not release.checked:
                _check(release, aside.path, request, bundle.product, how)
                registry.tag(tracker.client, release, checked=True)
            decision, reasons = _promote(release, request, tracker)
            version = str(release.version)
        return aside.commit(
            Release,
            request,
            num_rows=request.num_rows if request.passed else 0,
            day=request.day,
            run_id=request.run_id,
            decision=decision,
            reasons=reasons,
            model_name=request.name,
            version=version,
        )


def _find(request: Request[Any, Any], bundle: Bundle, tracker: Tracker) -> ReleaseInfo | None:
    """Return the version that an earlier start of this run registered."""
    mine = (request.run_id, request.bundle_digest)
    known = registry.releases(tracker.uri, request.name, bundle.product)
    return next((info for info in known if (info.run_id, info.bundle_digest) == mine), None)


def _register(directory: Path, request: Request[Any, Any], bundle: Bundle, tracker: Tracker) -> ReleaseInfo:
    """Log the bundle as a model of the tracker's run, and make it a version of the registered model."""
    from mlflow.exceptions import MlflowException

    client = tracker.client
    try:
        client.create_registered_model(request.name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    tags = {
        "product": bundle.product,
        "day": str(request.day),
        "run_id": request.run_id,
        "bundle_digest": request.bundle_digest,
        "ground_truth_digest": request.ground_truth_digest,
        "metrics": json.dumps(request.metrics),
        "checkpoint": _relative(request.checkpoint.path, request.run_root),
        "model": _relative(request.model.path, request.run_root),
    }
    learned = request.checkpoint.learned
    tags |= {"learned": learned.model_dump_json()} if learned else {}
    learned_days = str(request.day)
    if learned is not None and learned.last_day > request.day:
        learned_days += f", with {learned.last_day} absorbed after it was measured"
    model_id = _log_model(directory, request, bundle, tracker)
    version = client.create_model_version(
        request.name,
        f"models:/{model_id}",
        run_id=tracker.mlflow_run_id,
        tags={registry.PREFIX + key: value for key, value in tags.items()},
        description=f"{learned_days}: " + ", ".join(f"{name} {value:.3f}" for name, value in request.metrics.items()),
        model_id=model_id,
    )
    client.set_registered_model_alias(request.name, registry.CHALLENGER, str(version.version))
    found = _find(request, bundle, tracker)
    assert found is not None
    return found


def _log_model(directory: Path, request: Request[Any, Any], bundle: Bundle, tracker: Tracker) -> str:
    """Upload the bundle as a pyfunc model, or complete the upload that was cut off; return the model's id."""
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import Model

    client = tracker.client
    tag = f"{registry.PREFIX}bundle_digest"
    mine = f"source_run_id = '{tracker.mlflow_run_id}' and tags.`{tag}` = '{request.bundle_digest}'"
    found = client.search_logged_models([tracker.experiment_id], mine)
    logged = found[0] if found else None
    if logged is None:
        logged = client.create_logged_model(
            tracker.experiment_id,
            name="bundle",
            source_run_id=tracker.mlflow_run_id,
            tags={tag: request.bundle_digest, "day": str(request.day)},
            model_type=bundle.kind,
        )
    if logged.status == "READY":
        return logged.model_id
    pieces = sorted(directory.iterdir())
    with tempfile.TemporaryDirectory(dir=directory) as aside:
        record = Model(
            artifact_path=logged.artifact_location,
            run_id=tracker.mlflow_run_id,
            model_uuid=logged.model_id,
            model_id=logged.model_id,
        )
        bundle.save(pieces, Path(aside) / "model", record)
        client.log_model_artifacts(logged.model_id, f"{aside}/model")
    outputs = client.get_run(tracker.mlflow_run_id).outputs
    if outputs is None or logged.model_id not in [output.model_id for output in outputs.model_outputs]:
        client.log_outputs(tracker.mlflow_run_id, [LoggedModelOutput(logged.model_id, step=0)])
    client.finalize_logged_model(logged.model_id, "READY")
    return logged.model_id


def _check(
    release: ReleaseInfo, directory: Path, request: Request[Any, Any], product: Product, how: launch.Config
) -> None:
    """Fetch the bundle back and let it serve its own rows.

    That is a process of its own: torch and FAISS do not belong into this one.
    """
    from mlflow.artifacts import download_artifacts

    seconds = request.config.check_seconds
    how = launch.alone(how).model_copy(update={"stage_timeout_seconds": seconds})
    fields = {"config_hash": request.config_hash, "code_version": request.code_version}
    with tempfile.TemporaryDirectory(dir=directory) as aside:
        source = f"models:/{release.name}/{release.version}/artifacts"
        fetched = download_artifacts(artifact_uri=source, dst_path=aside)
        asked = CheckRequest(output=request.output.with_name(_CHECKS[product]), bundle=Path(fetched), **fields)
        try:
            launch.do(_CHECKS[product], asked, silent, how)
        except launch.OutOfTimeError:
            raise ValueError(
                f"{release.name} version {release.version}: it did not serve its own rows within "
                f"publish.check_seconds={seconds:g}; it is not made live"
            ) from None
        except ValueError as error:
            raise ValueError(
                f"{release.name} version {release.version}: it does not serve, so it is not made live: {error}"
            ) from error


def _promote(release: ReleaseInfo, request: Request[Any, Any], tracker: Tracker) -> tuple[str, tuple[str, ...]]:
    """Make the version live, if nothing speaks against it; return the decision and its reasons."""
    live = registry.champion(tracker.uri, request.name)
    against = registry.promote(tracker.client, release, live)
    return ("live", request.reasons) if against is None else ("registered", (against,))


def _relative(path: Path, run_root: Path) -> str:
    inside = path.resolve().is_relative_to(run_root.resolve())
    return str(path.resolve().relative_to(run_root.resolve()) if inside else path.resolve())
