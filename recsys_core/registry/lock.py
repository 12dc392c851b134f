"""One process at a time moves a model's aliases, so that what it read before is still true when it moves them.

A store in a file has a file beside it that is locked; the kernel lets go of it when its holder dies. A server or a
database knows no locks, but makes a name once only: there the lock is a registered model of that name, which is there
for as long as the aliases are being moved, well under a second. One that a killed process left behind is taken away
once it has not changed for `STALE_SECONDS`.
"""

import contextlib
import fcntl
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient

STALE_SECONDS = 30.0
_POLL_SECONDS = 0.2
_SUFFIX, _OWNER = ".being-promoted", "dayline.owner"


@contextlib.contextmanager
def locked(client: "MlflowClient", uri: str, name: str) -> Iterator[None]:
    """Hold the aliases of the registered model `name`; wait for the process that holds them."""
    database = _file(uri)
    if database is None:
        with _name_taken(client, name + _SUFFIX):
            yield
        return
    with database.with_name(f"{database.name}.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _file(uri: str) -> Path | None:
    """Return the SQLite file that `uri` means; None for a server or another database."""
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(uri)
    except ArgumentError:
        return None
    return Path(url.database) if url.get_backend_name() == "sqlite" and url.database else None


@contextlib.contextmanager
def _name_taken(client: "MlflowClient", name: str) -> Iterator[None]:
    from mlflow.exceptions import MlflowException

    mine = uuid.uuid4().hex
    seen, since = None, time.monotonic()
    while not _take(client, name, mine):
        holder = _owner(client, name)
        if holder != seen:
            seen, since = holder, time.monotonic()
        elif holder is not None and time.monotonic() - since > STALE_SECONDS:
            _let_go(client, name, holder)
        time.sleep(_POLL_SECONDS)
    try:
        yield
    except MlflowException:
        # The server may be the one that failed: it must not hide or delay the message.
        raise
    except BaseException:
        _let_go(client, name, mine)
        raise
    _let_go(client, name, mine)


def _take(client: "MlflowClient", name: str, mine: str) -> bool:
    """Make the name, and return whether it is ours; a call that was sent again may have made it the first time."""
    from mlflow.exceptions import MlflowException

    message = "A process of Dayline is moving aliases; it goes when that is done."
    try:
        client.create_registered_model(name, tags={_OWNER: mine}, description=message)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        return _owner(client, name) == mine
    return True


def _owner(client: "MlflowClient", name: str) -> str | None:
    from mlflow.exceptions import MlflowException

    try:
        return client.get_registered_model(name).tags.get(_OWNER)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def _let_go(client: "MlflowClient", name: str, owner: str) -> None:
    """Take the name away if it is `owner`'s still."""
    from mlflow.exceptions import MlflowException

    if _owner(client, name) != owner:
        return
    try:
        client.delete_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
