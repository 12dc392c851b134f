"""The check of a bundle as a stage: it serves the rows that it keeps, where torch is imported already."""

from recsys_core import integrity, serving
from recsys_core.progress import Sink
from recsys_core.registry.bundle import CheckRequest as Request

__all__ = ["Request", "run"]


def run(request: Request, _sink: Sink) -> None:
    """Load the bundle and compare its answers with what was measured.

    Raises:
        ValueError: it does not serve, or answers something else.
    """
    try:
        serving.load(request.bundle).check_kept(request.bundle)
    except RuntimeError as error:
        raise ValueError(f"{request.bundle}: {integrity.first_line(error)}") from error
