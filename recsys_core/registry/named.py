"""What a name or a folder stands for: a release, a run, a training, an exported model, with what lies beside each.

Commands that work alone take these in place of the artifacts that a flow would hand them.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import yaml

from recsys_core import integrity
from recsys_core.artifacts import (
    FEATURES,
    MANIFEST,
    RUN_CONFIG,
    RUN_STAGES,
    Artifact,
    Checkpoint,
    Embeddings,
    ExportedModel,
    ExportedRanker,
    Frozen,
    Index,
    LabelledData,
    Product,
    Release,
    TrainingData,
    trained_model,
)
from recsys_core.artifacts.ranking import Predicts
from recsys_core.artifacts.release import EXPORTED_MODEL, SETTINGS
from recsys_core.features import Engine
from recsys_core.registry import versions
from recsys_core.registry.states import checkpoint_at, training_of
from recsys_core.registry.versions import CHALLENGER, CHAMPION, PREVIOUS, ReleaseInfo
from recsys_core.sections.checkpoint import METADATA
from recsys_core.tracking import Config as Tracking
from recsys_core.tracking import check, connect, location

A = TypeVar("A", bound=Artifact)

_URI = "MLFLOW_TRACKING_URI"
ALIASES = (CHAMPION, PREVIOUS, CHALLENGER)
# What each stage leaves, by the name of its folder in a run.
_RECORDS: dict[str, tuple[type[Artifact], ...]] = {
    "train": (Checkpoint,),
    "export": (ExportedModel, ExportedRanker),
    "preprocess": (TrainingData,),
    "prepare": (LabelledData,),
    "embed": (Embeddings,),
    "index": (Index,),
    "publish": (Release,),
}
_BUNDLE = "artifacts"  # the folder of a saved MLflow model that the bundle lies in


class Trained(NamedTuple):
    """A state of a training, with what its weights are of: the section `model`, and the folder of fitted features."""

    checkpoint: Checkpoint
    product: Product
    model: dict[str, Any]
    features: Path
    predicts: tuple[Predicts, ...] = ()


class RunStages(Frozen):
    """Where the artifacts of a run lie, by stage, below the folder of the runs of its name."""

    stages: dict[str, Path]


class Named:
    """What was asked for; each method loads one thing of it.

    Attributes:
        title: what it is, for messages.
        places: folders by stage; only those that are there.
        config: the config of the run, if it is at hand.
    """

    def __init__(self, title: str, places: Mapping[str, Path], config: Path | None = None) -> None:
        """Use `find`."""
        self.title, self.places, self.config = title, dict(places), config

    def model(self) -> ExportedModel | ExportedRanker:
        """Return the exported model: two towers, or a ranker."""
        folder = self._place("export")
        manifest = folder / MANIFEST
        if not manifest.is_file() and (folder / EXPORTED_MODEL).is_file():
            manifest = folder / EXPORTED_MODEL
        record = _record(manifest, "export")
        made: ExportedModel | ExportedRanker = integrity.read_record(record, manifest, path=folder)  # pyright: ignore[reportAssignmentType]
        made.verify_here()
        return made

    def towers(self) -> ExportedModel:
        """Return the exported model, which is one of retrieval.

        Raises:
            ValueError: it is a ranker.
        """
        made = self.model()
        if not isinstance(made, ExportedModel):
            raise ValueError(f"{self.title}: a ranking model, which has no towers; `dayline predict` scores with it")  # noqa: TRY004
        return made

    def ranker(self) -> ExportedRanker:
        """Return the exported model, which is one of ranking.

        Raises:
            ValueError: it is two towers.
        """
        made = self.model()
        if not isinstance(made, ExportedRanker):
            raise ValueError(f"{self.title}: two towers, which score no rows; `dayline embed` makes vectors with them")  # noqa: TRY004
        return made

    def trained(
        self,
        step: int | None = None,
        *,
        features: Path | None = None,
        model: tuple[Product, dict[str, Any]] | None = None,
    ) -> Trained:
        """Return the best state of the training, or that of `step`; of one that has not ended, the newest.

        `features` and `model` are for checkpoints of before a training kept them.

        Raises:
            ValueError: there is no such state, or nothing says what its weights are of.
        """
        folder = self._place("train")
        made, training = checkpoint_at(folder, step), training_of(folder)
        said = trained_model(training)
        if said is not None:
            product, section = said.product, said.model
        else:
            product, section = model or self._model_of_config(training)
        predicts = said.predicts if said is not None else ()
        return Trained(made, product, section, features or _features(training), predicts)

    def data(self) -> TrainingData | LabelledData:
        """Return what was trained and measured on."""
        stage = next((name for name in ("preprocess", "prepare") if name in self.places), "preprocess")
        return self._load(stage, _record(self._place(stage) / MANIFEST, stage))  # pyright: ignore[reportReturnType]

    def embeddings(self) -> Embeddings:
        """Return the vectors of items and queries."""
        return self._load("embed", Embeddings)

    def index(self) -> Index:
        """Return the index of the items' vectors."""
        return self._load("index", Index)

    def bundle(self) -> Path:
        """Return the folder of what is served: a downloaded bundle, or what a run published.

        Raises:
            ValueError: there is none, or the gate turned the run down, and nothing was published.
        """
        folder = self._place("publish")
        if not (folder / EXPORTED_MODEL).is_file():
            raise ValueError(f"{self.title}: nothing was published, so nothing can be served; see gate.reasons")
        return folder

    def _load(self, stage: str, record: type[A]) -> A:
        return record.load(self._place(stage))

    def _place(self, stage: str) -> Path:
        if stage not in self.places:
            there = ", ".join(self.places) or "nothing"
            raise ValueError(f"{self.title}: nothing of the stage {stage} is there, but {there}; name another")
        return self.places[stage]

    def _model_of_config(self, training: Path) -> tuple[Product, dict[str, Any]]:
        """Read the section `model` in the run's config, for trainings of before they kept it."""
        path = self.config or training.parent / RUN_CONFIG
        if not path.is_file():
            raise ValueError(
                f"{training}: nothing there says which model its weights are of; name its config with --config"
            )
        return model_of(path)


