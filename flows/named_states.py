"""What the options of a command say of the trained state, or the exported model, that it is about."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from recsys_core.registry.named import Named, Trained


class State(NamedTuple):
    """The options `--checkpoint`, `--release`, `--run`, `--step`, `--features`, `--config` and where releases are."""

    checkpoint: str | None
    release: str | None
    run: Path | None
    step: int | None
    features: Path | None
    config: Path | None
    uri: str | None
    run_root: Path

    def trained(self) -> "tuple[Named, Trained]":
        """Return the state that is named.

        Raises:
            ValueError: none is, several are, or it is not there.
        """
        from recsys_core.registry import named

        checkpoint, step = self.checkpoint, self.step
        if checkpoint is not None and checkpoint.isdecimal() and (self.run is not None or self.release is not None):
            if step is not None:
                raise ValueError("--checkpoint names the step already; leave --step out")
            checkpoint, step = None, int(checkpoint)
        if sum(one is not None for one in (checkpoint, self.release, self.run)) != 1:
            raise ValueError("name the state by one of --checkpoint, --release and --run")
        folder = None if checkpoint is None else Path(checkpoint)
        found = named.find(folder=folder, release=self.release, run=self.run, uri=self.uri, run_root=self.run_root)
        said = None if self.config is None else named.model_of(self.config)
        return found, found.trained(step, features=self.features, model=said)

    def measured(self, model: Path | None) -> "tuple[Named, dict[str, Any]]":
        """Return the state, or the exported model if that is named, and the fields of a request that it fills."""
        from recsys_core.registry import named

        if model is None:
            found, trained = self.trained()
            return found, {"checkpoint": trained.checkpoint, **engine_of(trained)}
        if any(one is not None for one in (self.checkpoint, self.release, self.run, self.step, self.features)):
            raise ValueError("--model is what is measured; leave the checkpoint, release, run, step and features out")
        found = named.find(folder=model)
        return found, {"exported": found.model()}

    def config_of(self, found: "Named") -> Path:
        """Return the config that is named, or else that of the run."""
        path = self.config or found.config
        if path is None:
            raise ValueError(f"{found.title}: no config is beside it; name the one that was trained with by --config")
        return path


def engine_of(trained: "Trained") -> dict[str, Any]:
    """Return the fields of a request that say which features a state was trained with."""
    from recsys_core.features import Engine

    return {"engine": trained.features, "engine_digest": Engine.load(trained.features).digest}
