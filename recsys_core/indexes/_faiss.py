"""What the kinds that FAISS implements share: a factory string, training, filling, searching and `index.faiss`.

Legend: see `base`; C cells of an IVF.
"""

import contextlib
import ctypes
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from recsys_core import integrity
from recsys_core.indexes import base
from recsys_core.metrics.retrieval import NO_ITEM
from recsys_core.progress import Event, Sink

if TYPE_CHECKING:
    import faiss

FILE = "index.faiss"
DATA = "cells.ivfdata"  # where the cells lie on the disk, and not in it
_STDOUT, _STDERR = 1, 2
_PLACE = re.compile(r"^Error in .* at \S+:\d+: (Error: .* failed: )?")
TARGET = 0.95
TARGET_IS = "ANN recall to reach, at each of hitrate.ks, of queries of the day"
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

    @property
    def num_training_rows(self) -> int:
        """How many vectors training takes at least; fewer are given to it several times."""
        return 0

    def prepare(self, index: "faiss.Index") -> None:
        """Set what FAISS's factory string does not say, before anything is added."""


class InCells(Config):
    """Base of the kinds whose vectors are in cells."""

    parameter: ClassVar[str | None] = "nprobe"

    nprobe: int | None = Field(
        default=None, ge=1, description="cells visited for a query; null: the fewest by target_recall"
    )
    target_recall: float | None = Field(default=TARGET, gt=0, le=1, description=TARGET_IS)

    @property
    def value(self) -> int | None:
        """See `base.Config.value`."""
        return self.nprobe


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
        num_items, dim = vectors_ID.shape
        factory, reason = config.layout(num_items, dim)
        sink(Event(stage="index", total=num_items, message=f"plan: {factory}, {reason}"))
        index = empty(dim, factory, metric)
        seeded(index, seed)
        config.prepare(index)
        vectors_ID = normalized(vectors_ID) if metric == "cosine" else vectors_ID
        if not index.is_trained:
            sink(Event(stage="index", total=num_items, message=f"training {factory}"))
            num_rows = max(num_items, config.num_training_rows)
            try:
                index.train(vectors_ID if num_rows == num_items else np.resize(vectors_ID, (num_rows, dim)))
            except RuntimeError as error:
                raise ValueError(f"index: {factory} cannot be trained on {num_items:,} items: {_said(error)}") from None
        for start in range(0, num_items, _ADD_ROWS):
            index.add(vectors_ID[start : start + _ADD_ROWS])
            sink(Event(stage="index", done=index.ntotal, total=num_items, message=f"filling {factory}"))
        made = cls(config.kind, metric, ids, index, factory)
        if config.value is not None:
            made.visit(config.value)
        return made

    @classmethod
    def load(cls, folder: Path, settings: base.Settings, ids: pa.Array) -> Self:
        """See `base.Index.load`."""
        import faiss

        quietly = stdout_is_stderr() if (folder / DATA).exists() else contextlib.nullcontext()
        try:
            with quietly:
                # Cells on disk lie beside it, wherever the folder is now.
                index = faiss.read_index(str(folder / FILE), faiss.IO_FLAG_ONDISK_SAME_DIR | faiss.IO_FLAG_READ_ONLY)
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
        there = self._there(only)
        scores, rows = self.faiss.search(queries_QD, k, params=self._parameters(value, there))
        return -scores if self.metric == "l2" else scores, rows

    def add(self, vectors_ID: np.ndarray, ids: pa.Array) -> None:
        """See `base.Index.add`."""
        self._refuse_on_disk()
        self.faiss.add(normalized(vectors_ID) if self.metric == "cosine" else vectors_ID)
        self.ids = pa.concat_arrays([self.ids, ids])

    def remove(self, rows: np.ndarray) -> None:
        """See `base.Index.remove`. A graph keeps the rows, as ways to others, and finds them no more."""
        import faiss

        self._refuse_on_disk()
        kept = np.ones(len(self.ids), bool)
        kept[rows] = False
        if self.parameter == "ef_search":
            self.ids = pc.if_else(pa.array(kept), self.ids, pa.scalar(None, self.ids.type))
            return
        try:
            self.faiss.remove_ids(faiss.IDSelectorBatch(rows))
        except RuntimeError as error:
            raise ValueError(f"an index of {self.layout} removes no items ({_said(error)}); build it anew") from None
        if self.parameter == "nprobe":
            # Cells keep the ids of what is left, which are its rows no more.
            cells, gone = inner(self.faiss).invlists, np.sort(rows)
            for cell in range(cells.nlist):
                if size := cells.list_size(cell):
                    ids = faiss.rev_swig_ptr(cells.get_ids(cell), size)
                    ids -= np.searchsorted(gone, ids)
        self.ids = self.ids.filter(pa.array(kept))

    def _refuse_on_disk(self) -> None:
        if self.is_on_disk:
            raise ValueError(f"an index of {self.layout} whose cells are on disk is not changed; build it anew")

    def _there(self, only: np.ndarray | None) -> np.ndarray | None:
        """Return a bit for each row that may be found, of those in `only`; None: all."""
        if not self.ids.null_count:
            return only
        there = np.packbits(self.ids.is_valid().to_numpy(zero_copy_only=False), bitorder="little")
        return there if only is None else there & only

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
        return parameter(self.faiss)

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
    def is_on_disk(self) -> bool:
        """See `base.Index.is_on_disk`."""
        import faiss

        cells = getattr(inner(self.faiss), "invlists", None)
        return cells is not None and isinstance(faiss.downcast_InvertedLists(cells), faiss.OnDiskInvertedLists)

    @property
    def nests(self) -> bool:
        """See `base.Index.nests`: a graph keeps as many candidates as are asked for, and so does what is refined."""
        import faiss

        is_changed = isinstance(self.faiss, faiss.IndexPreTransform)
        searched = faiss.downcast_index(self.faiss.index) if is_changed else self.faiss
        return not isinstance(searched, faiss.IndexHNSW | faiss.IndexRefine)

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


@contextlib.contextmanager
def stdout_is_stderr() -> Iterator[None]:
    """Inside, what FAISS prints of the files of cells stands on stderr: on stdout there are results."""
    flush = ctypes.CDLL(None).fflush
    flush(None)
    kept = os.dup(_STDOUT)
    os.dup2(_STDERR, _STDOUT)
    try:
        yield
    finally:
        flush(None)
        os.dup2(kept, _STDOUT)
        os.close(kept)


def empty(dim: int, factory: str, metric: base.Metric) -> "faiss.Index":
    """Return the index that a factory string describes, with nothing in it.

    Raises:
        ValueError: it describes none.
    """
    import faiss

    try:
        return faiss.index_factory(dim, factory, faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise ValueError(f"index.factory: {factory!r} of {dim} dimensions: {_said(error)}") from None


def parameter(index: "faiss.Index") -> str | None:
    """Return the name of what says how much a search of `index` visits."""
    import faiss

    searched = inner(index)
    if isinstance(searched, faiss.IndexIVF):
        return "nprobe"
    return "ef_search" if isinstance(searched, faiss.IndexHNSW) else None


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


def _said(error: RuntimeError) -> str:
    """Return what FAISS says, without the place in its source."""
    return _PLACE.sub("", integrity.first_line(error))


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
    if hasattr(searched, "pq"):
        searched.pq.cp.seed = seed
        searched.pq.cp.min_points_per_centroid = 1
    if isinstance(searched, faiss.IndexHNSW):
        searched.hnsw.rng = faiss.RandomGenerator(seed)


def normalized(vectors: np.ndarray) -> np.ndarray:
    """Return float32 vectors of length 1; a zero vector stays."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
