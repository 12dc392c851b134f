"""A bundle: what is served of one day, as a folder and as an MLflow model."""

import abc
import importlib.metadata
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from recsys_core import artifacts, integrity
from recsys_core.artifacts import MANIFEST, ExportedModel, ExportedRanker, Product
from recsys_core.artifacts.release import EXPORTED_MODEL, SETTINGS
from recsys_core.features import Engine, Side

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec

_CORE = Path(__file__).parent.parent
_NEEDED_TO_SERVE = ("mlflow", "numpy", "pandas", "pyarrow", "pydantic", "torch", "xxhash")


class CheckRequest(artifacts.Request):
    """What the stage needs that checks a bundle; it leaves nothing at its output."""

    bundle: Path


class Bundle(abc.ABC):
    """What a product releases of a day: the parts beside the exported model, and how MLflow declares the whole.

    Attributes:
        product: whose it is; `serving` loads it as that.
        kind: what MLflow's pages call such a model.
        needed: distributions that serving it takes beside those that serving any takes.
    """

    product: ClassVar[Product]
    kind: ClassVar[str]
    needed: ClassVar[tuple[str, ...]] = ()

    def __init__(self, model: ExportedModel | ExportedRanker, settings: Mapping[str, Any]) -> None:
        """`settings` are what is served by where a request does not say."""
        self.model, self._settings = model, settings

    @abc.abstractmethod
    def add(self, directory: Path) -> dict[str, str]:
        """Write what stands beside the exported model; return the digests that copied files had, by their path."""

    @abc.abstractmethod
    def signature(self) -> "ModelSignature":
        """Declare what goes in and comes out."""

    @abc.abstractmethod
    def example(self) -> "pd.DataFrame":
        """Return two rows as a client would send them."""

    def fill(self, directory: Path) -> None:
        """Write the bundle's parts into `directory`, and seal them with the digests that they had.

        Raises:
            ValueError: a copy is not what was exported.
        """
        shutil.copytree(self.model.path, directory, dirs_exist_ok=True)
        (directory / MANIFEST).rename(directory / EXPORTED_MODEL)
        known = {file.path: file.digest for file in self.model.files} | self.add(directory)
        settings = {"product": self.product, **self._settings}
        integrity.write_text(directory / SETTINGS, integrity.sealed(settings))
        integrity.seal(directory, known)

    def save(self, parts: Iterable[Path], destination: Path, record: "Model") -> None:
        """Write the parts of a filled folder to `destination` as a pyfunc model: with this code, without a pickle."""
        import mlflow.pyfunc

        mlflow.pyfunc.save_model(
            path=str(destination),
            python_model=str(_CORE / "serving" / "pyfunc.py"),
            code_paths=[str(_CORE)],
            # MLflow takes a plain path for a URI, and decodes what is in it.
            artifacts={path.name: path.absolute().as_uri() for path in parts},
            signature=self.signature(),
            input_example=self.example(),
            pip_requirements=[f"{name}=={_version(name)}" for name in sorted((*_NEEDED_TO_SERVE, *self.needed))],
            mlflow_model=record,
        )


def inputs(engine: Engine, *sides: Side) -> "list[ColSpec]":
    """Declare the columns of `sides` whose types a fit has seen."""
    numbers = number_columns(engine, *sides)
    schema = {name: field["type"] for side in sides for name, field in engine.schema(side).items()}
    return [_column(name, kind, gaps=name in numbers) for name, kind in schema.items()]


def left_out(engine: Engine, *sides: Side) -> "list[ColSpec]":
    """Declare the answer's column `out_of_range`, where features leave ids out."""
    from mlflow.types import ColSpec, DataType
    from mlflow.types.schema import Object, Property

    names = [name for side in sides for name in engine.dropping(side)]
    return [ColSpec(Object([Property(name, DataType.long) for name in names]), "out_of_range")] if names else []


def number_columns(engine: Engine, *sides: Side) -> set[str]:
    """Return the columns of `sides` whose lists are of numbers: a null among them is a number that is unknown."""
    return {
        column
        for one in engine.describe()
        if one.side in sides and one.output == "raw" and one.table is None
        for column in one.columns
    }


def _column(name: str, kind: str, *, gaps: bool) -> "ColSpec":
    """Declare one input. Whole numbers may be unknown, which MLflow's own integer types refuse: they are `any`.

    So are times and maps, which come as texts and objects, and lists with `gaps`: MLflow's hold no nulls.
    """
    from mlflow.types import ColSpec, DataType
    from mlflow.types.schema import AnyType, Array

    depth = kind.count("list<")
    if not depth and kind in ("float32", "float64", "string"):
        return ColSpec(DataType.string if kind == "string" else DataType.double, name)
    entries = {
        "int64": DataType.long,
        "float32": DataType.double,
        "float64": DataType.double,
        "string": DataType.string,
        "bool": DataType.boolean,
    }
    declared: Any = entries.get(kind[5 * depth : len(kind) - depth]) if depth and not gaps else None
    if declared is None:
        return ColSpec(AnyType(), name)
    for _ in range(depth):
        declared = Array(declared)
    return ColSpec(declared, name, required=False)


def _version(distribution: str) -> str:
    """Return the installed version without its local part: `2.13.0+cpu` is no version of the package index."""
    return importlib.metadata.version(distribution).partition("+")[0]
