"""`dayline config`: read a config the way a run does, without running."""

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

if TYPE_CHECKING:
    from recsys_core.config import RankingConfig, RunConfig

NO_RELEASES = (
    "a ranking config on splits; releases, and days that continue them, are of rows by day (data.kind: labelled_days)"
)

app = typer.Typer(no_args_is_help=True, help="Check, show and describe configs.")

Config = Annotated[Path, typer.Argument(help="YAML file, such as configs/demo.yaml", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", "--edit-config-json", metavar="KEY=VALUE|JSON", help="change a key; repeatable"),
]


def load(config: Path, overrides: Sequence[str] | None) -> "RunConfig | RankingConfig":
    """Load a config, or print every mistake in it and exit with code 2."""
    from recsys_core import config as configs

    try:
        return configs.load(config, overrides or ())
    except ValueError as error:
        refuse(str(error))


@contextlib.contextmanager
def required(loaded: "RunConfig | RankingConfig", config: Path) -> "Iterator[Callable[[], None]]":
    """Look at what a config names on this machine but its data, or name what will not do and exit with code 2.

    Its model is checked meanwhile: what is yielded waits for that, and exits likewise.
    """
    from recsys_core.config import model_check, preflight

    with model_check.begun(loaded) as model:
        mistakes: list[str] = []
        try:
            preflight.check(loaded)
        except ValueError as error:
            mistakes += str(error).splitlines()

        def wait() -> None:
            try:
                model.wait()
            except ValueError as error:
                mistakes.extend(str(error).splitlines())
            if mistakes:
                refuse("\n".join(f"{config}: {line}" for line in mistakes))

        if mistakes:
            wait()
        yield wait


def refuse(message: str) -> NoReturn:
    """Print mistakes, one a line, and exit with code 2."""
    from recsys_core.config import reading
    from recsys_core.redaction import redact

    for line in redact(message).splitlines():
        typer.echo(f"error: {reading.printable(line)}", err=True)
    raise typer.Exit(2)


def is_daily(loaded: "RunConfig | RankingConfig") -> bool:
    """Whether a config's model is retrained daily, and has releases."""
    from recsys_core import config as configs

    return not isinstance(loaded, configs.RankingConfig) or loaded.is_daily


@app.command()
def check(config: Config, overrides: Overrides = None) -> None:
    """Say whether a config is valid, and whether it can run on this machine; every mistake is named at once.

    Files that it names are looked for, but not its data, which may be still to come. Building its model takes some
    seconds; one that was found right is not built again.

    Example: `dayline config check configs/demo.yaml --set train.batch_size=512`
    """
    loaded = load(config, overrides)
    with required(loaded, config) as model_passed:
        model_passed()
    typer.echo(f"{config}: valid, {loaded.name}, config hash {loaded.hash}")


@app.command()
def show(config: Config, overrides: Overrides = None) -> None:
    """Print the whole config as YAML, with every default that it leaves out, and `***` in place of credentials.

    Example: `dayline config show configs/demo.yaml > resolved.yaml`
    """
    loaded = load(config, overrides)
    from recsys_core import config as configs

    typer.echo(configs.show(loaded), nl=False)


@app.command()
def schema(ranking: Annotated[bool, typer.Option("--ranking", help="of ranking configs")] = False) -> None:
    """Print the JSON schema of configs, with which editors complete keys and mark mistakes.

    Example: `dayline config schema > dayline.schema.json`, and as the first line of a config:
    `# yaml-language-server: $schema=../dayline.schema.json`
    """
    from recsys_core import config as configs

    typer.echo(json.dumps(configs.schema(ranking=ranking), indent=2))
