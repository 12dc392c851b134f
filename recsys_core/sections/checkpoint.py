"""YAML section `train.fine_tune_from`, and where a checkpoint is."""

from pathlib import Path

from pydantic import Field

from recsys_core.artifacts import Frozen

METADATA = ".metadata"
"""The file of a checkpoint that is written last."""


class FineTune(Frozen):
    """YAML section `train.fine_tune_from`: used where training starts from random weights."""

    path: Path = Field(description="a finished training's folder, or a checkpoint in it")
    parameter_map: Path | None = Field(
        default=None, description="text file, a line `new<TAB>old` for each parameter that has another name there"
    )
    include: tuple[str, ...] = Field(default=("*",), description="globs on the model's parameter names: what is loaded")
    exclude: tuple[str, ...] = Field(
        default=(), description="globs: what of that is not, and starts from random weights"
    )
    strict: bool = Field(default=True, description="false: what the checkpoint lacks starts from random weights")
    features: Path | None = Field(
        default=None,
        description="folder of the fitted features that it was trained with, which find rows of tables by their ids; "
        "null: where that training had them",
    )


def locate(path: Path) -> Path:
    """Return the folder of the checkpoint at `path`: that folder, or `state` in a finished training's.

    Raises:
        ValueError: there is none.
    """
    for directory in (path, path / "state"):
        if (directory / METADATA).is_file():
            return directory
    raise ValueError(f"{path}: no checkpoint there; name a training's folder, such as runs/NAME/DAY/RUN_ID/train")
