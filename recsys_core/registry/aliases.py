"""Which version is live: `champion` and `previous` are moved by one process at a time, forward or back.

A process that moves them without the lock (another tool, or one that was taken for dead) is noticed: what is live is
compared with what was read, right before it is replaced and once more after it.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from recsys_core.registry import versions
from recsys_core.registry.lock import locked
from recsys_core.registry.versions import CHALLENGER, CHAMPION, PREVIOUS, ReleaseInfo, tag

if TYPE_CHECKING:
    from mlflow import MlflowClient

_Known = dict[int, ReleaseInfo]
_TRIES = 5


def promote(client: "MlflowClient", release: ReleaseInfo, live: ReleaseInfo | None = None) -> str | None:
    """Make `release` live, if nothing speaks against it; return what does.

    What speaks against it is looked up again under the lock: until then another day may have gone live, or this
    release may have been rolled back. If what the caller saw `live` speaks against it, the lock is not waited for.

    Raises:
        RuntimeError: other processes move the aliases without the lock, again and again.
    """
    seen = {info.version: info for info in (release, live) if info is not None}
    against = _against(release.version, seen)
    if against is None:
        with locked(client, client.tracking_uri, release.name):
            against = _promoted(client, release)
    if against is not None:
        client.delete_registered_model_alias(release.name, CHALLENGER)
    return against


def _promoted(client: "MlflowClient", release: ReleaseInfo) -> str | None:
    for _ in range(_TRIES):
        known = _known(client, release.name)
        if (against := _against(release.version, known)) is not None:
            return against
        live = _live(known.values())
        if live is None or live.version != release.version:
            tag(client, release, replaced=live.version if live else 0)
        if make_live(client, release, live):
            return _overtaken(release, _known(client, release.name))
    raise RuntimeError(f"{release.name}: other processes keep moving its aliases without the lock; end them")


def _against(version: int, known: _Known) -> str | None:
    """Return why `version` must not take the place of what is live, if it must not."""
    release, live = known[version], _live(known.values())
    if release.rolled_back:
        return f"it was rolled back; `dayline release rollback --version {version}` makes it live again"
    if live is None or live.version == version:
        return None
    if live.day > release.day:
        return f"not live: version {live.version} of the later day {live.day} stays live"
    if live.last_learned > release.last_learned:
        return f"not live: version {live.version} of {live.day} has learned from {live.last_learned} too and stays live"
    if release in history(live, known):
        return f"not live: version {live.version} of {live.day} has replaced it"
    return None


def _overtaken(release: ReleaseInfo, known: _Known) -> str | None:
    """Return what took the place of `release` at the moment it went live, but for a version that names it."""
    live = _live(known.values())
    if live is not None and known[release.version] in history(live, known):
        return None
    found = f"version {live.version}" if live else "nothing"
    return f"not live: {found} is, by a process that did not wait for the lock"


def rollback(uri: str, name: str, version: int | None = None) -> ReleaseInfo:
    """Make the release that the live one replaced live again, or the one that is named; return it.

    The releases that the rollback leaves behind are marked as rolled back: no training continues from them.

    Raises:
        ValueError: there is no such release, none to go back to, or another process moved the aliases meanwhile.
    """
    client = versions.connect(uri)
    with locked(client, uri, name):
        return _rolled_back(client, name, version)


def _rolled_back(client: "MlflowClient", name: str, version: int | None) -> ReleaseInfo:
    known = _known(client, name)
    live = _live(known.values())
    if live is None:
        raise ValueError(f"{name}: nothing is live, so there is nothing to roll back; see `dayline release list`")
    chain = _chain(live, known)
    target = known.get(version) if version is not None else next(iter(chain[1:]), None)
    if target is None:
        wanted = "no release before it" if version is None else f"no version {version}"
        raise ValueError(f"{name}: version {live.version} of {live.day} is live and there is {wanted} to roll back to")
    if target.live or not target.checked:
        state = "is live already" if target.live else "was never loaded back successfully"
        raise ValueError(f"{name}: version {target.version} {state}; choose another with `dayline release list`")
    left: list[ReleaseInfo] = []
    if target in chain:
        left = chain[: chain.index(target)]
    elif target.version < live.version:
        left = [live]
    for info in left:
        tag(client, info, rolled_back=True)
    tag(client, target, rolled_back=False)
    if target.replaced is None:
        # Behind what lies at the end of the history there is nothing, least of all what has replaced it.
        is_last = target in history(live, known)
        behind = 0 if is_last else next((info.version for info in chain if info not in left), 0)
        tag(client, target, replaced=behind)
    moved = make_live(client, target, live)
    now = _live(_known(client, name).values())
    if not moved or now is None or now.version != target.version:
        raise ValueError(
            f"{name}: another process moved the aliases meanwhile, and {_named(now)} is live; look at "
            "`dayline release list`, and go back again if that is not what you want"
        )
    return now


def make_live(client: "MlflowClient", info: ReleaseInfo, replaced: ReleaseInfo | None) -> bool:
    """Move the aliases, unless something else than `replaced` is live by now; return whether they were moved.

    `champion` moves last but one: whatever is killed, a rerun comes to the same end.
    """
    known = _known(client, info.name)
    before = _chain(known[info.version], known)[1:]
    if before:
        client.set_registered_model_alias(info.name, PREVIOUS, str(before[0].version))
    elif any(other.previous for other in known.values()):
        client.delete_registered_model_alias(info.name, PREVIOUS)
    live = _live(_known(client, info.name).values())
    if (live and live.version) != (replaced and replaced.version):
        return False
    client.set_registered_model_alias(info.name, CHAMPION, str(info.version))
    client.delete_registered_model_alias(info.name, CHALLENGER)
    return True


def _known(client: "MlflowClient", name: str) -> _Known:
    return {info.version: info for info in versions.releases(client.tracking_uri, name)}


def _live(infos: Iterable[ReleaseInfo]) -> ReleaseInfo | None:
    return next((info for info in infos if info.live), None)


def _named(info: ReleaseInfo | None) -> str:
    return f"version {info.version} of {info.day}" if info else "nothing"


def history(info: ReleaseInfo, known: Mapping[int, ReleaseInfo]) -> list[ReleaseInfo]:
    """Return `info`, what it replaced, what that replaced, and so on; `known` are all releases by version.

    It ends where it comes back to one of them, as tags that were changed by hand may let it.
    """
    found = [info]
    while (before := known.get(found[-1].replaced or 0)) is not None and before not in found:
        found.append(before)
    return found


def _chain(live: ReleaseInfo, known: _Known) -> list[ReleaseInfo]:
    """Return the history of `live` without what was rolled back."""
    first, *rest = history(live, known)
    return [first, *(info for info in rest if not info.rolled_back)]
