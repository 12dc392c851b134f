"""A bundle: what is served of one day, as a folder and as an MLflow model."""

import importlib.metadata
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from recsys_core import integrity, readers
from recsys_core.artifacts import MANIFEST, Embeddings, ExportedModel, Index, TrainingData
from recsys_core.features import Engine
from recsys_core.registry import EXPORTED_MODEL

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec

QUERIES = "queries.parquet"
SETTINGS = "serving.json"
_CORE = Path(__file__).parent.parent
_NEEDED_TO_SERVE = ("faiss-cpu", "mlflow", "numpy", "pandas", "pyarrow", "pydantic", "torch", "xxhash")


def fill(directory: Path, model: ExportedModel, index: Index, queries: pa.Table, *, mask_seen: bool) -> None:
    """Copy the bundle's pieces into `directory`, and seal them with the digests that they had.

    `mask_seen` is what the service does with a row's seen items where the request does not say.

    Raises:
        ValueError: a copy is not what was exported or indexed.
    """
    shutil.copytree(model.path, directory, dirs_exist_ok=True)
    (directory / MANIFEST).rename(directory / EXPORTED_MODEL)
    (directory / "index").mkdir()
    for source in (index.faiss, index.id_map):
        shutil.copyfile(source, directory / "index" / source.name)
    pq.write_table(queries, directory / QUERIES)
    integrity.write_text(directory / SETTINGS, integrity.sealed({"mask_seen": mask_seen}))
    known = {file.path: file.digest for file in model.files}
    known |= {f"index/{file.path}": file.digest for file in index.files if (directory / "index" / file.path).is_file()}
    integrity.seal(directory, known)


def queries(model: ExportedModel, data: TrainingData, embeddings: Embeddings, num_rows: int) -> pa.Table:
    """Return the first queries of the ground truth, each with its measured vector; both folders are in one order."""
    columns = Engine.load(model.engine).columns("query")
    wanted = list(dict.fromkeys(["user_id", *columns]))
    given = readers.read_all(readers.opened(data.ground_truth), wanted, num_rows)
    measured = readers.read_all(readers.opened(embeddings.queries), ["user_id", "embedding"], num_rows)
    assert given["user_id"].equals(measured["user_id"]), "embeddings are in the order of the ground truth"
    return given.select(columns).append_column("embedding", measured["embedding"])


def save(pieces: dict[str, Path], model: ExportedModel, index: Index, destination: Path, record: "Model") -> None:
    """Write the bundle's pieces to `destination` as a pyfunc model: with this code, and without a pickle."""
    import mlflow.pyfunc

    engine = Engine.load(model.engine)
    mlflow.pyfunc.save_model(
        path=str(destination),
        python_model=str(_CORE / "serving" / "pyfunc.py"),
        code_paths=[str(_CORE)],
        # MLflow takes a plain path for a URI, and decodes what is in it.
        artifacts={name: path.absolute().as_uri() for name, path in pieces.items()},
        signature=_signature(model, index, mask_seen=integrity.read_json(pieces[SETTINGS])["mask_seen"]),
        input_example=_example(pieces[QUERIES], _number_columns(engine), engine.histories()),
        pip_requirements=[f"{name}=={_version(name)}" for name in _NEEDED_TO_SERVE],
        mlflow_model=record,
    )


def _example(queries: Path, counted: set[str], histories: tuple[str, ...]) -> "pd.DataFrame":
    """Return two queries as a client would send them."""
    import pandas as pd

    rows = pq.read_table(queries).drop_columns("embedding").slice(0, 2).to_pylist()
    # As objects: pandas would make NaN of what is unknown, which is no JSON.
    return pd.DataFrame([_without_nulls(row, counted, histories) for row in rows], dtype=object)


def _without_nulls(row: dict[str, Any], counted: set[str], histories: tuple[str, ...]) -> dict[str, Any]:
    """Leave nulls out of a row's lists, which MLflow's hold none of (an item whose brand is unknown, say).

    `histories` are of the same interactions: what one of them lacks is left out of all.
    """
    lists = {name: value for name, value in row.items() if isinstance(value, list)}
    columns = [lists[name] for name in histories if name in lists and name not in counted]
    whole = [all(entry is not None for entry in entries) for entries in zip(*columns, strict=True)]
    for name, value in lists.items():
        if name in histories and whole:
            row[name] = [entry for entry, keeps in zip(value, whole, strict=True) if keeps]
        elif name not in counted:
            row[name] = [entry for entry in value if entry is not None]
    return row


def _number_columns(engine: Engine) -> set[str]:
    """Return the query columns whose lists are of numbers: a null among them is a number that is unknown."""
    return {
        column
        for one in engine.describe()
        if one.side == "query" and one.output == "raw" and one.table is None
        for column in one.columns
    }


def _signature(model: ExportedModel, index: Index, *, mask_seen: bool) -> "ModelSignature":
    """Declare the raw user columns, the answer, and the parameters: MLflow drops those that no signature declares."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import Array, Object, Property

    engine = Engine.load(model.engine)
    schema, numbers = engine.schema("query"), _number_columns(engine)
    item_id = pq.read_schema(index.id_map).field("item_id").type
    ids = DataType.long if pa.types.is_integer(item_id) else DataType.string
    outputs: list[Any] = [ColSpec(Array(ids), "item_ids"), ColSpec(Array(DataType.double), "scores")]
    if dropping := engine.dropping("query"):
        outputs.append(ColSpec(Object([Property(name, DataType.long) for name in dropping]), "out_of_range"))
    columns = [_column(name, field["type"], gaps=name in numbers) for name, field in schema.items()]
    return ModelSignature(
        inputs=Schema([*columns, ColSpec(Array(ids), "exclude", required=False)]),
        outputs=Schema(outputs),
        params=ParamSchema(
            [
                ParamSpec("k", DataType.long, 20),
                ParamSpec("exclude", ids, [], shape=(-1,)),
                ParamSpec("mask_seen", DataType.boolean, mask_seen),
            ]
        ),
    )


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
