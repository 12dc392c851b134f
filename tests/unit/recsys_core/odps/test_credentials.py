import json
import logging
import pickle
from pathlib import Path

import pytest
from alibabacloud_credentials.utils import auth_util

from recsys_core.odps import credentials
from recsys_core.odps.credentials import Keys
from recsys_core.odps.emulator import Emulator
from recsys_core.odps.emulator.faults import Fault

ENDPOINT = "http://127.0.0.1:1/api"
SECRET = "s3cret-0f-t0day"
FILE = f"""\ufeff# odpscmd
[default]
project_name = shop
access_id = 'file-key'\r
ACCESS_KEY="{SECRET}"
; a comment
end_point={ENDPOINT}/
tunnel_endpoint = 127.0.0.1:2
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "odps_config.ini"
    path.write_text(FILE)
    return path


def test_a_file_of_odpscmd_comes_first(file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    variables = {"ODPS_ACCESS_ID": "other", "ODPS_ACCESS_KEY": "other", "ODPS_ENDPOINT": "http://elsewhere"}
    with caplog.at_level(logging.INFO):
        access = credentials.find({"ODPS_CONFIG_FILE_PATH": str(file)} | variables, tmp_path)
    assert (access.endpoint, access.tunnel_endpoint) == (ENDPOINT, "127.0.0.1:2")
    assert access.account._keys.access_id == "file-key"
    assert [record.getMessage() for record in caplog.records] == [
        f"MaxCompute at {ENDPOINT}/ with keys from ODPS_CONFIG_FILE_PATH={file}"
    ]
    assert SECRET not in repr(access) + repr(access.account._keys)
    for secretive in (access.account, access.account._keys):
        with pytest.raises(TypeError, match="not pickled"):
            pickle.dumps(secretive)


@pytest.mark.parametrize(
    ("variables", "source", "token"),
    [
        (
            {"ODPS_STS_ACCESS_KEY_ID": "a", "ODPS_STS_ACCESS_KEY_SECRET": SECRET, "ODPS_STS_TOKEN": "t"},
            "ODPS_STS_ACCESS_KEY_ID, ODPS_STS_ACCESS_KEY_SECRET, ODPS_STS_TOKEN",
            "t",
        ),
        ({"ODPS_ACCESS_ID": "a", "ODPS_ACCESS_KEY": SECRET}, "ODPS_ACCESS_ID, ODPS_ACCESS_KEY", None),
    ],
)
def test_variables_come_before_the_chain(variables: dict, source: str, token: str | None, tmp_path: Path) -> None:
    more = {"ALIBABA_CLOUD_ACCESS_KEY_ID": "chain", "ODPS_ENDPOINT": ENDPOINT}
    access = credentials.find(variables | more, tmp_path)
    assert access.source == source
    assert access.account._keys.same(Keys("a", SECRET, token))


def test_the_chain_comes_before_the_file_at_home(tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.rename(tmp_path / ".odps_config.ini")
    # The chain's library has read its variables when it was imported.
    monkeypatch.setattr(auth_util, "environment_access_key_id", "chained")
    monkeypatch.setattr(auth_util, "environment_access_key_secret", SECRET)
    variables = {"ALIBABA_CLOUD_ACCESS_KEY_ID": "chained", "ODPS_ENDPOINT": ENDPOINT}
    access = credentials.find(variables, tmp_path)
    assert access.source == "Alibaba Cloud's credential chain (ALIBABA_CLOUD_ACCESS_KEY_ID)"
    assert access.account._keys.same(Keys("chained", SECRET))
    assert credentials.find({}, tmp_path).source == str(tmp_path / ".odps_config.ini")


def test_a_chain_without_keys_says_what_it_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth_util, "environment_ecs_metadata_disabled", "true")
    monkeypatch.setattr(auth_util, "environment_access_key_id", None)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ValueError, match="chain found no keys: .*set ODPS_CONFIG_FILE_PATH"):
        credentials.find({"ALIBABA_CLOUD_PROFILE": "absent", "ODPS_ENDPOINT": ENDPOINT}, tmp_path)


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({}, "no access to MaxCompute: set ODPS_CONFIG_FILE_PATH"),
        ({"ODPS_ACCESS_ID": "a"}, "ODPS_ACCESS_ID set, but not ODPS_ACCESS_KEY"),
        ({"ODPS_ACCESS_ID": "a", "ODPS_ACCESS_KEY": "b"}, "no endpoint; set ODPS_ENDPOINT"),
        ({"ODPS_ACCESS_ID": "a", "ODPS_ACCESS_KEY": "b", "ODPS_ENDPOINT": "ftp://x"}, "does not open with http"),
        ({"ODPS_CONFIG_FILE_PATH": "/nowhere.ini"}, "/nowhere.ini: cannot be read"),
        ({"ODPS_STS_ACCOUNT_FILE": "/nowhere.json"}, "ODPS_STS_ACCOUNT_FILE.: FileNotFoundError"),
    ],
)
def test_what_is_missing_is_said(variables: dict[str, str], said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said):
        credentials.find(variables, tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("access_id=a\nno equals sign", "line 2: not `key = value`"),
        ("access_id=a\n", "no access_key; it has access_id"),
    ],
)
def test_a_damaged_file_is_refused_without_quoting_it(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "c").write_text(text)
    with pytest.raises(ValueError, match=said):
        credentials.read_file(tmp_path / "c")


def test_a_token_that_expires_in_a_long_job_is_replaced_by_the_files(
    emulator: Emulator, every_type, write, opened, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def rotate(token: str) -> None:
        fields = {"accessKeyId": "sts", "accessKeySecret": SECRET, "securityToken": token}
        (tmp_path / "sts.json").write_text(json.dumps(fields))
        emulator.keyring.replace([Keys("sts", SECRET, token)])

    rotate("first")
    monkeypatch.setenv("ODPS_STS_ACCOUNT_FILE", str(tmp_path / "sts.json"))
    rows = every_type(200)
    write("odps://shop/tables/t", rows)
    table = opened("odps://shop/tables/t", rows_per_block=100)
    rotate("second")
    assert table.read(0, ["id"]).column("id").to_pylist() == list(range(100))
    rotate("third")
    assert table.read(1, ["id"]).column("id").to_pylist() == list(range(100, 200))
    # The same key, refused again, is refused for good.
    emulator.keyring.replace([Keys("sts", SECRET, "unknown to the file")])
    emulator.faults.clear()
    with pytest.raises(ValueError, match="does not accept the keys .*the token of the temporary key is not valid"):
        table.read(1, ["id"])
    assert emulator.faults.requests["read"] == 1


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (Keys("ak", "another secret"), "does not accept the keys .*SignatureNotMatch"),
        (Keys("unknown", "a secret"), "does not accept the keys .*the access key unknown is not known"),
    ],
)
def test_wrong_keys_fail_at_the_first_request(
    keys: Keys, said: str, emulator: Emulator, opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ODPS_ACCESS_ID", keys.access_id)
    monkeypatch.setenv("ODPS_ACCESS_KEY", keys.secret)
    with pytest.raises(ValueError, match=said):
        opened("odps://shop/tables/t")
    assert sum(emulator.faults.requests.values()) <= 2


def test_no_permission_is_not_tried_again(emulator: Emulator, every_type, write, opened) -> None:
    write("odps://shop/tables/t", every_type(10))
    table = opened("odps://shop/tables/t")
    emulator.faults.clear()
    emulator.faults.add(Fault(kind="status", operation="read", status=403))
    with pytest.raises(ValueError, match="rows 0 to 10: MaxCompute does not permit it"):
        table.read(0, ["id"])
    assert emulator.faults.requests["read"] == 1
