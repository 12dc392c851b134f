"""`dayline serve`: released models over HTTP."""

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from recsys_core.serving.service import Folder, Limits, Registered
    from recsys_core.serving.service.sources import Fetched
    from recsys_core.serving.service.watch import Watched

_TOKEN = "DAYLINE_SERVE_TOKEN"  # noqa: S105 - the variable's name
_SQLITE = "sqlite:///"
_LEAST_TOKEN = 16
_WARM_UP_REQUESTS = 256
_LOOPBACK = ("127.0.0.1", "::1", "localhost")

Release = Annotated[
    str | None,
    typer.Option(
        metavar="NAME[@ALIAS]|DIR",
        help="a release, such as shop@champion or shop@3, or a bundle's folder",
        show_default=False,
    ),
]
Run = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="in its place a run that has published, runs/NAME/DAY/RUN_ID", show_default=False),
]
RankRelease = Annotated[
    str | None,
    typer.Option(
        metavar="NAME[@ALIAS]|DIR",
        help="a ranking release beside it, for /rank and /recommend_and_rank",
        show_default=False,
    ),
]
TrackingUri = Annotated[
    str | None,
    typer.Option(envvar="MLFLOW_TRACKING_URI", help="where MLflow is; mlflow.db in --run-root otherwise"),
]
RunRoot = Annotated[Path, typer.Option(help="the configs' run_root")]
Cache = Annotated[Path | None, typer.Option(help="where releases are kept; `serving` in --run-root otherwise")]


def serve(  # noqa: PLR0917 - options
    release: Release = None,
    run: Run = None,
    rank_release: RankRelease = None,
    tracking_uri: TrackingUri = None,
    run_root: RunRoot = Path("runs"),
    cache: Cache = None,
    host: Annotated[str, typer.Option(help="the address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one")] = 8080,
    token_file: Annotated[
        Path | None, typer.Option(help=f"a file with the bearer token of clients; {_TOKEN} holds one, too")
    ] = None,
    open_to_all: Annotated[bool, typer.Option("--open", help="listen on other addresses without a token")] = False,
    poll_seconds: Annotated[float, typer.Option(min=0.1, help="how often the registry is looked at")] = 5.0,
    limits: Annotated[
        list[str] | None,
        typer.Option("--limit", metavar="KEY=VALUE", help="such as max_k=100, request_seconds=0.5; repeatable"),
    ] = None,
    log: Annotated[
        Path | None, typer.Option(help="a folder for a log of requests and answers, Parquet by hour")
    ] = None,
    log_share: Annotated[float, typer.Option(min=0, max=1, help="the share of requests that is logged")] = 0.01,
    log_drop: Annotated[str, typer.Option(metavar="COLUMNS", help="columns that are logged as null")] = "",
    log_hash: Annotated[str, typer.Option(metavar="COLUMNS", help="columns whose values are logged hashed")] = "",
    warm_up: Annotated[str | None, typer.Option(help="a log of requests; a release answers 256 of them first")] = None,
) -> None:
    """Serve a released model over HTTP, and each release that takes its place.

    `/docs` shows what a request holds. SIGTERM ends it once everything that was taken in has been answered.

    `dayline serve --release shop@champion`

    `dayline serve --release shop@champion --rank-release ctr@champion --port 8080 --limit max_concurrency=128`
    """
    secret = token(token_file)
    if host not in _LOOPBACK and secret is None and not open_to_all:
        raise refused(f"--host {host} is open to other machines: give --token-file or {_TOKEN}, or say --open")
    try:
        bounds = _limits(limits or [])
        sources = chosen(release, run, rank_release)
        watched = _watched(sources, tracking_uri, run_root, cache, poll_seconds)
        requests = _logged_requests(warm_up)
    except ValueError as error:
        raise refused(str(error)) from None
    logged = None
    if log is not None:
        from recsys_core.serving.service.recorder import Options

        drop, hashed = (tuple(filter(None, names.split(","))) for names in (log_drop, log_hash))
        logged = Options(folder=log, share=log_share, drop=drop, hash=hashed)
    from recsys_core.serving.service.server import Service, bound

    sockets = bound(host, port)
    address, found = sockets[0].getsockname()[:2]
    typer.echo(f"listening on http://{f'[{address}]' if ':' in address else address}:{found}", err=True)
    Service(sources, watched, bounds, secret, _say, logged, requests).run(sockets)


