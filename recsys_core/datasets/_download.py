"""Files from http(s) addresses, by a pinned checksum; whatever a server answers, within bounds of size and time."""

import hashlib
import re
import shutil
import time
from pathlib import Path
from typing import IO

import httpx

from recsys_core.datasets.base import STAGE
from recsys_core.progress import Event, Sink
from recsys_core.redaction import redact

_ALGORITHMS = {32: "md5", 64: "sha256"}
_EVENT_BYTES = 1 << 20
_TIMEOUT_SECONDS = 60.0
_SLOWEST_BYTES_PER_SECOND = 1 << 10
_MAX_UNANNOUNCED_BYTES = 64 << 30
_SPARE_BYTES = 1 << 30


def fetch(url: str, checksum: str | None, path: Path, sink: Sink) -> None:
    """Write what lies at `url` to `path`.

    Raises:
        ValueError: not an http(s) address (nor one that is redirected to), no checksum, another answer than the file,
            or one that is larger than the disk can take.
        ConnectionError: no answer, one that breaks off, or one that takes forever.
    """
    shown = redact(url)
    if not url.lower().startswith(("http://", "https://")):
        raise ValueError(f"{shown}: archives are fetched over http or https only; copy this one to a local path")
    if checksum is None:
        raise ValueError(f"{shown}: needs a pinned checksum (sha256:… or md5:…, 64 or 32 hexadecimal digits)")
    _parsed(checksum)
    try:
        # As it lies there: what a server compresses on its way has another checksum, and may unfold without end.
        headers = {"Accept-Encoding": "identity"}
        with (
            httpx.stream("GET", url, headers=headers, follow_redirects=True, timeout=_TIMEOUT_SECONDS) as response,
            path.open("wb") as file,
        ):
            if not response.is_success:
                status = f"{response.status_code} {response.reason_phrase}".strip()
                raise ValueError(f"{shown}: the server answered {status}; is the address right?")
            _receive(response, file, path.parent, sink, shown)
    except (httpx.UnsupportedProtocol, httpx.InvalidURL, httpx.TooManyRedirects) as error:
        raise ValueError(f"{shown}: no file to fetch there ({redact(str(error))}); is the address right?") from None
    except httpx.HTTPError as error:
        message = redact(str(error)) or type(error).__name__
        raise ConnectionError(f"{shown}: cannot be reached ({message}); fetch it yourself and name the file") from None
    verify(path, shown, checksum)


def verify(path: Path, source: str, checksum: str) -> None:
    """Compare a file with its checksum; `source` is what a person calls it.

    Raises:
        ValueError: it is another one, or `path` is no file.
    """
    algorithm, wanted = _parsed(checksum)
    if not path.is_file():
        raise ValueError(f"{source}: a checksum is for one file, and this is a folder; leave the checksum out")
    with path.open("rb") as file:
        page = file.read(512).lstrip().lower().startswith((b"<!doctype html", b"<html"))
        file.seek(0)
        found = hashlib.file_digest(file, algorithm).hexdigest()
    if found != wanted:
        hint = "; it is a page of HTML, such as of a login, and not the file" if page else ""
        raise ValueError(f"{source}: its {algorithm} is {found} where {wanted} is pinned; refused{hint}")


def _receive(response: httpx.Response, file: IO[bytes], folder: Path, sink: Sink, shown: str) -> None:
    announced = response.headers.get("Content-Length")
    total = int(announced) if announced and announced.isascii() and announced.isdigit() else None
    room = shutil.disk_usage(folder).free - _SPARE_BYTES
    most = min(room, _MAX_UNANNOUNCED_BYTES if total is None else total)
    done, emitted, since, before = 0, 0, time.monotonic(), 0
    sink(Event(stage=STAGE, done=0, total=total, unit="bytes", message=f"downloading {shown}"))
    if total is not None and total > room:
        raise ValueError(f"{shown}: {total:,} bytes, and the disk of {folder} has room for {max(room, 0):,}")
    for chunk in response.iter_raw():
        done += len(chunk)
        if done > most:
            raise ValueError(f"{shown}: more than {most:,} bytes, without an end; fetch it yourself and name the file")
        file.write(chunk)
        if done - emitted >= _EVENT_BYTES:
            emitted = done
            sink(Event(stage=STAGE, done=done, total=total, unit="bytes", message=f"downloading {shown}"))
        if (seconds := time.monotonic() - since) > _TIMEOUT_SECONDS:
            if done - before < seconds * _SLOWEST_BYTES_PER_SECOND:
                raise ConnectionError(
                    f"{shown}: {done - before:,} bytes in {seconds:.0f} s, which is too slow; fetch it yourself and "
                    "name the file"
                )
            since, before = time.monotonic(), done
    sink(Event(stage=STAGE, done=done, total=total, unit="bytes", message=f"downloading {shown}"))


def _parsed(checksum: str) -> tuple[str, str]:
    match = re.fullmatch(r"(?:(sha256|md5):)?([0-9a-f]+)", checksum.lower())
    algorithm = _ALGORITHMS.get(len(match[2])) if match else None
    if match is None or algorithm is None or match[1] not in (None, algorithm):
        raise ValueError(f"checksum {checksum!r}: write sha256: and 64 hexadecimal digits, or md5: and 32")
    return algorithm, match[2]
