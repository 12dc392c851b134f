"""Imports that take seconds."""

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Let what is imported inside take a sixth less time: it stays, so it is not looked through for what can be freed.

    That is for programs, which import before they work; it does nothing where the collector is off.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        # Not by the next collections either.
        gc.freeze()
        gc.enable()
