"""What is asked of the stages behind commands that run an exported module alone: without torch."""

from typing import Literal

from pydantic import Field

from recsys_core import artifacts
from recsys_core.artifacts import ExportedModel, ExportedRanker
from recsys_core.readers import CsvOptions, Keep
from recsys_core.writers import Format


class TableRequest(artifacts.Request):
    """A table through an exported module to a table.

    `side` is the tower of an `ExportedModel`. `reserved_columns` are those of the table that are written too, null:
    all. `output_columns` are those of the module, by what they are called there, each with what it is called in the
    output, null: all. With `distinct_by` only the first (or last, see `keep`) row of each value of that column counts.
    """

    stage: Literal["embed", "predict"]
    model: ExportedModel | ExportedRanker
    side: Literal["query", "item"] | None = None
    source: str
    csv: CsvOptions = CsvOptions()
    table: str
    format: Format = "parquet"
    reserved_columns: tuple[str, ...] | None = None
    output_columns: dict[str, str] | None = None
    batch_size: int = Field(default=8_192, ge=1)
    distinct_by: str | None = None
    keep: Keep = "first"
