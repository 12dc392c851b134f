"""Labelled tables that already lie in splits; they are read in place."""

from typing import ClassVar, Literal

from recsys_core.datasets.labelled import base


class Config(base.Config):
    """`source`: the folder that holds train/, and valid/ and test/ if there are any, with Parquet, ORC or CSV."""

    in_place: ClassVar[bool] = True

    kind: Literal["splits"] = "splits"
    source: str
