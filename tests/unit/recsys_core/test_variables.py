"""A process gets the credentials that open what it reads, and no others."""

import pytest

from recsys_core.variables import without_credentials

PLAIN = {
    "PATH": "/bin",
    "PYTHONPATH": "/code",
    "OMP_NUM_THREADS": "2",
    "AWS_REGION": "eu",
    "NCCL_DEBUG": "INFO",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "SSH_AUTH_SOCK": "/tmp/a",
    "no_proxy": "127.0.0.1",
}
SECRETS = {
    "MLFLOW_TRACKING_PASSWORD": "a",
    "MLFLOW_TRACKING_TOKEN": "b",
    "MLFLOW_TRACKING_URI": "http://mlflow",
    "PREFECT_API_KEY": "c",
    "PREFECT_API_DATABASE_CONNECTION_URL": "d",
    "GITHUB_TOKEN": "e",
    "DATABASE": "postgresql://u:p@h/x",
    "AWS_ACCESS_KEY_ID": "f",
    "AWS_SECRET_ACCESS_KEY": "g",
    "ODPS_ACCESS_KEY": "h",
    "ALIBABA_CLOUD_ACCESS_KEY_SECRET": "i",
    "GOOGLE_APPLICATION_CREDENTIALS": "j",
    "FSSPEC_S3_SECRET": "k",
    "https_proxy": "http://u:p@proxy:80",
}


@pytest.mark.parametrize(
    ("reads", "expected"),
    [
        ([], set()),
        (["/data/local", '{"path": "file:///data"}'], set()),
        (['{"source": "odps://shop/tables/clicks"}'], {"ODPS_ACCESS_KEY", "ALIBABA_CLOUD_ACCESS_KEY_SECRET"}),
        (["s3://bucket/a"], {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "FSSPEC_S3_SECRET"}),
        (["gs://a"], {"GOOGLE_APPLICATION_CREDENTIALS"}),
        (["oss://a"], {"ALIBABA_CLOUD_ACCESS_KEY_SECRET"}),
    ],
)
def test_what_is_needed_is_kept(reads: list[str], expected: set[str]) -> None:
    proxy = {"https_proxy"} if expected else set()
    assert without_credentials(PLAIN | SECRETS, reads) == PLAIN | {name: SECRETS[name] for name in expected | proxy}
