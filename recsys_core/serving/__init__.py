"""A released bundle at work: raw columns in, one answer a row out.

A bundle is a folder that `registry.bundle` has filled: the exported model and its fitted engine, rows by which
`python -m recsys_core.serving BUNDLE` checks it, and `serving.json`, which says whose it is.
"""

from pathlib import Path

from pydantic import BaseModel

from recsys_core import integrity
from recsys_core.artifacts import Product
from recsys_core.artifacts.release import SETTINGS
from recsys_core.serving.base import AGAIN, Service
from recsys_core.serving.recommender import Recommender
from recsys_core.serving.scorer import Scorer

__all__ = ["Bundle", "Recommender", "Scorer", "Service", "load"]

# Its name in the file that is stored with models of before, where a process that has this code already loads one.
Bundle = Recommender

_PRODUCTS: dict[Product, type[Service]] = {"retrieval": Recommender, "ranking": Scorer}


class _Settings(BaseModel):
    """Of `serving.json`, whose the bundle is; one of before there were several products does not say."""

    product: Product = "retrieval"


def load(directory: Path) -> Service:
    """Load the bundle in `directory`, whatever it is, onto the CPU.

    Raises:
        ValueError: a part is missing or damaged; names it.
    """
    path = directory / SETTINGS
    try:
        product = (integrity.read_record(_Settings, path) if path.exists() else _Settings()).product
    except ValueError as error:
        raise ValueError(f"{error}; {AGAIN}") from None
    return _PRODUCTS[product].load(directory)
