"""The publish stage: the day's bundle becomes a version of the registered model, and goes live once it has served.

Whatever kills it, a rerun finds what is there by its tags and ends with the same single version and the same aliases.
"""

import datetime
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from recsys_core import artifacts, registry
from recsys_core.artifacts import (
    Checkpoint,
    Embeddings,
    Evaluation,
    ExportedModel,
    Frozen,
    Index,
    Release,
    TrainingData,
    digest_of,
)
from recsys_core.registry import ReleaseInfo, bundle
from recsys_core.registry.lock import locked
from recsys_core.tracking import Tracker
from recsys_core.variables import without_credentials


class Config(Frozen):
    """YAML section `publish`."""

    num_queries: int = Field(
        default=16, ge=1, description="real queries kept in the bundle, which it must serve to go live"
    )
    check_seconds: float = Field(default=600, gt=0, description="how long loading the bundle and serving them may take")
    absorb: bool = Field(
        default=False,
        description="once the gate has passed, learn from the rows that were measured on too, and release that state",
    )


class Request(artifacts.Request):
    """What publishing needs.

    `day` is the run's; `data`, `checkpoint`, `model`, `embeddings` and `index` are of what is released, which may have
    learned from more than what `evaluation` is of. `passed` and `reasons` are the gate's decision, `mask_seen` is how
    the hit rate was measured.
    """

    UNKEYED: ClassVar[frozenset[str]] = artifacts.Request.UNKEYED | {"run_root"}

    config: Config
    name: str
    day: datetime.date
    run_id: str
    passed: bool
    reasons: tuple[str, ...]
    data: TrainingData
    checkpoint: Checkpoint
    model: ExportedModel
    embeddings: Embeddings
    index: Index
    evaluation: Evaluation
    mask_seen: bool
    run_root: Path

    @property
    def bundle_digest(self) -> str:
        """Digest of what would be served."""
        # Bundles of before requests could differ in this masked, and keep their digests.
        unmasked = [] if self.mask_seen else ["mask_seen: false"]
        return digest_of([self.model.digest, self.index.digest, *unmasked])


def run(request: Request, tracker: Tracker) -> Release:
    """Publish below the tracker's run, or record why not.

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
            queries = bundle.queries(request.model, request.data, request.embeddings, request.config.num_queries)
            bundle.fill(aside.path, request.model, request.index, queries, mask_seen=request.mask_seen)
            release = _find(request, tracker) or _register(aside.path, request, tracker)
            if not release.checked:
                _check(release, aside.path, request.config)
                registry.tag(tracker.client, release, checked=True)
            decision, reasons = _promote(release, request, tracker)
            version = str(release.version)
        return aside.commit(
            Release,
            request,
            num_rows=request.index.num_items if request.passed else 0,
            day=request.day,
            run_id=request.run_id,
            decision=decision,
            reasons=reasons,
            model_name=request.name,
            version=version,
        )


def _find(request: Request, tracker: Tracker) -> ReleaseInfo | None:
    """Return the version that an earlier start of this run registered."""
    mine = (request.run_id, request.bundle_digest)
    known = registry.releases(tracker.uri, request.name)
    return next((info for info in known if (info.run_id, info.bundle_digest) == mine), None)


def _register(directory: Path, request: Request, tracker: Tracker) -> ReleaseInfo:
    """Log the bundle as a model of the tracker's run, and make it a version of the registered model."""
    from mlflow.exceptions import MlflowException

    client = tracker.client
    try:
        client.create_registered_model(request.name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    metrics = {
        f"{name}_at_{k}": value
        for name, values in (
            ("hit_rate", request.evaluation.exact.hit_rate),
            ("ann_recall", request.evaluation.ann_recall),
        )
        for k, value in values.items()
    }
    tags = {
        "day": str(request.day),
        "run_id": request.run_id,
        "bundle_digest": request.bundle_digest,
        "ground_truth_digest": request.evaluation.ground_truth_digest,
        "metrics": json.dumps(metrics),
        "checkpoint": _relative(request.checkpoint.path, request.run_root),
        "model": _relative(request.model.path, request.run_root),
    }
    learned = request.checkpoint.learned
    tags |= {"learned": learned.model_dump_json()} if learned else {}
    absorbed = learned is not None and learned.last_day > request.day
    learned_days = f"{request.day}, with {learned.last_day} absorbed after it was measured" if absorbed else request.day
    model_id = _log_model(directory, request, tracker)
    version = client.create_model_version(
        request.name,
        f"models:/{model_id}",
        run_id=tracker.mlflow_run_id,
        tags={registry.PREFIX + key: value for key, value in tags.items()},
        description=f"{learned_days}: " + ", ".join(f"{name} {value:.3f}" for name, value in metrics.items()),
        model_id=model_id,
    )
    client.set_registered_model_alias(request.name, registry.CHALLENGER, str(version.version))
    found = _find(request, tracker)
    assert found is not None
    return found


def _log_model(directory: Path, request: Request, tracker: Tracker) -> str:
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
            model_type="two-tower retrieval",
        )
    if logged.status == "READY":
        return logged.model_id
    pieces = {path.name: path for path in sorted(directory.iterdir())}
    with tempfile.TemporaryDirectory(dir=directory) as aside:
        record = Model(
            artifact_path=logged.artifact_location,
            run_id=tracker.mlflow_run_id,
            model_uuid=logged.model_id,
            model_id=logged.model_id,
        )
        bundle.save(pieces, request.model, request.index, Path(aside) / "model", record)
        client.log_model_artifacts(logged.model_id, f"{aside}/model")
    outputs = client.get_run(tracker.mlflow_run_id).outputs
    if outputs is None or logged.model_id not in [output.model_id for output in outputs.model_outputs]:
        client.log_outputs(tracker.mlflow_run_id, [LoggedModelOutput(logged.model_id, step=0)])
    client.finalize_logged_model(logged.model_id, "READY")
    return logged.model_id


