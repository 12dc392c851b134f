"""`dayline stop`: end what commands have left running for the next ones."""

import typer


def stop() -> None:
    """End the processes that `dayline run`, `backfill` and `demo` keep for the next command.

    They end by themselves when no command has come for ten minutes; `DAYLINE_KEEP_SECONDS` says otherwise, and 0 keeps
    none. Those that a command uses end with it.
    """
    from recsys_core.launch import fork_server

    if using := fork_server.stop():
        typer.echo(f"in use, and ended afterwards: by the process {' and '.join(map(str, using))}", err=True)
