"""Where MaxCompute is, and the keys that open it. The one file of this package that reads the environment.

The first of these that is there is used, and named in one line of the log:

1. `ODPS_CONFIG_FILE_PATH`: a file as odpscmd has it (`project_name`, `access_id`, `access_key`, `end_point`,
   `tunnel_endpoint`, `sts_token`).
2. `ODPS_STS_ACCOUNT_FILE` (JSON: accessKeyId, accessKeySecret, securityToken), or `ODPS_STS_ACCESS_KEY_ID`,
   `ODPS_STS_ACCESS_KEY_SECRET`, `ODPS_STS_TOKEN`, or `ODPS_ACCESS_ID`, `ODPS_ACCESS_KEY`.
3. Alibaba Cloud's chain, once any of its variables (`ALIBABA_CLOUD_*`) is set.
4. `~/.odps_config.ini`, a file as in 1.

`ODPS_ENDPOINT` has to be set unless the file has `end_point`; `ODPS_TUNNEL_ENDPOINT` and `ODPS_REGION_NAME` may be.
Keys are asked for again when MaxCompute says that they have expired. They are never printed, logged, pickled, or put
into the environment.
"""

import json
import logging
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn
from urllib.parse import urlsplit

from odps.accounts import BaseAccount, CloudAccount

_LOG = logging.getLogger(__name__)
# It logs tokens at INFO and signatures at DEBUG.
logging.getLogger("odps").setLevel(logging.WARNING)
_FILE_KEYS = ("access_id", "access_key")
# Any of these says that Alibaba Cloud's chain is meant; region or switches alone do not.
_CHAIN = (
    "ALIBABA_CLOUD_ACCESS_KEY_ID",
    "ALIBABA_CLOUD_SECURITY_TOKEN",
    "ALIBABA_CLOUD_CREDENTIALS_FILE",
    "ALIBABA_CLOUD_CREDENTIALS_URI",
    "ALIBABA_CLOUD_ECS_METADATA",
    "ALIBABA_CLOUD_PROFILE",
    "ALIBABA_CLOUD_ROLE_ARN",
)
_HINT = (
    "set ODPS_CONFIG_FILE_PATH, or ODPS_ACCESS_ID and ODPS_ACCESS_KEY, or ALIBABA_CLOUD_ACCESS_KEY_ID and "
    "ALIBABA_CLOUD_ACCESS_KEY_SECRET with ODPS_ENDPOINT, or write ~/.odps_config.ini"
)


class Keys:
    """An access key, its secret, and the token of a temporary one. Prints as nothing but the key's first letters."""

    __slots__ = ("access_id", "secret", "token")

    def __init__(self, access_id: str, secret: str, token: str | None = None) -> None:
        """Hold them."""
        self.access_id, self.secret, self.token = access_id, secret, token

    def __repr__(self) -> str:
        return f"Keys({self.access_id[:4]}…)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("keys are not pickled; a process finds its own with credentials.find()")

    def same(self, other: "Keys") -> bool:
        """Whether `other` holds the same."""
        return (self.access_id, self.secret, self.token) == (other.access_id, other.secret, other.token)


class _Temporary(CloudAccount):
    """Signs as pyodps' StsAccount, which would look into the environment for another token after some hours."""

    def __init__(self, access_id: str, secret: str, token: str) -> None:
        super().__init__(access_id, secret)
        self._token = token

    def sign_request(self, req: Any, endpoint: str, region_name: str | None = None) -> None:
        super().sign_request(req, endpoint, region_name=region_name)
        req.headers["authorization-sts-token"] = self._token


class Account(BaseAccount):
    """Signs requests with the keys of its source; safe to share between threads.

    Attributes:
        version: grows when the keys change.
    """

    def __init__(self, ask: Callable[[], Keys]) -> None:
        """`ask` returns the keys; it is called now, and whenever they may have changed."""
        self._ask, self._lock, self.version = ask, threading.Lock(), 0
        self._take(ask())

    def renew(self, version: int) -> bool:
        """Ask the source for keys, unless another thread has since `version`; return whether they are others now."""
        with self._lock:
            if self.version != version:
                return True
            keys = self._ask()
            changed = not keys.same(self._keys)
            if changed:
                self._take(keys)
                self.version += 1
            return changed

    def sign_request(self, req: Any, endpoint: str, region_name: str | None = None) -> None:
        """Put the signature into the headers of `req`, and see to it that its answer is none of a gateway."""
        req.register_hook("response", _refuse_page)
        self._signer.sign_request(req, endpoint, region_name=region_name)

    def _take(self, keys: Keys) -> None:
        self._keys = keys
        # One assignment replaces all of it, so that no thread signs with a key of one and a token of another.
        self._signer: BaseAccount = (
            _Temporary(keys.access_id, keys.secret, keys.token)
            if keys.token
            else CloudAccount(keys.access_id, keys.secret)
        )

    def __reduce__(self) -> NoReturn:
        raise TypeError("keys are not pickled; a process finds its own with credentials.find()")


def _refuse_page(answer: Any, **_options: Any) -> None:
    """Refuse a page of HTML that is said to be a success: MaxCompute has none, a gateway's sign-in is one."""
    kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    if answer.status_code < 300 and kind in ("text/html", "application/xhtml+xml"):
        address = urlsplit(answer.url)
        raise ValueError(
            f"{address.scheme}://{address.netloc}: answers with a page (status {answer.status_code}, {kind}), so it is "
            "a gateway or a proxy and not MaxCompute; correct the endpoint, or set NO_PROXY for it"
        )


