"""The environment of processes that are started: which rank one is, and no credentials that it has no use for."""

import os
import re
from collections.abc import Iterable, Mapping

from recsys_core.redaction import is_secret, redact

# Which stage of its parent a rank is forked for; see `stage_loop`.
STAGE_NUMBER = "DAYLINE_STAGE_NUMBER"
# What these two are configured by is for the flow's own process; a rank talks to neither.
_OF_THE_FLOW = ("MLFLOW_", "PREFECT_")
_HARMLESS = ("MLFLOW_DISABLE_TELEMETRY", "PREFECT_SERVER_ANALYTICS_ENABLED")
# By an address's scheme: the prefixes of the variables that give access to what lies behind it.
_FAMILIES = {
    "odps": ("ODPS_", "ALIBABA_CLOUD_"),
    "oss": ("OSS_", "ALIBABA_CLOUD_"),
    "s3": ("AWS_",),
    "s3a": ("AWS_",),
    "gs": ("GOOGLE_", "GCS_", "CLOUDSDK_"),
    "gcs": ("GOOGLE_", "GCS_", "CLOUDSDK_"),
    "abfs": ("AZURE_",),
    "abfss": ("AZURE_",),
    "az": ("AZURE_",),
    "hdfs": ("HADOOP_", "HDFS_", "KRB5"),
}
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://")


def rank() -> tuple[int, int]:
    """Return which rank torchrun has started this process as, and of how many; without it, the only one."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def without_credentials(environ: Mapping[str, str], reads: Iterable[str] = ()) -> dict[str, str]:
    """Return `environ` without credentials, but for those by which the addresses in the texts `reads` are opened."""
    schemes = schemes_of(reads)
    needed = [prefix for scheme in schemes for prefix in (*_FAMILIES.get(scheme, ()), f"FSSPEC_{scheme.upper()}_")]
    if schemes & {*_FAMILIES, "http", "https"}:
        needed += ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"]
    return {
        name: value
        for name, value in environ.items()
        if name.upper().startswith(tuple(needed)) or not _is_of_no_use(name, value)
    }


def schemes_of(texts: Iterable[str]) -> set[str]:
    """Return the schemes of the addresses in `texts`, such as `s3`."""
    return {scheme for text in texts for scheme in _SCHEME.findall(text)}


def _is_of_no_use(name: str, value: str) -> bool:
    if name in _HARMLESS:
        return False
    return name.startswith(_OF_THE_FLOW) or is_secret(name) or redact(value) != value
