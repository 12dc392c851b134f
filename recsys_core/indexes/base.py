"""The contract of an index.

Legend: I rows, D dimensions, Q queries, K rows wanted, S queries whose exact lists are known, W their entries.
"""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import model_validator

from recsys_core import artifacts, integrity, lookup
from recsys_core.artifacts import ComponentConfig, Frozen
from recsys_core.progress import Sink

Metric = Literal["ip", "l2", "cosine"]
"""By what items are ranked: inner product, distance, or the cosine of the angle."""

ID_MAP, SETTINGS = "id_map.parquet", "index.json"
_CATALOGUE = "recsys_core.indexes"
# What a config showed for every kind when all kinds shared one section, where nothing else was said.
_SHOWN_BEFORE = {"nlist": None, "nprobe": 64, "hnsw_m": 32, "ef_construction": 200, "ef_search": 256}


class Settings(Frozen):
    """What an index's own file does not say of it."""

    kind: str
    metric: Metric | None = None


class Config(ComponentConfig):
    """Base of the kinds' `Config`.

    `parameter` is the key that says how much a search visits, if one does; `lacks` what to do where a search of all
    returns too little.
    """

    parameter: ClassVar[str | None] = None
    lacks: ClassVar[str] = "another kind returns more"

    @property
    def value(self) -> int | None:
        """The value of the search parameter that the config states; None: it is to be chosen."""
        return None

    @property
    def target(self) -> float | None:
        """The ANN recall by which it is chosen; None: nearly what a search of all gives."""
        return getattr(self, "target_recall", None)

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        stated = type(self).model_fields.get("target_recall")
        if self.value is not None and stated is not None and self.target != stated.default:
            raise ValueError(
                f"target_recall: {self.target} is what {self.parameter} is chosen by, and that is "
                f"{self.value} already; remove one of them"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _of_this_kind(cls, section: Any) -> Any:
        if not isinstance(section, dict):
            return section
        kept = dict(section)
        for key in section.keys() - cls.model_fields.keys():
            owners = [kind for kind in lookup.kinds(_CATALOGUE) if key in _fields(kind)]
            if not owners:
                continue
            if section[key] is not None and section[key] != _SHOWN_BEFORE.get(key):
                only = " or ".join(owners)
                kind = cls.model_fields["kind"].default
                raise ValueError(f"{key}: has no effect with kind {kind}, only with {only}; remove it (set it to null)")
            del kept[key]
        return kept


def _fields(kind: str) -> Any:
    return lookup.component(_CATALOGUE, kind).Config.model_fields


class Index(ABC):
    """Item vectors that can be searched.

    `ids` [I] are the items' ids by row; null: the row's item was removed, and no search finds it.
    """

    ids: pa.Array
    kind: str
    metric: Metric

    def __init__(self, kind: str, metric: Metric, ids: pa.Array) -> None:
        """See the class."""
        self.kind, self.metric, self.ids = kind, metric, ids

    @classmethod
    @abstractmethod
    def build(cls, config: Any, vectors_ID: np.ndarray, ids: pa.Array, metric: Metric, seed: int, sink: Sink) -> Self:
        """See `indexes.build`. The same vectors and seed make the same index, on any number of threads."""

    @abstractmethod
    def search(
        self, queries_QD: np.ndarray, k: int, value: int | None = None, only: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return scores float32 [Q, K], in falling order, and rows int64 [Q, K] of the items closest to each query.

        Scores are inner products, cosines, or squared distances with a minus before them. A query that finds fewer
        has -1 for the rest. `value` is that of the search parameter; None: as it is set. `only` are the rows that may
        be found, one bit each as `np.packbits` makes them of bool [I] in little-endian order; None: all.

        Raises:
            RuntimeError: a kind that cannot leave rows out, and there is an `only`.
        """

    @classmethod
    @abstractmethod
    def load(cls, folder: Path, settings: Settings, ids: pa.Array) -> Self:
        """See `indexes.load`."""

    @abstractmethod
    def write(self, folder: Path) -> None:
        """Write what `load` needs besides the settings and the ids."""

    @abstractmethod
    def add(self, vectors_ID: np.ndarray, ids: pa.Array) -> None:
        """Add items, which it does not have, behind the others; its layout stays that of what it was built of."""

    @abstractmethod
    def remove(self, rows: np.ndarray) -> None:
        """Remove the items in `rows`, int64, each once; rows of others may change, and `ids` with them.

        Raises:
            ValueError: the kind cannot.
        """

    def save(self, folder: Path) -> None:
        """Write the index into `folder`."""
        self.write(folder)
        pq.write_table(pa.table({"item_id": self.ids}), folder / ID_MAP, compression="zstd")
        settings = Settings(kind=self.kind, metric=self.metric)
        artifacts.write_text(folder / SETTINGS, integrity.sealed(settings.model_dump(mode="json")))

    @property
    @abstractmethod
    def num_rows(self) -> int:
        """I, the rows of removed items included."""

    @property
    @abstractmethod
    def dim(self) -> int:
        """D."""

    @property
    def layout(self) -> str:
        """How the vectors are laid out, such as a FAISS factory string."""
        return self.kind

    @property
    def parameter(self) -> str | None:
        """The name of what says how much a search visits; None: all searches visit the same."""
        return None

    @property
    def value(self) -> int | None:
        """How much a search visits that is not asked for another."""
        return None

    def visit(self, value: int) -> None:  # noqa: B027 - of a kind without a parameter it is not called
        """Let searches visit this much from now on; it is saved with the index."""

    def values(self) -> tuple[int, ...]:
        """Return values of the search parameter, rising, at which a look at the index is worth it."""
        return ()

    @property
    def whole(self) -> int | None:
        """The value at which a search visits all that there is."""
        return None

    @property
    def is_on_disk(self) -> bool:
        """Whether a search reads its items from the disk, as there may be more of them than there is memory."""
        return False

    @property
    def nests(self) -> bool:
        """Whether a shorter list is the start of a longer one, where both visit the same."""
        return False

    @property
    def is_lossy(self) -> bool:
        """Whether its scores are of something else than the vectors that it was built of, such as of their codes."""
        return True

    def holds(self, vectors_ID: np.ndarray) -> bool:  # noqa: ARG002 - most kinds approximate
        """Whether a search is the exact search of these very vectors."""
        return False

    def exact_from(self, queries_SD: np.ndarray, lists_SW: np.ndarray) -> np.ndarray | None:  # noqa: ARG002
        """int64 [S]: the value from which on each query is answered with its exact list; None: it cannot be known.

        `lists_SW` are these lists, rows padded with -1.
        """
        return None
