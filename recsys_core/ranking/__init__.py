"""Ranking: one logit per labelled row, from a table with splits to a checked, exported scorer."""

from pydantic import Field

from recsys_core import readers
from recsys_core.artifacts import Frozen, LabelledData


class Config(Frozen):
    """YAML section `ranking`: what the columns of labelled tables mean; a config that has it is a ranking one."""

    label: str = Field(default="label", description="column of 0 and 1 (or booleans) that is to be predicted")
    sample_weight: str | None = Field(
        default=None, description="column of weights ≥ 0 of training rows; null: rows count alike"
    )
    group: str | None = Field(
        default=None, description="column by which GAUC groups the evaluated rows, such as user_id; null: no GAUC"
    )
    item: str | None = Field(
        default=None,
        description="column of what a row offers, such as item_id, for the gate's baseline `item_rate` and slice "
        "`cold_items` of a daily config",
    )


def opened(data: LabelledData, split: str) -> readers.Reader:
    """Open the rows of a split.

    Raises:
        ValueError: it has not the rows that were checked.
    """
    options, folders = readers.CsvOptions.model_validate(data.csv or {}), data.folders(split)
    reader, (checked,) = readers.opened(folders, options), (p for p in data.splits if p.name == split)
    if reader.num_rows != checked.num_rows:
        raise ValueError(
            f"{', '.join(map(str, folders))}: {reader.num_rows} rows where prepare checked {checked.num_rows}; the "
            "split has changed since, so run again"
        )
    return reader