def _check(release: ReleaseInfo, directory: Path, config: Config) -> None:
    """Fetch the bundle back and let it serve, in a process of its own: torch and FAISS do not belong into this one."""
    from mlflow.artifacts import download_artifacts

    with tempfile.TemporaryDirectory(dir=directory) as aside:
        source = f"models:/{release.name}/{release.version}/artifacts"
        fetched = download_artifacts(artifact_uri=source, dst_path=aside)
        command = [sys.executable, "-m", "recsys_core.serving", fetched, "--watch-stdin"]
        watched, held = os.pipe()  # closed with this process, however it ends
        try:
            done = subprocess.run(
                command,
                stdin=watched,
                capture_output=True,
                text=True,
                check=False,
                timeout=config.check_seconds,
                env=without_credentials(os.environ),
            )
        except subprocess.TimeoutExpired:
            raise ValueError(
                f"{release.name} version {release.version}: it did not serve {config.num_queries} queries within "
                f"publish.check_seconds={config.check_seconds:g}; it is not made live"
            ) from None
        finally:
            os.close(watched)
            os.close(held)
    if done.returncode:
        reason = done.stderr.strip().rpartition("\n")[2]
        raise ValueError(
            f"{release.name} version {release.version}: it does not serve, so it is not made live: {reason}"
        )


def _promote(release: ReleaseInfo, request: Request, tracker: Tracker) -> tuple[str, tuple[str, ...]]:
    """Move `champion`, if nothing speaks against it; return the decision and the reasons.

    What speaks against it is looked up again under the lock: until then another day may have gone live, or this
    release may have been rolled back.
    """
    against = _against(release, registry.champion(tracker.uri, request.name))
    if against is None:
        with locked(tracker.client, tracker.uri, request.name):
            known = {info.version: info for info in registry.releases(tracker.uri, request.name)}
            live = next((info for info in known.values() if info.live), None)
            against = _against(known[release.version], live)
            if against is None:
                if live is None or live.version != release.version:
                    registry.tag(tracker.client, release, replaced=live.version if live else 0)
                registry.make_live(tracker.client, release)
                return "live", request.reasons
    tracker.client.delete_registered_model_alias(release.name, registry.CHALLENGER)
    return "registered", (against,)


def _against(release: ReleaseInfo, live: ReleaseInfo | None) -> str | None:
    """Return why `release` must not take the place of `live`, if it must not."""
    if release.rolled_back:
        return f"it was rolled back; `dayline release rollback --version {release.version}` makes it live again"
    if live is not None and live.day > release.day:
        return f"not live: version {live.version} of the later day {live.day} stays live"
    if live is not None and live.last_learned > release.last_learned:
        return f"not live: version {live.version} of {live.day} has learned from {live.last_learned} too and stays live"
    return None


def _relative(path: Path, run_root: Path) -> str:
    inside = path.resolve().is_relative_to(run_root.resolve())
    return str(path.resolve().relative_to(run_root.resolve()) if inside else path.resolve())
