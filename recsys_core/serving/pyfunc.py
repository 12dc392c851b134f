"""The bundle as an MLflow model. MLflow stores this file with the model, and runs it where the model is served."""

from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from recsys_core.serving import Bundle

DEFAULT_K = 20


class Recommender(PythonModel):
    """One row of user columns in, one row of `item_ids` and `scores` out; `params: {"k": …}` says how many.

    Where features leave ids out, the answer has `out_of_range` too; see `Bundle.recommend`.
    """

    def load_context(self, context: PythonModelContext) -> None:
        """Load the bundle that was logged with the model."""
        self._bundle = Bundle.load(Path(context.artifacts["query"]).parent)

    # MLflow takes a `predict` without the context, though its base class has one.
    def predict(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Recommend for each row of `model_input`; bad input is answered with status 400."""
        try:
            table = self._bundle.table({str(name): model_input[name] for name in model_input})
            found = self._bundle.recommend(table, (params or {}).get("k", DEFAULT_K))
        except ValueError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error
        return pd.DataFrame(found.to_pydict())


set_model(Recommender())
