"""The publish stage of ranking: the scorer, released so that rows give probabilities."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from recsys_core import launch, readers
from recsys_core.artifacts import ExportedRanker, LabelledData, Predictions, RankingEvaluation, Release, digest_of
from recsys_core.artifacts.release import EXAMPLES, SCORES
from recsys_core.features import Engine, Side
from recsys_core.ranking import opened
from recsys_core.registry import bundle, publish
from recsys_core.tracking import Tracker

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.models import ModelSignature

_SIDES: tuple[Side, Side] = ("query", "item")


class Config(publish.Config):
    """YAML section `publish` of a daily ranking config."""

    num_rows: int = Field(
        default=16, ge=1, description="real rows kept in the bundle, which it must score as measured to go live"
    )


class Request(publish.Request[Config, ExportedRanker]):
    """What publishing needs. `predictions` are the scores that `model` gave the rows of `split`, all of them."""

    data: LabelledData
    split: str
    predictions: Predictions
    evaluation: RankingEvaluation

    @property
    def bundle_digest(self) -> str:
        """See `publish.Request`."""
        return digest_of([self.model.digest])

    @property
    def metrics(self) -> dict[str, float]:
        """See `publish.Request`."""
        named = {f"{task}_": metrics for task, metrics in self.evaluation.tasks.items() if metrics is not None}
        return {
            f"{prefix}{name}": value
            for prefix, metrics in (named or {"": self.evaluation.metrics}).items()
            for name, value in metrics.figures().items()
            if name not in ("num_rows", "num_positives")
        }

    @property
    def ground_truth_digest(self) -> str:
        """See `publish.Request`."""
        return self.evaluation.rows_digest or self.data.digest

    @property
    def num_rows(self) -> int:
        """See `publish.Request`: the rows that it was measured on."""
        return self.predictions.num_rows

    def bundle(self) -> "Bundle":
        """See `publish.Request`."""
        rows, scores = examples(self.model, self.data, self.split, self.predictions, self.config.num_rows)
        return Bundle(self.model, rows, scores)


class Bundle(bundle.Bundle):
    """A scorer of rows, with a few of them and what they were scored where the day was measured."""

    product, kind = "ranking", "ranking scorer"

    def __init__(self, model: ExportedRanker, rows: pa.Table, scores: pa.Table) -> None:
        """`rows` have the columns of the features, `scores` the columns of the answer, in the same order."""
        super().__init__(model, {})
        self._engine, self._rows, self._scores = Engine.load(model.engine), rows, scores

    def add(self, directory: Path) -> dict[str, str]:
        """See `bundle.Bundle`."""
        pq.write_table(self._rows, directory / EXAMPLES)
        pq.write_table(self._scores, directory / SCORES)
        return {}

    def signature(self) -> "ModelSignature":
        """Declare the raw columns of both sides of a row, and the answer."""
        from mlflow.models import ModelSignature
        from mlflow.types import ColSpec, DataType, Schema

        inputs: list[Any] = [*bundle.inputs(self._engine, *_SIDES)]
        outputs = [ColSpec(DataType.double, name) for name in self._scores.column_names]
        return ModelSignature(
            inputs=Schema(inputs),
            outputs=Schema([*outputs, *bundle.left_out(self._engine, *_SIDES)]),
        )

    def example(self) -> "pd.DataFrame":
        """See `bundle.Bundle`: rows without nulls in lists, of which MLflow's hold none, if there are any."""
        import pandas as pd

        numbers = bundle.number_columns(self._engine, *_SIDES)
        rows = self._rows.to_pylist()
        whole = [
            row
            for row in rows
            if not any(isinstance(value, list) and None in value and name not in numbers for name, value in row.items())
        ]
        # As objects: pandas would make NaN of what is unknown, which is no JSON.
        return pd.DataFrame((whole or rows)[:2], dtype=object)


def run(request: Request, tracker: Tracker, how: launch.Config) -> Release:
    """See `publish.run`."""
    return publish.run(request, tracker, how)


def examples(
    model: ExportedRanker, data: LabelledData, split: str, predictions: Predictions, num_rows: int
) -> tuple[pa.Table, pa.Table]:
    """Return the first rows of a split, with the columns of the features, and what `predictions` says of them."""
    assert predictions.model_digest == model.digest, "the scores are of the model that is released"
    engine, reader = Engine.load(model.engine), opened(data, split)
    assert predictions.num_rows == reader.num_rows, "every row of the split is scored"
    columns = list(dict.fromkeys(name for side in _SIDES for name in engine.columns(side)))
    answer = [name for score, probability in model.columns for name in (probability, score)]
    scores = readers.read_all(readers.opened(predictions.rows), answer, num_rows)
    return readers.read_all(reader, columns, num_rows), scores
