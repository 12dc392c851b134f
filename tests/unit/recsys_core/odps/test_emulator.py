import base64
import datetime
import email.utils
import hashlib
import hmac
import json
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from odps import ODPS, errors
from odps.accounts import CloudAccount, StsAccount

from recsys_core.odps.credentials import Keys
from recsys_core.odps.emulator import Emulator
from recsys_core.odps.emulator.signature import Keyring
from recsys_core.odps.emulator.wire import RefusedError, Request

RING = Keyring([Keys("ak", "sk"), Keys("temporary", "sk", "token")])
TARGET = "/api/projects/p/tables/t?partition=ds%3D%27a%252Bb%27&curr_project=p"


def signed(account: CloudAccount, region: str | None = None, **changes: str) -> Request:
    """A request that the real client has signed, then changed on its way."""
    import requests

    plain = requests.Request("GET", "http://h:1" + TARGET, headers={"x-odps-user-agent": "tests"}).prepare()
    account.sign_request(plain, "http://h:1/api", region_name=region)
    headers = {name.lower(): value for name, value in plain.headers.items()}
    parts = {"method": "GET", "target": plain.path_url}
    for name, value in changes.items():
        if name in parts:
            parts[name] = value
        else:
            headers[name.replace("_", "-")] = value
    return Request(parts["method"], parts["target"], headers, b"")


def test_a_signature_is_that_of_openssl() -> None:
    # Signed by hand, by the document of the interface.
    now = email.utils.formatdate(usegmt=True)
    text = f"POST\nabc\napplication/json\n{now}\nx-odps-user-agent:me\n/api/storage/v1/x?curr_project=p&flag"
    signature = base64.b64encode(hmac.new(b"sk", text.encode(), hashlib.sha1).digest()).decode()
    headers = {"content-md5": "abc", "content-type": "application/json", "date": now, "x-odps-user-agent": "me"}
    request = Request(
        "POST", "/api/storage/v1/x?flag=&curr_project=p", headers | {"authorization": f"ODPS ak:{signature}"}, b""
    )
    RING.verify(request)


@pytest.mark.parametrize(
    ("account", "region"),
    [
        (CloudAccount("ak", "sk"), None),
        (CloudAccount("ak", "sk"), "cn-hangzhou"),
        (StsAccount("temporary", "sk", "token", expired_hours=1), None),
    ],
)
def test_the_real_clients_signatures_are_accepted(account: CloudAccount, region: str | None) -> None:
    RING.verify(signed(account, region))


OLD = email.utils.format_datetime(datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1), usegmt=True)


@pytest.mark.parametrize("region", [None, "cn-hangzhou"])
@pytest.mark.parametrize(
    ("account", "changes", "code"),
    [
        (CloudAccount("ak", "wrong"), {}, "SignatureNotMatch"),
        (CloudAccount("unknown", "sk"), {}, "Unauthorized"),
        (CloudAccount("temporary", "sk"), {}, "AuthenticationRequestExpired"),
        (StsAccount("temporary", "sk", "stale", expired_hours=1), {}, "AuthenticationRequestExpired"),
        (CloudAccount("ak", "sk"), {"method": "DELETE"}, "SignatureNotMatch"),
        (CloudAccount("ak", "sk"), {"target": TARGET.replace("tables/t", "tables/u")}, "SignatureNotMatch"),
        (CloudAccount("ak", "sk"), {"target": TARGET + "&x=1"}, "SignatureNotMatch"),
        (CloudAccount("ak", "sk"), {"x_odps_user_agent": "another"}, "SignatureNotMatch"),
        (CloudAccount("ak", "sk"), {"date": OLD}, "RequestTimeTooSkewed"),
        (CloudAccount("ak", "sk"), {"date": "yesterday"}, "AuthorizationRequired"),
        (CloudAccount("ak", "sk"), {"authorization": "Basic x"}, "AuthorizationRequired"),
    ],
)
def test_tampered_requests_are_refused(
    account: CloudAccount, changes: dict[str, str], code: str, region: str | None
) -> None:
    with pytest.raises(RefusedError) as refused:
        RING.verify(signed(account, region, **changes))
    assert refused.value.code == code


def test_a_signature_of_another_region_or_day_is_refused() -> None:
    request = signed(CloudAccount("ak", "sk"), "cn-hangzhou")
    for old, new in (("cn-hangzhou", "cn-beijing"), ("/odps/", "/oss/")):
        headers = request.headers | {"authorization": request.headers["authorization"].replace(old, new)}
        with pytest.raises(RefusedError, match="signature|scope"):
            RING.verify(request._replace(headers=headers))


