"""What a training's weights mean nothing without, kept beside them: its folder may be copied anywhere, and exported."""

import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from recsys_core import artifacts, integrity, readers
from recsys_core.artifacts import ComponentConfig, LabelledData, TrainedModel, TrainingData
from recsys_core.training.objective import Objective

_ROWS = 256


def keep(folder: Path, model: ComponentConfig, data: TrainingData | LabelledData, objective: Objective[Any]) -> None:
    """Write the section of the model, the fitted features and the first rows into a training's folder."""
    shutil.copytree(data.engine, folder / artifacts.FEATURES, dirs_exist_ok=True)
    is_retrieval, engine = isinstance(data, TrainingData), objective.engine
    record = TrainedModel(product="retrieval" if is_retrieval else "ranking", model=model.model_dump(mode="json"))
    integrity.write_text(folder / artifacts.MODEL, integrity.sealed(record.model_dump(mode="json")))
    sample = folder / artifacts.SAMPLE
    sample.mkdir(exist_ok=True)
    # Rows of ranking have the columns of both sides.
    tables = {"query": objective.reader, "item": readers.opened(data.items) if is_retrieval else objective.reader}
    for side in artifacts.SIDES:
        columns = [name for name in engine.columns(side) if name in tables[side].schema.names]
        pq.write_table(readers.read_all(tables[side], columns, _ROWS), sample / f"{side}.parquet")
