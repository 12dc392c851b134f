"""A release: what is published of a day, and where its parts lie in the bundle that is served."""

import datetime
from typing import ClassVar, Literal

from recsys_core.artifacts.core import Artifact

Product = Literal["retrieval", "ranking"]

# Beside the exported model's own files: its manifest, and how the bundle answers where a request does not say.
EXPORTED_MODEL, SETTINGS = "exported_model.json", "serving.json"
# Rows by which a bundle is checked before it goes live. Of two towers: queries, with their measured vectors.
QUERIES = "queries.parquet"
# And the fields of its items, in the order of the index; bundles of before there were filters have no such file.
ITEMS = "items.parquet"
# Of a scorer: rows, and in the same order what they were scored.
EXAMPLES, SCORES = "examples.parquet", "scores.parquet"


class Release(Artifact):
    """The bundle of one day as it was published, or why it was not.

    Of retrieval it has `query/`, `item/`, `features/` and `index/`, of ranking `model.pt` and `features/`.
    """

    stage: ClassVar[str] = "publish"

    day: datetime.date
    run_id: str
    decision: str
    reasons: tuple[str, ...]
    model_name: str
    version: str | None
