"""The bundle as an MLflow model. MLflow stores this file with the model, and runs it where the model is served."""

from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from recsys_core import serving
from recsys_core.serving import scoring


class Released(PythonModel):
    """One row of columns in, one row of answers out, as the bundle's `answer` says.

    Of retrieval: `item_ids` and `scores`, best first. `params`: `k` is how many items a row gets at most, `exclude` a
    list of items that no row gets, and with `mask_seen: false` a row gets items of its history too; its default is the
    bundle's. A column `exclude` has each row's own such list. Of ranking: `probability` and `score`, the logit.
    """

    def load_context(self, context: PythonModelContext) -> None:
        """Load the bundle that was logged with the model."""
        self._bundle = serving.load(Path(context.artifacts["features"]).parent)
        scoring.take_over(lambda columns, params: self._bundle.answer(columns, params).to_pylist())

    # MLflow takes a `predict` without the context, though its base class has one.
    def predict(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Answer each row of `model_input`.

        Raises:
            MlflowException: bad input; names the column or the parameter.
        """
        columns: dict[str, Any] = {str(name): model_input[name] for name in model_input}
        # MLflow gives a column that a row may go without as nulls where no row has it.
        for name in self._bundle.optional:
            if name in columns and not model_input[name].notna().to_numpy().any():
                del columns[name]
        try:
            found = self._bundle.answer(columns, {name: _plain(value) for name, value in (params or {}).items()})
        except ValueError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error
        return pd.DataFrame(found.to_pydict())


def _plain(value: Any) -> Any:
    """Undo what MLflow makes of parameters: numpy's numbers and arrays."""
    return value.tolist() if hasattr(value, "tolist") else value


set_model(Released())