class Access(NamedTuple):
    """Where MaxCompute is and as which account; `source` says in words where that was found."""

    endpoint: str
    tunnel_endpoint: str | None
    region: str | None
    account: Account
    source: str


def find(environ: Mapping[str, str] | None = None, home: Path | None = None) -> Access:
    """Return the first access that is there, see the top of this file.

    Raises:
        ValueError: there is none, or the first one lacks something; says what, and never falls to the next.
    """
    environ = os.environ if environ is None else environ
    fallback = (home or Path.home()) / ".odps_config.ini"
    named = environ.get("ODPS_CONFIG_FILE_PATH")
    settings: dict[str, str] = {}
    if named:
        path, source = Path(named).expanduser(), f"ODPS_CONFIG_FILE_PATH={named}"
        settings = read_file(path)
        account = Account(lambda: _keys_of_file(path))
    elif (found := _of_variables(environ)) is not None:
        account, source = found
    elif set_variables := [name for name in _CHAIN if environ.get(name)]:
        account, source = Account(_chain()), f"Alibaba Cloud's credential chain ({', '.join(set_variables)})"
    elif fallback.is_file():
        settings, source = read_file(fallback), str(fallback)
        account = Account(lambda: _keys_of_file(fallback))
    else:
        raise ValueError(f"no access to MaxCompute: {_HINT}")
    endpoint = settings.get("end_point") or environ.get("ODPS_ENDPOINT")
    if not endpoint:
        raise ValueError(
            f"{source}: no endpoint; set ODPS_ENDPOINT, such as https://service.cn-hangzhou.maxcompute.aliyun.com/api"
        )
    if not endpoint.startswith(("http://", "https://")):
        raise ValueError(f"{source}: the endpoint {endpoint!r} does not open with http:// or https://")
    tunnel = settings.get("tunnel_endpoint") or environ.get("ODPS_TUNNEL_ENDPOINT") or None
    _LOG.info("MaxCompute at %s with keys from %s", endpoint, source)
    return Access(endpoint.rstrip("/"), tunnel, environ.get("ODPS_REGION_NAME") or None, account, source)


def read_file(path: Path) -> dict[str, str]:
    """Read a file of `key = value` lines; blanks, comments, [sections], quotes and CRLF are no hindrance.

    Raises:
        ValueError: no such file, a line that is none of these (its number is shown, not its content), or no keys.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read ({error}); it should hold access_id=…, access_key=…") from None
    settings = {}
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text[0] in "#;" or (text[0] == "[" and text[-1] == "]"):
            continue
        key, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"{path}, line {number}: not `key = value`")
        value = value.strip()
        if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
            value = value[1:-1]
        settings[key.strip().lower()] = value
    missing = [key for key in _FILE_KEYS if not settings.get(key)]
    if missing:
        raise ValueError(f"{path}: no {' and no '.join(missing)}; it has {', '.join(sorted(settings)) or 'nothing'}")
    return settings


def _keys_of_file(path: Path) -> Keys:
    settings = read_file(path)
    return Keys(settings["access_id"], settings["access_key"], settings.get("sts_token") or None)


def _of_variables(environ: Mapping[str, str]) -> tuple[Account, str] | None:
    """Return the account that the variables of MaxCompute's own client give, and their names."""
    if file := environ.get("ODPS_STS_ACCOUNT_FILE"):
        path = Path(file).expanduser()
        return Account(lambda: _keys_of_account_file(path)), f"ODPS_STS_ACCOUNT_FILE={file}"
    for names in (
        ("ODPS_STS_ACCESS_KEY_ID", "ODPS_STS_ACCESS_KEY_SECRET", "ODPS_STS_TOKEN"),
        ("ODPS_ACCESS_ID", "ODPS_ACCESS_KEY"),
    ):
        given = [name for name in names if environ.get(name)]
        if not given:
            continue
        missing = [name for name in names if name not in given]
        if missing:
            raise ValueError(f"{', '.join(given)} set, but not {', '.join(missing)}; set all of them or none")
        return Account(lambda names=names: Keys(*(environ[name] for name in names))), ", ".join(names)
    return None


def _keys_of_account_file(path: Path) -> Keys:
    try:
        fields = json.loads(path.read_text())
        return Keys(fields["accessKeyId"], fields["accessKeySecret"], fields["securityToken"])
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        # Not the error's own text: it may quote the file.
        raise ValueError(
            f"{path} (ODPS_STS_ACCOUNT_FILE): {type(error).__name__}; it should be JSON with accessKeyId, "
            "accessKeySecret and securityToken"
        ) from None


def _chain() -> Callable[[], Keys]:
    """Return what asks Alibaba Cloud's chain: variables, OIDC role, command-line profile, file, machine role, URI."""
    from alibabacloud_credentials.client import Client
    from alibabacloud_credentials.exceptions import CredentialException
    from alibabacloud_credentials.provider import DefaultCredentialsProvider

    def ask() -> Keys:
        try:
            # A chain of its own each time: one that is kept can hand out a token that was withdrawn.
            found = Client(provider=DefaultCredentialsProvider(reuse_last_provider_enabled=False)).get_credential()
        except CredentialException as error:
            raise ValueError(f"Alibaba Cloud's credential chain found no keys: {error}; {_HINT}") from None
        return Keys(found.get_access_key_id(), found.get_access_key_secret(), found.get_security_token() or None)

    return ask
