"""What is tried again, and what is not.

pyodps tries GETs again while it connects, no POSTs, and nothing once a stream is open; here everything is, by one rule.
"""

import logging
import random
import time

import pyarrow as pa
import requests
import urllib3
from odps import errors
from pydantic import Field

from recsys_core.artifacts import Frozen
from recsys_core.odps.credentials import Account

_LOG = logging.getLogger(__name__)
_STATUSES = frozenset({408, 429, 500, 502, 503, 504})
_CLOSED = frozenset({403, 404, 405, 501})
# By class, as a gateway may answer with another status than the service meant.
_TRANSIENT = (
    errors.RequestQuotaExceeded,
    errors.InternalServerError,
    errors.ConnectTimeout,
    errors.WaitTimeoutError,
    errors.ChecksumError,
    errors.StreamTruncatedException,
)
# A stream that ends inside a message reaches Arrow, which says ArrowInvalid, or OSError inside a message's body.
_CUT = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
    urllib3.exceptions.HTTPError,
    pa.ArrowInvalid,
    OSError,
)
CAUGHT = (errors.ODPSError, *_CUT)
"""What `Attempts.failed` is to be asked about."""
_EXPIRED = (errors.AuthenticationRequestExpired, errors.Unauthorized)


class ShortStreamError(OSError):
    """A stream that ended well, but with fewer rows than were asked for."""


class ClosedError(ValueError):
    """The service knows the account, and does not offer this to it, whatever the request."""


class Config(Frozen):
    """How often and how slowly: waits double from the first up to the largest, and are drawn from their upper half."""

    attempts: int = Field(default=8, ge=1, description="in a row without progress")
    first_wait_seconds: float = Field(default=0.5, ge=0)
    most_wait_seconds: float = Field(default=30.0, ge=0)


class Attempts:
    """The attempts of one piece of work; progress gives it all of them anew."""

    def __init__(self, what: str, config: Config, account: Account) -> None:
        """`what` names the work in messages."""
        self._what, self._config, self._account = what, config, account
        self._failed = 0
        self._renewed = False
        self._version = account.version

    def progress(self) -> None:
        """Take note that something was achieved."""
        self._failed, self._renewed, self._version = 0, False, self._account.version

    def failed(self, error: Exception) -> None:
        """Wait until the next attempt, or raise what makes one useless.

        Raises:
            ValueError: the attempts are used up, or the service will not do it (`ClosedError`: not for this
                account); says what it said.
            NoSuchObject: `error` itself, whose cause the caller knows better.
        """
        if isinstance(error, _EXPIRED) and not self._renewed:
            self._renewed = True
            # Where the keys are the same the service has refused just these.
            if self._account.renew(self._version):
                _LOG.info("%s: keys renewed after %s", self._what, type(error).__name__)
                self._version = self._account.version
                return
        if is_denied(error):
            message = f"{self._what}: {_denied(error)}"
            raise (ClosedError(message) if _is_closed(error) else ValueError(message)) from error
        if isinstance(error, errors.NoSuchObject):
            raise error
        if not is_transient(error):
            message = f"{self._what}: MaxCompute refused it ({describe(error)})"
            raise (ClosedError(message) if _is_closed(error) else ValueError(message)) from error
        self._failed += 1
        if self._failed >= self._config.attempts:
            raise ValueError(
                f"{self._what}: given up after {self._failed} attempts without progress; the last one said: "
                f"{describe(error)}; run it again when MaxCompute answers"
            ) from error
        longest = min(self._config.first_wait_seconds * 2 ** (self._failed - 1), self._config.most_wait_seconds)
        _LOG.info("%s: attempt %d failed (%s)", self._what, self._failed, describe(error))
        time.sleep(longest * random.uniform(0.5, 1))


def is_transient(error: Exception) -> bool:
    """Whether the same request may succeed later."""
    if isinstance(error, errors.ODPSError):
        # Of what is closed the status counts, whatever the class.
        return error.status_code not in _CLOSED and (isinstance(error, _TRANSIENT) or error.status_code in _STATUSES)
    return isinstance(error, _CUT)


def is_denied(error: Exception) -> bool:
    """Whether the service knows the account and says no, or does not know it."""
    denied = (errors.AuthorizationRequired, errors.NoPermission, errors.SignatureNotMatch, *_EXPIRED)
    return isinstance(error, denied) or (isinstance(error, errors.ODPSError) and error.status_code in (401, 403))


def _is_closed(error: Exception) -> bool:
    closed = (errors.NoPermission, errors.MethodNotAllowed, errors.NotSupportedError)
    return isinstance(error, closed) or getattr(error, "status_code", None) in _CLOSED


def describe(error: Exception) -> str:
    """Return the error's own words on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]


def _denied(error: Exception) -> str:
    status = getattr(error, "status_code", None)
    if isinstance(error, errors.NoPermission) or status == 403:
        return f"MaxCompute does not permit it ({describe(error)}); ask the project's owner for the right"
    return (
        f"MaxCompute does not accept the keys ({describe(error)}); check that they belong to this endpoint, and are "
        "not withdrawn or expired"
    )
