"""What the kinds that FAISS implements share: a factory string, training, filling, searching and `index.faiss`.

Legend: see `base`; C cells of an IVF.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import pyarrow as pa

from recsys_core import integrity
from recsys_core.indexes import base
from recsys_core.metrics.retrieval import NO_ITEM
from recsys_core.progress import Event, Sink

if TYPE_CHECKING:
    import faiss

FILE = "index.faiss"
_ADD_ROWS = 65_536


class Layout(NamedTuple):
    """A FAISS factory string, and why it is this one."""

    factory: str
    reason: str


class Config(base.Config):
    """Base of the kinds' `Config`."""

    def layout(self, num_items: int, dim: int) -> Layout:
        """Return the layout for this number of vectors."""
        raise NotImplementedError

    def prepare(self, index: "faiss.Index") -> None:
        """Set what FAISS's factory string does not say, before anything is added."""


class Index(base.Index):
    """An index of FAISS; row i is its id i.

    What it can do is asked of the FAISS index itself and not of the kind, as FAISS reads any of its indexes.
    """

    def __init__(self, kind: str, metric: base.Metric, ids: pa.Array, index: "faiss.Index", layout: str = "") -> None:
        """Wrap `index`."""
        super().__init__(kind, metric, ids)
        self.faiss, self._layout = index, layout

    @classmethod
    def build(
        cls, config: Config, vectors_ID: np.ndarray, ids: pa.Array, metric: base.Metric, seed: int, sink: Sink
    ) -> Self:
        """See `base.Index.build`."""
        import faiss

        num_items, dim = vectors_ID.shape
        factory, reason = config.layout(num_items, dim)
        sink(Event(stage="index", total=num_items, message=f"plan: {factory}, {reason}"))
        index = faiss.index_factory(dim, factory, faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT)
        seeded(index, seed)
        config.prepare(index)
        vectors_ID = normalized(vectors_ID) if metric == "cosine" else vectors_ID
        if not index.is_trained:
            sink(Event(stage="index", total=num_items, message=f"training {factory}"))
            index.train(vectors_ID)
        for start in range(0, num_items, _ADD_ROWS):
            index.add(vectors_ID[start : start + _ADD_ROWS])
            sink(Event(stage="index", done=index.ntotal, total=num_items, message=f"filling {factory}"))
        return cls(config.kind, metric, ids, index, factory)

    @classmethod
    def load(cls, folder: Path, settings: base.Settings, ids: pa.Array) -> Self:
        """See `base.Index.load`."""
        import faiss

        try:
            index = faiss.read_index(str(folder / FILE))
        except RuntimeError as error:
            raise ValueError(f"{folder / FILE}: damaged ({integrity.first_line(error)})") from None
        metric = settings.metric or ("l2" if index.metric_type == faiss.METRIC_L2 else "ip")
        return cls(settings.kind, metric, ids, index)

    def write(self, folder: Path) -> None:
        """See `base.Index.write`."""
        import faiss

        faiss.write_index(self.faiss, str(folder / FILE))

    def search(
        self, queries_QD: np.ndarray, k: int, value: int | None = None, only: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `base.Index.search`."""
        if self.metric == "cosine":
            queries_QD = normalized(queries_QD)
        scores, rows = self.faiss.search(queries_QD, k, params=self._parameters(value, only))
        return -scores if self.metric == "l2" else scores, rows

    def _parameters(self, value: int | None, only: np.ndarray | None) -> Any:
        """Return how to search; `only` has to live as long as that."""
        import faiss

        if value is None and only is None:
            return None
        selector = None if only is None else faiss.IDSelectorBitmap(only)
        if self.parameter == "nprobe":
            return _around(self.faiss, faiss.SearchParametersIVF(nprobe=value or self.value, sel=selector))
        if self.parameter == "ef_search":
            return _around(self.faiss, faiss.SearchParametersHNSW(efSearch=value or self.value, sel=selector))
        return _around(self.faiss, faiss.SearchParameters(sel=selector))

    @property
    def num_rows(self) -> int:
        """See `base.Index.num_rows`."""
        return self.faiss.ntotal

    @property
    def dim(self) -> int:
        """See `base.Index.dim`."""
        return self.faiss.d

    @property
    def layout(self) -> str:
        """See `base.Index.layout`."""
        return self._layout or type(self.faiss).__name__

    @property
    def parameter(self) -> str | None:
        """See `base.Index.parameter`."""
        import faiss

        searched = inner(self.faiss)
        if isinstance(searched, faiss.IndexIVF):
            return "nprobe"
        return "ef_search" if isinstance(searched, faiss.IndexHNSW) else None

    @property
    def value(self) -> int | None:
        """See `base.Index.value`."""
        searched = inner(self.faiss)
        if self.parameter is None:
            return None
        return searched.nprobe if self.parameter == "nprobe" else searched.hnsw.efSearch

    def visit(self, value: int) -> None:
        """See `base.Index.visit`."""
        searched = inner(self.faiss)
        assert self.parameter is not None
        if self.parameter == "nprobe":
            searched.nprobe = value
        else:
            searched.hnsw.efSearch = value

    def values(self) -> tuple[int, ...]:
        """See `base.Index.values`: powers of two, for cells up to all of them."""
        if self.parameter == "ef_search":
            return tuple(16 << power for power in range(7))
        if self.parameter == "nprobe":
            nlist = inner(self.faiss).nlist
            return (*(1 << power for power in range((nlist - 1).bit_length())), nlist)
        return ()

    @property
    def whole(self) -> int | None:
        """See `base.Index.whole`."""
        if self.parameter is None:
            return None
        return inner(self.faiss).nlist if self.parameter == "nprobe" else self.faiss.ntotal

    @property
    def is_lossy(self) -> bool:
        """See `base.Index.is_lossy`."""
        import faiss

        exactly = (faiss.IndexFlat, faiss.IndexIVFFlat, faiss.IndexHNSWFlat)
        return not isinstance(self.faiss, exactly)

    def holds(self, vectors_ID: np.ndarray) -> bool:
        """See `base.Index.holds`."""
        import faiss

        if not isinstance(self.faiss, faiss.IndexFlat) or self.metric == "cosine":
            return False
        found = faiss.rev_swig_ptr(self.faiss.get_xb(), self.faiss.ntotal * self.faiss.d)
        return np.array_equal(found.reshape(self.faiss.ntotal, self.faiss.d), vectors_ID)

    def exact_from(self, queries_SD: np.ndarray, lists_SW: np.ndarray) -> np.ndarray | None:
        """See `base.Index.exact_from`: of vectors in cells, exactly those in the visited cells are ranked.

        cells, the closest to the query first     0     1     2  |  3     4
        items of its exact list                   a b         c  |             from nprobe 3 on, the list is exact
        """
        import faiss

        if not isinstance(self.faiss, faiss.IndexIVFFlat):
            return None
        nlist = self.faiss.nlist
        cell_I = np.full(int(lists_SW.max()) + 1, nlist)
        for cell in range(nlist):
            if size := self.faiss.invlists.list_size(cell):
                ids = faiss.rev_swig_ptr(self.faiss.invlists.get_ids(cell), size)
                cell_I[ids[ids < len(cell_I)]] = cell
        queries_SD = normalized(queries_SD) if self.metric == "cosine" else queries_SD
        _, cells_SC = self.faiss.quantizer.search(queries_SD, nlist)
        place_SC = np.full((len(queries_SD), nlist + 1), nlist)
        np.put_along_axis(place_SC, cells_SC, np.arange(nlist)[None], axis=1)
        place_SW = np.take_along_axis(place_SC, cell_I[lists_SW], axis=1)
        return np.where(lists_SW == NO_ITEM, 0, place_SW + 1).max(axis=1)


def _around(index: "faiss.Index", parameters: Any) -> Any:
    """Return how to search `index` where `parameters` are those of what is `inner`."""
    import faiss

    if isinstance(index, faiss.IndexPreTransform):
        within = _around(faiss.downcast_index(index.index), parameters)
        return faiss.SearchParametersPreTransform(index_params=within)
    if isinstance(index, faiss.IndexRefine):
        within = _around(faiss.downcast_index(index.base_index), parameters)
        return faiss.IndexRefineSearchParameters(k_factor=index.k_factor, base_index_params=within)
    return parameters


def inner(index: "faiss.Index") -> "faiss.Index":
    """Return the index that does the search, of one that transforms vectors or refines results around it."""
    import faiss

    if isinstance(index, faiss.IndexPreTransform | faiss.IndexIDMap):
        return inner(faiss.downcast_index(index.index))
    if isinstance(index, faiss.IndexRefine):
        return inner(faiss.downcast_index(index.base_index))
    return index


def seeded(index: "faiss.Index", seed: int) -> None:
    """Seed whatever is drawn; few vectors for a cell are meant, and no warning of FAISS's own on stderr."""
    import faiss

    searched = inner(index)
    if isinstance(searched, faiss.IndexIVF):
        searched.cp.seed = seed
        searched.cp.min_points_per_centroid = 1
    if isinstance(searched, faiss.IndexHNSW):
        searched.hnsw.rng = faiss.RandomGenerator(seed)


def normalized(vectors: np.ndarray) -> np.ndarray:
    """Return float32 vectors of length 1; a zero vector stays."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
