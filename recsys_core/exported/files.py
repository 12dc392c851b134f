"""Where the files of an exported module lie; free of torch."""

from pathlib import Path

MODEL, PROGRAM, SIGNATURE = "model.pt", "model.pt2", "signature.json"


def module_file(folder: Path) -> Path:
    """Return the file of the module in `folder`: a program of torch.export if there is one, else a script."""
    program = folder / PROGRAM
    return program if program.is_file() else folder / MODEL
