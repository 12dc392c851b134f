"""What a training's weights mean nothing without, kept beside them: its folder may be copied anywhere, and exported."""

import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from recsys_core import artifacts, integrity, readers
from recsys_core.artifacts import ComponentConfig, LabelledData, TrainedModel, TrainingData
from recsys_core.features import Side
from recsys_core.training.objective import Objective

_ROWS = 256


def keep(folder: Path, model: ComponentConfig, data: TrainingData | LabelledData, objective: Objective[Any]) -> None:
    """Write the section of the model, the fitted features and the first rows into a training's folder."""
    shutil.copytree(data.engine, folder / artifacts.FEATURES, dirs_exist_ok=True)
    product = "retrieval" if isinstance(data, TrainingData) else "ranking"
    record = TrainedModel(product=product, model=model.model_dump(mode="json"), predicts=objective.predicts)
    integrity.write_text(folder / artifacts.MODEL, integrity.sealed(record.model_dump(mode="json")))
    sample = folder / artifacts.SAMPLE
    sample.mkdir(exist_ok=True)
    # Rows of ranking have the columns of both sides.
    items = readers.opened(data.items) if isinstance(data, TrainingData) else objective.reader
    sides: dict[Side, readers.Reader] = {"query": objective.reader, "item": items}
    for side, reader in sides.items():
        columns = [name for name in objective.engine.columns(side) if name in reader.schema.names]
        pq.write_table(readers.read_all(reader, columns, _ROWS), sample / f"{side}.parquet")