@pytest.fixture
def client(emulator: Emulator) -> ODPS:
    """pyodps itself, as its users have it."""
    return ODPS("ak", "a secret", project="shop", endpoint=emulator.endpoint, overwrite_global=False)


def test_the_real_client_makes_and_drops_tables(client: ODPS) -> None:
    assert client.exist_project("shop")
    assert not client.exist_project("none")
    table = client.create_table("t", ("  `id` bigint", "  `ds` string,\n  `hh` string"), lifecycle=3)
    assert table.lifecycle == 3
    table.create_partition("ds='a',hh='b'")
    table.create_partition("ds='a',hh='b'", if_not_exists=True)
    assert [str(one.partition_spec) for one in table.partitions] == ["ds='a',hh='b'"]
    assert table.exist_partition("ds='a',hh='b'")
    assert not table.exist_partition("ds='a',hh='c'")
    for statement in ("create_partition", "delete_partition"):
        with pytest.raises(errors.ODPSError):
            getattr(table, statement)("ds='a'")
    with pytest.raises(errors.ODPSError, match="already exists"):
        table.create_partition("ds='a',hh='b'")
    with pytest.raises(errors.ODPSError, match="no partition"):
        table.delete_partition("ds='x',hh='b'")
    table.delete_partition("ds='x',hh='b'", if_exists=True)
    table.delete_partition("ds='a',hh='b'")
    assert not list(table.partitions)
    with pytest.raises(errors.ODPSError, match="already exists"):
        client.create_table("t", "  `id` bigint")
    client.delete_table("t")
    client.delete_table("t", if_exists=True)
    assert not client.exist_table("t")
    for statement in ("SELECT 1;", "DROP TABLE shop.`t`;"):
        with pytest.raises(errors.ODPSError):
            client.execute_sql(statement)
    for columns in ("  `id` number", "id", "id-bigint"):
        with pytest.raises(errors.ODPSError, match="Parse exception|0130161"):
            client.create_table("u", columns)


def test_a_statement_may_leave_the_project_and_quotes_out(client: ODPS) -> None:
    client.execute_sql("CREATE TABLE plain (\n    n BIGINT,\n    x DOUBLE\n)\n;\n")
    columns = client.get_table("plain", project="shop").table_schema.columns
    assert [(column.name, str(column.type)) for column in columns] == [("n", "BIGINT"), ("x", "DOUBLE")]
    client.execute_sql("DROP TABLE plain")
    assert not client.exist_table("plain", project="shop")


def test_a_folder_of_parquet_is_a_table(client: ODPS, tmp_path: Path, opened: Callable) -> None:
    folder = tmp_path / "odps" / "shop" / "log" / "ds=2024-01-01"
    folder.mkdir(parents=True)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array([1.0, 2.0], pa.float32()), 2)
    pq.write_table(pa.table({"v": vectors, "c": pa.array(["x"]).dictionary_encode()}), folder / "a.parquet")
    assert [str(c.type).lower() for c in client.get_table("log").table_schema.columns] == [
        "array<float>",
        "string",
        "string",
    ]
    table = opened("odps://shop/tables/log")
    assert table.read(0, ["v", "c", "ds"]).to_pylist() == [{"v": [1.0, 2.0], "c": "x", "ds": "2024-01-01"}]


def test_tests_in_other_processes_make_trouble_over_http(emulator: Emulator) -> None:
    def ask(method: str, what: str, body: object = None, token: str = emulator.control_token) -> dict:
        url = f"http://{emulator.host}/emulator/{what}"
        headers = {"X-Emulator-Token": token}
        request = urllib.request.Request(url, json.dumps(body).encode(), headers, method=method)
        with urllib.request.urlopen(request) as answer:
            return json.loads(answer.read())

    ask("POST", "faults", [{"kind": "reset", "operation": "read", "times": 2}])
    assert emulator.faults.next("read") == emulator.faults.next("read")
    assert emulator.faults.next("read") is None
    assert ask("GET", "requests") == {"read": 3}
    ask("DELETE", "faults")
    assert ask("GET", "requests") == {}
    ask("DELETE", "sessions")
    ask("POST", "keys", [["other", "s", None]])
    with pytest.raises(urllib.error.HTTPError):
        ask("GET", "nothing")
    emulator.keyring.verify(signed(CloudAccount("other", "s")))
    for token in ("", "x" * len(emulator.control_token)):
        with pytest.raises(urllib.error.HTTPError, match="403"):
            ask("POST", "keys", [["mine", "s", None]], token)
    headers = {"x-emulator-token": emulator.control_token}
    for client, status in (("127.0.0.1", 200), ("::1", 200), ("10.0.0.7", 403), ("fe80::1%eth0", 403)):
        answer, _ = emulator.answer(Request("GET", "/emulator/requests", headers, b"", client))
        assert answer.status == status
