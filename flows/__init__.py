"""Prefect flows and the `dayline` command.

Importing this package, which comes before any import of Prefect or MLflow, turns their telemetry off for this process
and those that it starts, unless the environment says otherwise. Nor do they send what is for this machine to a proxy.
"""

import os

# DO_NOT_TRACK must be "true": MLflow does not understand 1.
_QUIET = {"DO_NOT_TRACK": "true", "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
for _name, _value in _QUIET.items():
    os.environ.setdefault(_name, _value)

# Libraries differ in which of the two they read.
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_direct = [os.environ.get(_name, "") for _name in ("no_proxy", "NO_PROXY")]
_direct = [_host.strip() for _host in ",".join(_direct).split(",") if _host.strip()]
for _name in ("no_proxy", "NO_PROXY"):
    os.environ[_name] = "*" if "*" in _direct else ",".join(dict.fromkeys([*_direct, *_LOOPBACK]))
