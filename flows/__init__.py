"""Prefect flows and the `dayline` command.

Importing this package, which comes before any import of Prefect or MLflow, turns their telemetry off for this process
and those that it starts, unless the environment says otherwise.
"""

import os

# DO_NOT_TRACK must be "true": MLflow does not understand 1.
_QUIET = {"DO_NOT_TRACK": "true", "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
for _name, _value in _QUIET.items():
    os.environ.setdefault(_name, _value)
