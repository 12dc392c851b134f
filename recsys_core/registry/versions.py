"""What is known of the releases of a model: the registered versions, and the files that they were made from."""

import datetime
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from recsys_core.artifacts import MANIFEST, Checkpoint, ExportedModel, ExportedRanker, Frozen, Learned, Product, pending
from recsys_core.artifacts.release import EXPORTED_MODEL
from recsys_core.integrity import read_record, validated
from recsys_core.tracking import connect

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHAMPION, PREVIOUS, CHALLENGER = "champion", "previous", "challenger"
PREFIX = "dayline."

M = TypeVar("M", ExportedModel, ExportedRanker)


class ReleaseInfo(Frozen):
    """One version. `checked`: its bundle was fetched back and served. Paths are relative to run_root if below it.

    `day` is that of its run, `ground_truth_digest` that of the rows that it was measured on; `learned` says which rows
    its weights have learned from, null in releases of before.
    """

    name: str
    product: Product = "retrieval"
    version: int
    created: datetime.datetime
    mlflow_run_id: str
    day: datetime.date
    run_id: str
    bundle_digest: str
    ground_truth_digest: str
    metrics: dict[str, float]
    checkpoint: str
    model: str
    learned: Learned | None = None
    checked: bool = False
    rolled_back: bool = False
    replaced: int | None = None
    live: bool
    previous: bool

    @property
    def last_learned(self) -> datetime.date:
        """The last day that it has learned from: its run's, or a later one that was absorbed."""
        return self.learned.last_day if self.learned else self.day


def releases(uri: str, name: str, product: Product | None = None) -> list[ReleaseInfo]:
    """Return every version of the registered model `name`, the newest first; none if nothing was published yet.

    Raises:
        ValueError: a version's record is damaged, or is not of `product`, where that is given.
    """
    from mlflow.exceptions import MlflowException

    client = connect(uri)
    try:
        aliases = client.get_registered_model(name).aliases
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return []
    page = client.search_model_versions(f"name = '{name}'")
    found = [*page]
    while page.token:
        page = client.search_model_versions(f"name = '{name}'", page_token=page.token)
        found += page
    infos = [info_of(version, aliases) for version in found if PREFIX + "run_id" in version.tags]
    if others := [info for info in infos if product not in (None, info.product)]:
        raise ValueError(
            f"name: {name} has releases of a {others[0].product} model (version {others[0].version}), and this is a "
            f"{product} one; choose another name"
        )
    return sorted(infos, key=lambda info: info.version, reverse=True)


def champion(uri: str, name: str) -> ReleaseInfo | None:
    """Return the live release."""
    return next((info for info in releases(uri, name) if info.live), None)


def base_release(uri: str, name: str, day: datetime.date, *, leaves_rows: bool = False) -> ReleaseInfo | None:
    """Return what training for `day` continues: of the releases of earlier days, the one that has learned the most.

    None that was rolled back, or has learned from later days; with `leaves_rows`, none that has learned from `day`. Of
    those up to the same day one that withheld nothing has learned more, whenever it was made.
    """
    earlier = [info for info in releases(uri, name) if info.checked and not info.rolled_back and info.day < day]
    last = day - datetime.timedelta(days=leaves_rows)
    usable = [info for info in earlier if info.last_learned <= last]
    return max(usable, key=_learned, default=None)


def _learned(info: ReleaseInfo) -> tuple[datetime.date, bool, datetime.date, int]:
    """Return what orders releases by how much they have learned; among equals the newest is the last."""
    withholds = info.learned is not None and info.learned.withheld is not None
    return info.last_learned, not withholds, info.day, info.version


def load_checkpoint(info: ReleaseInfo, run_root: Path) -> Checkpoint:
    """Return the training state that `info` was exported from.

    Raises:
        ValueError: its files are gone, or have changed; MLflow keeps the bundle only.
    """
    try:
        made = Checkpoint.load(run_root / info.checkpoint)
        made.verify(run_root / info.name)
    except ValueError as error:
        raise ValueError(
            f"release {info.name} version {info.version} of {info.day} cannot be continued: {error}; bring its files "
            "back from a copy, or train from random weights with --set train.warm_start=false"
        ) from None
    return made


def load_model(info: ReleaseInfo, uri: str, run_root: Path, record: type[M]) -> M:
    """Return the exported model of `info`, a `record`: from the run's directory, or from MLflow if that is gone.

    Raises:
        ValueError: their files have changed since they were exported.
    """
    local = run_root / info.model
    if (local / MANIFEST).exists():
        return _verified_model(info, local, run_root, record)
    kept = run_root / info.name / "cache" / "releases" / f"{info.version}-{info.bundle_digest[:12]}"
    if not kept.is_dir():
        connect(uri)
        from mlflow.artifacts import download_artifacts

        with pending(kept) as aside:
            source = f"models:/{info.name}/{info.version}/artifacts"
            manifest = Path(download_artifacts(artifact_uri=f"{source}/{EXPORTED_MODEL}", dst_path=str(aside.path)))
            files = read_record(record, manifest, path=manifest.parent).files
            for piece in sorted({file.path.partition("/")[0] for file in files}):
                download_artifacts(artifact_uri=f"{source}/{piece}", dst_path=str(aside.path))
            fetched = manifest.parent
            manifest.rename(fetched / MANIFEST)
            fetched.rename(aside.destination)
            aside.path.rmdir()
    return _verified_model(info, kept, run_root, record)


def _verified_model(info: ReleaseInfo, directory: Path, run_root: Path, record: type[M]) -> M:
    try:
        model = record.load(directory)
        model.verify(run_root / info.name)
    except ValueError as error:
        raise ValueError(
            f"release {info.name} version {info.version} of {info.day}: {error}; delete {directory}, and MLflow's copy "
            "is fetched by the next run"
        ) from None
    return model


def tag(client: "MlflowClient", info: ReleaseInfo, **tags: object) -> None:
    """Set tags of a version, as JSON."""
    for key, value in tags.items():
        client.set_model_version_tag(info.name, str(info.version), PREFIX + key, json.dumps(value))


def info_of(version: Any, aliases: dict[str, Any]) -> ReleaseInfo:
    """Return what MLflow's record of a version says, `aliases` being those of its model.

    Raises:
        ValueError: it is damaged.
    """
    tags = {key.removeprefix(PREFIX): value for key, value in version.tags.items() if key.startswith(PREFIX)}
    number = int(version.version)
    where = f"MLflow's registered model {version.name}, version {number}, tags {PREFIX}…"
    structured = {}
    for key, absent in (("metrics", ""), ("learned", "null")):
        try:
            structured[key] = json.loads(tags.get(key, absent))
        except (ValueError, RecursionError):
            raise ValueError(f"{where}: damaged, {key} is not JSON; mend the tag, or delete the version") from None
    return validated(
        ReleaseInfo,
        {
            **tags,
            **structured,
            "name": version.name,
            "version": number,
            "created": datetime.datetime.fromtimestamp(version.creation_timestamp / 1000, datetime.UTC),
            "mlflow_run_id": version.run_id,
            "live": aliases.get(CHAMPION) in (number, str(number)),
            "previous": aliases.get(PREVIOUS) in (number, str(number)),
        },
        where,
    )
