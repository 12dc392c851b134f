"""Which account a request comes from: signatures of version 2 and 4, and the tokens of temporary keys."""

import base64
import datetime
import email.utils
import hashlib
import hmac
import threading
import urllib.parse
from collections.abc import Iterable

from recsys_core.odps.credentials import Keys
from recsys_core.odps.emulator.wire import RefusedError, Request

_SCOPE = ["odps", "aliyun_v4_request"]
_MOST_SKEW = datetime.timedelta(minutes=15)


class Keyring:
    """The keys that open the emulator; they can be replaced while it runs."""

    def __init__(self, keys: Iterable[Keys]) -> None:
        """Let in requests signed with one of `keys`."""
        self._lock = threading.Lock()
        self.replace(keys)

    def replace(self, keys: Iterable[Keys]) -> None:
        """Let in only requests signed with one of `keys` from now on."""
        known = {key.access_id: key for key in keys}
        with self._lock:
            self._keys = known

    def verify(self, request: Request) -> None:
        """Check that the request is signed with known keys, unchanged, and new.

        Raises:
            RefusedError: no signature or one of another request, unknown or expired keys, an old request.
        """
        scheme, _, rest = request.headers.get("authorization", "").partition(" ")
        credential, colon, signature = rest.rpartition(":")
        if scheme != "ODPS" or not colon:
            raise RefusedError(401, "AuthorizationRequired", "the request carries no signature")
        access_id, *scope = credential.split("/")
        with self._lock:
            keys = self._keys.get(access_id)
        if keys is None:
            raise RefusedError(401, "Unauthorized", f"the access key {access_id} is not known")
        sent = _sent(request)
        if keys.token is not None and not hmac.compare_digest(
            keys.token.encode(), request.headers.get("authorization-sts-token", "").encode()
        ):
            raise RefusedError(401, "AuthenticationRequestExpired", "the token of the temporary key is not valid")
        key = keys.secret.encode()
        if scope:
            if len(scope) != 4 or scope[2:] != _SCOPE or scope[0] != sent.strftime("%Y%m%d"):
                raise RefusedError(401, "SignatureNotMatch", f"the scope {'/'.join(scope)} is not of this request")
            key = _derived(keys.secret, scope)
        expected = base64.b64encode(hmac.new(key, _canonical(request).encode(), hashlib.sha1).digest())
        if not hmac.compare_digest(expected, signature.encode()):
            raise RefusedError(401, "SignatureNotMatch", "the signature is not that of this request with these keys")


def _sent(request: Request) -> datetime.datetime:
    try:
        sent = email.utils.parsedate_to_datetime(request.headers.get("date", ""))
    except ValueError:
        raise RefusedError(401, "AuthorizationRequired", "the request has no Date") from None
    if abs(datetime.datetime.now(datetime.UTC) - sent) > _MOST_SKEW:
        raise RefusedError(401, "RequestTimeTooSkewed", f"the request is of {sent}, more than 15 minutes from now")
    return sent


def _derived(secret: str, scope: list[str]) -> bytes:
    key = b"aliyun_v4" + secret.encode()
    for word in scope:
        key = hmac.new(key, word.encode(), hashlib.sha256).digest()
    return key


def _canonical(request: Request) -> str:
    """Return the text that is signed: method, values of some headers by their names, path with sorted parameters."""
    # The client signs relative to its endpoint: that of REST ends in /api, that of the other interfaces does not.
    target = request.target if request.target.startswith("/api/storage/") else request.target.removeprefix("/api")
    url = urllib.parse.urlparse(urllib.parse.unquote(target))
    params = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
    signed = {"content-md5": "", "content-type": ""}
    signed |= {k: v for k, v in request.headers.items() if k in (*signed, "date") or k.startswith("x-odps-")}
    signed |= {k: v for k, v in params.items() if k.startswith("x-odps-")}
    lines = [f"{k}:{v}" if k.startswith("x-odps-") else v for k, v in sorted(signed.items())]
    query = "&".join(f"{k}={v}" if v else k for k, v in sorted(params.items()))
    return "\n".join([request.method, *lines, f"{url.path}?{query}" if query else url.path])
