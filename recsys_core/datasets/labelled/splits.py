"""Labelled tables that already lie in splits; they are read in place."""

from typing import ClassVar, Literal

from pydantic import Field

from recsys_core import readers, uri
from recsys_core.artifacts import digest_of
from recsys_core.datasets.labelled import base


class Config(base.Config):
    """`source`: the folder that holds train/, and valid/ and test/ if there are any, with Parquet, ORC or CSV."""

    in_place: ClassVar[bool] = True

    kind: Literal["splits"] = "splits"
    source: str
    csv: readers.CsvOptions = Field(default=readers.CsvOptions(), description="how files of CSV are written")


def fingerprint(config: Config) -> str:
    """Return a digest that changes when a file of a split does; no rows are read."""
    found = base.splits(uri.local(config.source))
    return digest_of({name: uri.fingerprint(uri.resolve(folder)) for name, folder in found.items()})
