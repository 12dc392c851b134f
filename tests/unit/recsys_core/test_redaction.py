"""A credential never survives; what is none stays."""

import string
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys_core import config as configs
from recsys_core.redaction import MASK, cleaned, is_secret, redact, redacted
from recsys_core.tracking import redact as of_tracking

FORMS = {
    "user and password": "postgresql://dbuser:{}@host:5432/x",
    "password alone": "redis://:{}@host/0",
    "driver": "mysql+pymysql://u:{}@h/x?charset=utf8",
    "in a message": "error: cannot reach http://u:{}@h/x (timed out); try again",
    "two uris": "from s3://k:{0}@bucket/a to http://u:{0}@h",
    "query": "postgresql://h/x?user=u&password={}",
    "first of a query": "https://x/f.zip?token={}&size=3",
    "upper case": "https://x/f.zip?TOKEN={}",
    "oss": "https://b.oss.example/x.zip?OSSAccessKeyId={0}&Expires=1&Signature={0}",
    "aws": "https://b/x?X-Amz-Algorithm=A&X-Amz-Credential={0}&X-Amz-Signature={0}&X-Amz-Security-Token={0}",
    "google": "https://b/x?X-Goog-Signature={}",
    "azure": "https://b/x?sv=2020&sig={}",
    "azure connection": "AccountName=a;AccountKey={}",
    "keywords": "host=h user=u password={} dbname=d",
    "quoted": "password='{}' dbname=d",
    "setting": "tracking.db_password={}",
    "camel": "clientSecret={} accessKeyId={}",
    "underscores": "aws_secret_access_key={} api_key={} access_key={} secret={}",
    "yaml": "a: 1\npassword: {}\nb: 2",
    "yaml below": "tracking:\n  - token: {}\n",
    "json": '{{"client_secret": "{}", "a": 1}}',
    "repr": "{{'api_key': '{}', 'a': 1}}",
    "header": "Authorization: Bearer {}",
    "headers": "{{'Authorization': 'Basic {}', 'Accept': '*/*'}}",
    "lower header": "x-amz-security-token: {}",
    "option": "--token {} --day 3",
    "option of a password": "--db-password {}",
}
# A secret may hold what URIs give another meaning to; blanks, quotes and & are written encoded there.
SIGNS = string.ascii_letters + string.digits + "/@:%+=?#!$*._~,;-"
SECRETS = st.text(SIGNS, min_size=8, max_size=30).map(lambda text: f"Zq{text}Xw")


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=30)
@given(secret=SECRETS)
def test_a_planted_secret_does_not_survive(form: str, secret: str) -> None:
    text = FORMS[form].format(*[secret] * 4)
    shown = redact(text)
    assert "Zq" not in shown
    assert "Xw" not in shown
    assert MASK in shown
    assert "Zq" not in redact(shown)


@pytest.mark.parametrize("times", [1, 2])
@settings(max_examples=30)
@given(secret=SECRETS)
def test_not_even_if_the_whole_is_encoded(times: int, secret: str) -> None:
    for text in (
        f"https://x/f.zip?token={secret}&a=1",
        f"http://u:{secret.replace('%', '')}@h/x",
        f"a?Signature={secret}",
    ):
        whole = text
        for _ in range(times):
            whole = quote(whole, safe="")
        assert "Xw" not in redact(f"redirect={whole} failed"), whole


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("postgresql://dbuser:s3cr@etpw@h/x", "postgresql://***@h/x"),
        ("http://u:s3cr/etpw@h", "http://***@h"),
        ("https://x/f.zip?token=abc&size=3", "https://x/f.zip?token=***&size=3"),
        ("host=h password='a b' dbname=d", "host=h password=*** dbname=d"),
        (
            "(https://x/f.zip?token=abc): the server answered 403",
            "(https://x/f.zip?token=***): the server answered 403",
        ),
        ("Authorization: Bearer abc.def", "Authorization: ***"),
        ("sent Bearer abcdefgh.ijk to h", "sent Bearer *** to h"),
    ],
)
def test_the_rest_stays(text: str, expected: str) -> None:
    assert redact(text) == expected
    assert of_tracking(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "mail@example.org http://plain/a@b",
        "https://host/@scope/package",
        "http://127.0.0.1:5000/#/experiments/1/runs/2",
        "s3://bucket/a:b@c/ds=2024-01-01/x.parquet",
        "odps://shop/tables/clicks/ds=2024-01-01&ds=2024-01-02",
        "models:/shop@champion",
        "error: unexpected token: ','; num_tokens=5, max_tokens: 3, special_tokens=[CLS]",
        "features.query[name=token].column=tokens",
        "tokenizer=bert, design=flat, bypass=1, compass=2, oauth2=no, author=me, passes=3, keys=a, key=b",
        "signature.json: damaged, not JSON",
        "the secret of good ranks; a password is not needed",
        "dates 2024-01-01: 12:30:00 @ noon",
        "{'columns': {'price': 'double'}, 'kind': 'daily'}",
        "train: 12,288 of 60,000 examples, loss 4.213 (plan: table_wise)",
    ],
)
def test_innocent_text_stays_as_it_is(text: str) -> None:
    assert redact(text) == text


def test_values_below_a_name_of_a_secret_are_taken_out() -> None:
    given = {
        "a": {"db_password": "x", "Token": ["x", 1], "uri": "http://u:p@h", "secret": None},
        "n": [1, None, "?sig=x"],
    }
    assert redacted(given) == {
        "a": {"db_password": MASK, "Token": MASK, "uri": "http://***@h", "secret": None},
        "n": [1, None, "?sig=***"],
    }


def test_names_of_variables() -> None:
    for name in (
        "MLFLOW_TRACKING_PASSWORD",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_ACCESS_KEY_ID",
        "PREFECT_API_KEY",
        "HF_TOKEN",
    ):
        assert is_secret(name), name
    for name in (
        "PATH",
        "ODPS_ACCESS_ID",
        "MLFLOW_TRACKING_URI",
        "SSH_AUTH_SOCK",
        "KEYBOARD",
        "TOKENIZERS_PARALLELISM",
    ):
        assert not is_secret(name), name


def keys(schema: object) -> set[str]:
    if isinstance(schema, list):
        return set().union(*map(keys, schema))
    if not isinstance(schema, dict):
        return set()
    return set(schema.get("properties", {})).union(*map(keys, schema.values()))


@pytest.mark.parametrize("ranking", [False, True])
def test_no_key_of_a_config_is_taken_for_a_secret(ranking: bool) -> None:
    assert [key for key in keys(configs.schema(ranking=ranking)) if is_secret(key)] == []


def test_an_exception_and_its_causes_are_cleaned() -> None:
    inner = FileNotFoundError(2, "No such file", "s3://k:secret@b/x")
    outer = ValueError("http://u:secret@h answers nothing", 3)
    outer.__cause__ = inner
    inner.__context__ = outer
    cleaned(outer)
    assert str(outer) == "('http://***@h answers nothing', 3)"
    assert str(inner) == "[Errno 2] No such file: 's3://***@b/x'"
