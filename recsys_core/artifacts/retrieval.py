"""What the stages of retrieval leave behind."""

import datetime
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from recsys_core.artifacts.core import Artifact, Frozen
from recsys_core.artifacts.difference import Cost, Difference


class ExportedModel(Artifact):
    """`query/model.pt` and `item/model.pt`, each with `signature.json`; `features/` is the fitted engine.

    In the format `pt2` they are `model.pt2`. `cost` is that of tables that are not as they were trained.
    """

    stage: ClassVar[str] = "export"

    embedding_dim: int
    similarity: str
    parity_max_abs_difference: float
    format: str = "torchscript"
    table_dtype: str = "trained"
    cost: Cost | None = None

    @property
    def query(self) -> Path:
        """Folder of the scripted query tower."""
        return self.path / "query"

    @property
    def item(self) -> Path:
        """Folder of the scripted item tower."""
        return self.path / "item"

    @property
    def engine(self) -> Path:
        """The fitted feature engine, a byte-for-byte copy of the one trained with."""
        return self.path / "features"


class TableRows(Artifact):
    """What a command has written to `table`: of which rows, with which model, and the columns with their types."""

    stage: ClassVar[str] = "embed"

    table: str
    source: str
    model_digest: str
    columns: dict[str, str]


class ShareOfLists(Artifact):
    """Lists of every request over a share of the items: `ids`, rows of the share, and `scores`, without a header.

    `longest` is the length of its longest vector.
    """

    stage: ClassVar[str] = "hitrate"

    first_item: int
    num_items: int
    embedding_dim: int
    longest: float


class Embeddings(Artifact):
    """Vectors of one model: `items/` (item_id, embedding) and `queries/` (user_id, gt_items, seen_items, embedding).

    `embedding` columns are fixed-size lists of float32; `model_digest` is the digest of the ExportedModel used.
    """

    stage: ClassVar[str] = "embed"

    embedding_dim: int
    num_items: int
    num_queries: int
    model_digest: str

    @property
    def items(self) -> Path:
        """Parquet folder of the item vectors."""
        return self.path / "items"

    @property
    def queries(self) -> Path:
        """Parquet folder of the query vectors, each with what is to be found and what it has seen."""
        return self.path / "queries"


class Index(Artifact):
    """An index and `id_map.parquet` (item_id; row i is the index's row i); FAISS's are in `index.faiss`.

    `search`: how much a search visits, by the parameter's name, and `reason` why; `ann_recall`: what it returns then.
    """

    stage: ClassVar[str] = "index"

    kind: str
    factory: str
    metric: str = "ip"
    search: dict[str, int] = Field(default={})
    ann_recall: float | None = None
    reason: str = ""
    embedding_dim: int
    num_items: int

    @property
    def faiss(self) -> Path:
        """The index as FAISS writes it."""
        return self.path / "index.faiss"

    @property
    def id_map(self) -> Path:
        """Parquet file that maps FAISS ids (row numbers) to item ids."""
        return self.path / "id_map.parquet"


class RecallPoint(Frozen):
    """How much of the exact lists is returned where the search parameter has this value (None: there is none).

    `by_k`: by the lists' length; `ann_recall` is the smallest of them.
    """

    value: int | None
    ann_recall: float
    by_k: dict[str, float]


class IndexRecall(Frozen):
    """What an index returns of exact search's lists: of `num_queries` queries the mean share, by value and by `ks`.

    `value` is the one that was chosen, with its `ann_recall`, the smallest of `ks`, and `reason` says why.
    """

    parameter: str | None
    ks: tuple[int, ...]
    num_queries: int
    value: int | None
    ann_recall: float
    reason: str
    points: tuple[RecallPoint, ...]


class RetrievalMetrics(Frozen):
    """Full-ranking retrieval metrics by K (the K is the key, as text: JSON has no other).

    hit_rate: hits over all ground-truth items; recall: mean over queries of found÷relevant; ndcg and mrr: means over
    queries; coverage: share of the item table that was recommended to any user.
    """

    hit_rate: dict[str, float]
    recall: dict[str, float]
    ndcg: dict[str, float]
    mrr: dict[str, float]
    coverage: dict[str, float]


class RetrievalSlice(Frozen):
    """Exact search on some of the users or of the ground-truth items; None where there are none of them."""

    num_queries: int
    num_ground_truth: int
    exact: RetrievalMetrics | None
    champion: RetrievalMetrics | None
    differences: dict[str, Difference]


class Evaluation(Artifact):
    """Metrics of one day's ground truth. `protocol` states how they were measured; `sweep.json` has the ANN sweep.

    `differences` are those of `exact` to the champion by metric and K (`hit_rate@50`), with intervals over users;
    `slices` are parts of the ground truth, by name. `popularity` is that of the item table's counts, and
    `recent_popularity` that of the log's last days. This one, `item_item` and `markov` are None where there is no log,
    and `ease` where it was not asked for, too.
    """

    stage: ClassVar[str] = "hitrate"

    day: datetime.date
    ground_truth_day: datetime.date
    ground_truth_digest: str
    num_queries: int
    num_ground_truth: int
    num_items: int
    protocol: str
    exact: RetrievalMetrics
    approximate: RetrievalMetrics
    popularity: RetrievalMetrics
    item_item: RetrievalMetrics | None
    recent_popularity: RetrievalMetrics | None = None
    markov: RetrievalMetrics | None = None
    ease: RetrievalMetrics | None = None
    champion: RetrievalMetrics | None
    ann_recall: dict[str, float]
    ann_recall_by_nprobe: dict[str, dict[str, float]]
    hit_rate_by_popularity: dict[str, float]
    differences: dict[str, Difference] = Field(default={})
    slices: dict[str, RetrievalSlice] = Field(default={})
