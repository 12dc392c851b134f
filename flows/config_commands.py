"""`dayline config`: read a config the way a run does, without running."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from recsys_core.config import RankingConfig, RunConfig

app = typer.Typer(no_args_is_help=True, help="Check, show and describe configs.")

_Config = Annotated[Path, typer.Argument(help="YAML file, such as configs/demo.yaml", show_default=False)]
_Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", "--edit-config-json", metavar="KEY=VALUE|JSON", help="change a key; repeatable"),
]


def load(config: Path, overrides: Sequence[str] | None) -> "RunConfig | RankingConfig":
    """Load a config, or tell every mistake in it and exit with code 2."""
    from recsys_core import config as configs
    from recsys_core.config import reading
    from recsys_core.redaction import redact

    try:
        return configs.load(config, overrides or ())
    except ValueError as error:
        for line in redact(str(error)).splitlines():
            typer.echo(f"error: {reading.printable(line)}", err=True)
        raise typer.Exit(2) from None


def ranks(config: Path, overrides: Sequence[str]) -> bool:
    """Whether a config that `load` took is one of a ranking model."""
    from recsys_core import config as configs

    return isinstance(configs.load(config, overrides), configs.RankingConfig)


@app.command()
def check(config: _Config, overrides: _Overrides = None) -> None:
    """Say whether a config is valid; every mistake is told at once, with the nearest valid key.

    Example: `dayline config check configs/demo.yaml --set train.batch_size=512`
    """
    loaded = load(config, overrides)
    typer.echo(f"{config}: valid, {loaded.name}, config hash {loaded.hash}")


@app.command()
def show(config: _Config, overrides: _Overrides = None) -> None:
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