def model_of(config: Path) -> tuple[Product, dict[str, Any]]:
    """Return the product and the section `model` of a config file.

    Raises:
        ValueError: it is no YAML, or has none.
    """
    try:
        sections = yaml.safe_load(config.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{config}: damaged, not YAML ({integrity.first_line(error)})") from None
    if not isinstance(sections, dict) or not isinstance(sections.get("model"), dict):
        raise ValueError(f"{config}: no section model; name the config that was trained with")  # noqa: TRY004
    return ("ranking" if "ranking" in sections else "retrieval"), sections["model"]


def find(
    *,
    release: str | None = None,
    run: Path | None = None,
    folder: Path | None = None,
    uri: str | None = None,
    run_root: Path = Path("runs"),
) -> Named:
    """Return what exactly one of the three names.

    Args:
        release: `NAME`, `NAME@champion`, `NAME@previous` or `NAME@VERSION`; without an alias, what is live. An alias
            alone will do where there are releases of one name only.
        run: a run's folder, `runs/NAME/DAY/RUN_ID`.
        folder: a folder of any kind: a run's, a training's or a state in it, an exported model, a bundle, prepared
            data, vectors, an index. They may have been moved or copied.
        uri: MLflow's address; None: `MLFLOW_TRACKING_URI`, else `mlflow.db` in `run_root`.
        run_root: the folder of all runs.

    Raises:
        ValueError: it is not there, or no such thing.
    """
    given = [release, run, folder]
    if sum(one is not None for one in given) != 1:
        raise ValueError("name one of: a release, a run, a folder")
    if release is not None:
        return _release(release, uri, run_root)
    if run is not None:
        if not (run / RUN_CONFIG).is_file():
            raise ValueError(f"{run}: no {RUN_CONFIG}, so no folder of a run; name runs/NAME/DAY/RUN_ID")
        return _run(run)
    assert folder is not None
    return _folder(folder)


def _run(directory: Path, prefix: str = "") -> Named:
    """Return a run; with a `prefix` the stages whose names begin with it stand before those of that name."""
    places: dict[str, Path] = {}
    listed = directory / RUN_STAGES
    there = integrity.read_record(RunStages, listed).stages if listed.is_file() else {}
    for stage in _RECORDS:
        for name in (f"{prefix}{stage}", stage):
            folders = [directory / name, *([directory.parents[1] / there[name]] if name in there else [])]
            found = next((folder for folder in folders if (folder / MANIFEST).is_file()), None)
            if found is not None:
                places[stage] = found
                break
    config = directory / RUN_CONFIG
    return Named(str(directory), places, config if config.is_file() else None)


def _folder(directory: Path) -> Named:
    if not directory.is_dir():
        raise ValueError(f"{directory}: {'no folder' if directory.exists() else 'is not there'}")
    title = str(directory)
    is_saved = (directory / "MLmodel").is_file()
    bundle = directory / _BUNDLE if is_saved else directory
    if (bundle / EXPORTED_MODEL).is_file() or (bundle / SETTINGS).is_file():
        return Named(title, {"export": bundle, "publish": bundle})
    if (directory / RUN_CONFIG).is_file():
        return _run(directory)
    manifest = directory / MANIFEST
    if manifest.is_file():
        for stage in _RECORDS:
            if _fits(manifest, stage) is not None:
                return Named(title, {stage: directory})
    if any((directory / name).exists() for name in (METADATA, f"state/{METADATA}", "steps")):
        return Named(title, {"train": directory})
    raise ValueError(
        f"{directory}: neither a run, a checkpoint, an exported model, a bundle nor another artifact; name the folder "
        f"that holds a {MANIFEST}, or one of a run"
    )


def _release(named: str, uri: str | None, run_root: Path) -> Named:
    address, info = release_info(named, uri, run_root)
    model, trained = run_root / info.model, run_root / info.checkpoint
    prefix = model.name.removesuffix("export")
    found = _run(run_root / info.name / str(info.day) / info.run_id, prefix)
    title = f"release {info.name} version {info.version} of {info.day}"
    places = {stage: folder for stage, folder in found.places.items() if stage not in ("train", "export")}
    if (trained / MANIFEST).is_file():
        places["train"] = trained
    if info.product == "ranking":
        places["export"] = versions.load_model(info, address, run_root, ExportedRanker).path
    else:
        places["export"] = versions.load_model(info, address, run_root, ExportedModel).path
    return Named(title, places, found.config)


def release_info(named: str, uri: str | None = None, run_root: Path = Path("runs")) -> tuple[str, ReleaseInfo]:
    """Return MLflow's address, and what is known of the release that `find` would find by this name.

    Raises:
        ValueError: MLflow does not answer, or there is no such release.
    """
    uri = uri or os.environ.get(_URI)
    if uri is None and not (run_root / "mlflow.db").is_file():
        raise ValueError(f"--release {named}: no mlflow.db in {run_root}; name MLflow's address or the folder of runs")
    tracking = Tracking(uri=uri)
    check(tracking, run_root)
    address = location(tracking, run_root)
    client = connect(address)
    names = [model.name for model in client.search_registered_models()]
    name, _, version = named.partition("@")
    if name not in names and not version and name in ALIASES and len(names) == 1:
        name, version = names[0], name
    if name not in names:
        raise ValueError(f"--release {named}: MLflow has releases of {', '.join(names) or 'nothing'}; name one of them")
    known = {info.version: info for info in versions.releases(address, name)}
    aliases = client.get_registered_model(name).aliases
    wanted = version or CHAMPION
    number = aliases.get(wanted, wanted.removeprefix("v"))
    if not str(number).isdecimal() or int(number) not in known:
        there = ", ".join([*aliases, *map(str, sorted(known))])
        raise ValueError(f"--release {named}: {name} has no version {wanted}, only {there}; name one of these")
    return address, known[int(number)]


def _record(manifest: Path, stage: str) -> type[Artifact]:
    if not manifest.is_file():
        raise ValueError(f"{manifest.parent}: no {MANIFEST}, so no finished artifact; run its stage again")
    record = _fits(manifest, stage)
    if record is None:
        names = " or ".join(record.__name__ for record in _RECORDS[stage])
        raise ValueError(f"{manifest.parent}: not what the stage {stage} leaves ({names}); name another folder")
    return record


def _fits(manifest: Path, stage: str) -> type[Artifact] | None:
    """Return which of the stage's records the manifest is one of, by the names of its fields."""
    fields = integrity.read_json(manifest)
    names = {"path", *fields} if isinstance(fields, dict) else set[str]()
    for record in _RECORDS[stage]:
        known = record.model_fields
        if names <= known.keys() and all(name in names for name, field in known.items() if field.is_required()):
            return record
    return None


def _features(training: Path) -> Path:
    """Return the folder of the features that a training had: its own copy, or where its run keeps them."""
    lineage = training / "lineage.json"
    said = integrity.read_json(lineage) if lineage.is_file() else {}
    folders = [training / FEATURES, *([training / said["engine"]] if "engine" in said else [])]
    folders += [training.parent / stage / FEATURES for stage in ("export", "preprocess", "prepare")]
    for folder in folders:
        if folder.is_dir():
            digest = said.get("engine_digest")
            if digest is None or Engine.load(folder).digest == digest:
                return folder
    raise ValueError(f"{training}: the features that it was trained with are not at hand; name them with --features")