def chosen(release: str | None, run: Path | None, rank_release: str | None = None) -> "dict[str, Registered | Folder]":
    """Return where the releases come from that a command names, by place.

    Raises:
        ValueError: see `sources.source`.
    """
    from recsys_core.serving.service import source

    found = {"release": source(release, run)}
    return found | ({"rank_release": source(rank_release)} if rank_release is not None else {})


def _say(line: str) -> None:
    # Its reader may be gone; what is served goes on.
    with contextlib.suppress(OSError):
        os.write(2, f"{line}\n".encode())


def _watched(
    sources: "Mapping[str, Registered | Folder]",
    tracking_uri: str | None,
    run_root: Path,
    cache: Path | None,
    poll_seconds: float,
) -> "Watched | None":
    from recsys_core.serving.service import Registered
    from recsys_core.serving.service.watch import Watched

    places = {place: one for place, one in sources.items() if isinstance(one, Registered)}
    if not places:
        return None
    uri = _registry([*places.values()], tracking_uri, run_root)
    return Watched(places=places, uri=uri, cache=(cache or run_root / "serving").resolve(), poll_seconds=poll_seconds)


def _registry(wanted: "Sequence[Registered]", tracking_uri: str | None, run_root: Path) -> str:
    """Return MLflow's address.

    Raises:
        ValueError: there is none, and no file of it in the folder of runs.
    """
    from recsys_core import tracking

    uri = tracking.location(tracking.Config(uri=tracking_uri), run_root)
    file = Path(uri.removeprefix(_SQLITE))
    # MLflow would make it.
    if uri.startswith(_SQLITE) and not file.is_file():
        names = ", ".join(one.text for one in wanted)
        raise ValueError(
            f"--release {names}: there is no folder of that name, and no {file}; give --tracking-uri or --run-root"
        )
    return uri


def at_hand(source: "Registered | Folder", tracking_uri: str | None, run_root: Path, cache: Path | None) -> "Fetched":
    """Return a release on this machine; one that is registered is downloaded if it is not in the cache."""
    from recsys_core.serving.service import Registered
    from recsys_core.serving.service.sources import of_folder
    from recsys_core.serving.service.watch import fetched, found

    if not isinstance(source, Registered):
        return of_folder(source)
    uri = _registry([source], tracking_uri, run_root)
    return fetched(found(source, uri), uri, (cache or run_root / "serving").resolve())


def _logged_requests(log: str | None) -> "list[dict[str, Any]]":
    if log is None:
        return []
    from recsys_core.serving.service import replay

    return [*replay.read(log, _WARM_UP_REQUESTS)]


def _limits(given: list[str]) -> "Limits":
    from pydantic import ValidationError

    from recsys_core.serving.service import Limits
    from recsys_core.uri import nearest

    values: dict[str, Any] = {}
    for text in given:
        key, separator, value = text.partition("=")
        if key not in Limits.model_fields or not separator:
            known = list(Limits.model_fields)
            raise ValueError(f"--limit {text}: give KEY=VALUE; the keys are {', '.join(known)}{nearest(key, known)}")
        values[key] = value
    try:
        return Limits.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ValueError(f"--limit {first['loc'][0]}={first['input']}: {first['msg']}") from None


def token(file: Path | None) -> bytes | None:
    """Return the token; never from the command line, which other users of the machine see."""
    held = os.environ.pop(_TOKEN, None)
    if file is not None:
        try:
            held = file.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise refused(f"--token-file {file}: cannot be read ({error})") from None
    if held is None:
        return None
    held = held.strip()
    if len(held) < _LEAST_TOKEN or not held.isascii() or any(sign.isspace() for sign in held):
        raise refused(f"the token has to be {_LEAST_TOKEN} or more signs of ASCII without blanks")
    return held.encode()


def refused(message: str) -> typer.Exit:
    """Say why a command line is refused, and return what ends the command."""
    typer.echo(f"error: {message}", err=True)
    return typer.Exit(2)
