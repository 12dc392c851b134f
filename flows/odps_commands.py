"""`dayline odps-emulator`: a MaxCompute on this machine."""

import re
import secrets
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from recsys_core.odps.emulator import Fault

_PROJECT = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def odps_emulator(
    directory: Annotated[Path, typer.Argument(help="folder of projects; it is made if it is not there")],
    *,
    project: Annotated[list[str] | None, typer.Option(help="make an empty project; repeatable")] = None,
    host: Annotated[
        str, typer.Option(help="address to listen on; anything but this machine's is public")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="0 is any that is free")] = 8200,
    access_id: Annotated[str, typer.Option(help="access key that clients sign with")] = "emulator",
    access_key: Annotated[
        str | None, typer.Option(envvar="ODPS_EMULATOR_ACCESS_KEY", help="its secret; by default a random one")
    ] = None,
    sts_token: Annotated[
        str | None, typer.Option(envvar="ODPS_EMULATOR_STS_TOKEN", help="make the key a temporary one")
    ] = None,
    storage_api: Annotated[
        bool, typer.Option(help="without it, projects have the Arrow tunnel alone, as some of the real ones")
    ] = True,
    faults: Annotated[
        list[str] | None,
        typer.Option("--fault", metavar="JSON", help="trouble to make, as below; repeatable", show_default=False),
    ] = None,
) -> None:
    """Serve a folder of Parquet as MaxCompute tables, to the real client, on this machine.

    Try reading and writing `odps://` paths without an account, or test what your job does when the service fails.
    Signatures are checked as the service checks them. It prints the variables to set, and serves until Ctrl-C.

    `dayline odps-emulator data/odps --project shop`

    Tables are folders `DIR/PROJECT/[SCHEMA/]TABLE/[key=value/]*.parquet`; a folder of Parquet that you put there is a
    table, and a table that a job writes is such a folder. `odps://shop/tables/clicks/ds=2024-01-01` is
    `DIR/shop/clicks/ds=2024-01-01/`.

    Trouble, such as two streams that end early, or a commit whose answer gets lost:

    `dayline odps-emulator data/odps --fault '{"kind": "short", "operation": "read", "after": 3, "times": 2}'`

    `dayline odps-emulator data/odps --fault '{"kind": "lost", "operation": "commit"}'`

    While it runs, POST a JSON list of such faults to http://HOST:PORT/emulator/faults, GET
    /emulator/requests counts what was asked for, DELETE /emulator/sessions lets sessions expire: from this machine,
    with the header `X-Emulator-Token: $ODPS_EMULATOR_TOKEN`, which is printed too. docs/maxcompute.md has all kinds.
    """
    from recsys_core.odps.credentials import Keys
    from recsys_core.odps.emulator import Emulator

    for name in project or ():
        if not _PROJECT.fullmatch(name):
            raise ValueError(f"--project {name!r}: a project's name is letters, digits, _ and -, a letter first")
    wanted = [_fault(text) for text in faults or ()]
    if directory.exists() and not directory.is_dir():
        raise ValueError(f"{directory}: a file; name a folder of projects, or one to make")
    for name in project or ():
        (directory / name).mkdir(parents=True, exist_ok=True)
    secret = access_key or secrets.token_urlsafe(24)
    keys = [Keys(access_id, secret, sts_token)]
    try:
        emulator = Emulator(directory, keys, host=host, port=port, has_storage_api=storage_api)
    except OSError as error:
        raise ValueError(
            f"--host {host} --port {port}: cannot be listened on ({error.strerror}); choose another; "
            "port 0 is any that is free"
        ) from None
    emulator.faults.add(*wanted)
    if host not in _LOOPBACK:
        typer.echo(f"warning: {host} is not this machine alone; others that reach it can change its tables", err=True)
    variables = {
        "ODPS_ENDPOINT": emulator.endpoint,
        "NO_PROXY": host,
    }
    if sts_token:
        variables |= {"ODPS_STS_ACCESS_KEY_ID": access_id, "ODPS_STS_ACCESS_KEY_SECRET": secret}
        variables["ODPS_STS_TOKEN"] = sts_token
    else:
        variables |= {"ODPS_ACCESS_ID": access_id, "ODPS_ACCESS_KEY": secret}
    variables["ODPS_EMULATOR_TOKEN"] = emulator.control_token
    for name, value in variables.items():
        typer.echo(f"export {name}={shlex.quote(value)}")
    typer.echo(f"serving {directory} until Ctrl-C", err=True)
    emulator.serve()


def _fault(text: str) -> "Fault":
    from recsys_core.config import parsing, reading
    from recsys_core.odps.emulator import Fault

    message = f"--fault {reading.visible(text)}"
    if not text.lstrip().startswith("{"):
        raise ValueError(f'{message}: not a JSON object such as {{"kind": "short", "operation": "read"}}')
    return parsing.validate(Fault, reading.json_object(text, message), Path(message), {})
