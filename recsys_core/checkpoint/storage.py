"""How distributed checkpoints lie on the disk: tensors in `*.distcp`, and where each of them is as JSON in `.metadata`.

torch's own `.metadata` is a pickle, which runs what its author put into it. The JSON holds the same, and the digest of
each file too, so that readers of a checkpoint see damage. Pickles of torch are read as well: by an unpickler that
makes nothing but plain values of the few names that are needed.
"""

import contextlib
import dataclasses
import io
import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.distributed as dist
from pydantic import Field
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, ReadItem, SavePlan, SavePlanner
from torch.distributed.checkpoint.state_dict_loader import load as load_state
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from recsys_core import integrity
from recsys_core.artifacts import Frozen
from recsys_core.integrity import DamagedError
from recsys_core.sections.checkpoint import METADATA

_DTYPES = {str(kind).removeprefix("torch."): kind for kind in vars(torch).values() if isinstance(kind, torch.dtype)}
_OF_DAMAGE = (RuntimeError, EOFError, pickle.UnpicklingError, AssertionError)
_Size = Annotated[int, Field(ge=0)]


class Place(Frozen):
    """Where something lies: bytes `begin` to `begin + num_bytes` of a file beside the metadata."""

    file: str = Field(pattern=r"^[^/\x00]+$")
    begin: _Size
    num_bytes: _Size


class Chunk(Frozen):
    """A block of a tensor: the first element's indices, its sizes, and where it lies."""

    offsets: tuple[_Size, ...]
    sizes: tuple[_Size, ...]
    place: Place


class Stored(Frozen):
    """One tensor."""

    dtype: str
    shape: tuple[_Size, ...]
    chunks: tuple[Chunk, ...]

    @property
    def num_bytes(self) -> int:
        """Bytes of its elements."""
        return torch.Size(self.shape).numel() * _DTYPES[self.dtype].itemsize


class FileDigest(Frozen):
    """What a file held when it was written: xxh3-128 of its bytes."""

    num_bytes: _Size
    digest: str


class Layout(Frozen):
    """What a checkpoint holds: tensors and other plain values by key, and the digests of its files, if it has them."""

    tensors: dict[str, Stored]
    values: dict[str, Place] = Field(default={})
    files: dict[str, FileDigest] = Field(default={})


class Writer(FileSystemWriter):
    """Writes tensors as torch does, and the metadata as JSON."""

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write this rank's part, and digest the files that were made."""
        results = super().write_data(plan, planner).value()
        folder = Path(self.path)
        digests = {
            name: FileDigest(num_bytes=(folder / name).stat().st_size, digest=integrity.digest_of_file(folder / name))
            for name in {result.storage_data.relative_path for result in results}
        }
        done: Future[list[WriteResult]] = Future()
        done.set_result(
            [
                dataclasses.replace(one, storage_data=(one.storage_data, digests[one.storage_data.relative_path]))
                for one in results
            ]
        )
        return done

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Write the metadata, last and whole; the first rank does."""
        infos = {one.index: one.storage_data[0] for part in results for one in part}
        digests = {one.storage_data[0].relative_path: one.storage_data[1] for part in results for one in part}
        fields = _fields(metadata.state_dict_metadata, {(key.fqn, key.offset): info for key, info in infos.items()})
        layout = integrity.validated(Layout, {**fields, "files": digests}, str(self.path))
        integrity.write_text(Path(self.path) / METADATA, integrity.sealed(layout.model_dump(mode="json")))


class Reader(FileSystemReader):
    """Reads what `Writer` or torch wrote, once its files were found to be whole.

    Of those that read together, `share` (number, count) says which compares the digests of which files.
    """

    def __init__(self, directory: Path, share: tuple[int, int] = (0, 1)) -> None:
        """Read the metadata.

        Raises:
            ValueError: there is none, or it is damaged, or would run code.
        """
        super().__init__(directory)
        self._directory, self._share = directory, share
        self.layout = layout(directory)

    # Without torch's keyword arguments, with which it looks for metadata of single ranks.
    def read_metadata(self) -> Metadata:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the metadata in torch's form."""
        # Imported here: it is not torch's public name.
        from torch.distributed.checkpoint.filesystem import _StorageInfo

        data: dict[str, Any] = {}
        places: dict[MetadataIndex, _StorageInfo] = {}
        for key, stored in self.layout.tensors.items():
            chunks = [ChunkStorageMetadata(torch.Size(one.offsets), torch.Size(one.sizes)) for one in stored.chunks]
            properties = TensorProperties(dtype=_DTYPES[stored.dtype])
            data[key] = TensorStorageMetadata(properties, torch.Size(stored.shape), chunks)
            for one in stored.chunks:
                at = one.place
                places[MetadataIndex(key, one.offsets)] = _StorageInfo(at.file, at.begin, at.num_bytes)
        for key, at in self.layout.values.items():
            data[key] = BytesStorageMetadata()
            places[MetadataIndex(key)] = _StorageInfo(at.file, at.begin, at.num_bytes)
        return Metadata(data, storage_data=places, storage_meta=StorageMeta(load_id=self.load_id))

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Compare this rank's share of the digests, then read."""
        number, count = self._share
        digests = {self._directory / name: held.digest for name, held in sorted(self.layout.files.items())}
        integrity.verify(dict([*digests.items()][number::count]))
        return super().read_data(plan, planner)


class Planner(DefaultLoadPlanner):
    """Reads values that are no tensors without running what their bytes may ask for."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        """Fill in a number, a text, None, or lists and dicts of them."""
        held = torch.load(value, weights_only=True)
        plain = io.BytesIO()
        torch.save(held, plain)
        plain.seek(0)
        super().load_bytes(read_item, plain)


def load(directory: Path, state: dict[str, Any], *, planner: Planner | None = None, alone: bool = False) -> None:
    """Fill `state` in place from the checkpoint in `directory`; every rank calls this, unless it is `alone`.

    Raises:
        ValueError: the checkpoint is damaged, or not one; names the file where it is known.
    """
    together = dist.is_initialized() and not alone
    reader = Reader(directory, (dist.get_rank(), dist.get_world_size()) if together else (0, 1))
    with plain_errors(directory):
        load_state(state, storage_reader=reader, planner=planner or Planner(), no_dist=not together)


@contextlib.contextmanager
def plain_errors(directory: Path) -> Iterator[None]:
    """Raise what went wrong on a rank in place of torch's collection of all ranks' tracebacks."""
    try:
        yield
    except CheckpointException as failed:
        errors = [error for _, (error, _) in sorted(failed.failures.items())]
        known = next((error for error in errors if isinstance(error, (ValueError, OSError))), None)
        if known is not None:
            raise known from None
        if not isinstance(errors[0], _OF_DAMAGE):
            raise errors[0] from None
        raise DamagedError(f"{directory}: damaged, it cannot be read ({integrity.first_line(errors[0])})") from None


def layout(directory: Path) -> Layout:
    """Return what the checkpoint in `directory` holds, without reading its tensors.

    Raises:
        ValueError: no metadata, or damaged metadata, or such as would run code; names the file.
    """
    path = directory / METADATA
    if not path.is_file():
        raise DamagedError(f"{path}: missing, so {directory} is no checkpoint")
    with path.open("rb") as file:
        is_json = file.read(1) == b"{"
    found = integrity.read_json(path) if is_json else _unpickled(path)
    held = integrity.validated(Layout, found, str(path))
    _check(held, path)
    return held


def _check(found: Layout, path: Path) -> None:
    """Refuse metadata that its files do not bear out: what is allocated for a tensor lies in them."""
    sizes: dict[str, int] = {}
    places = [(key, one.place) for key, stored in found.tensors.items() for one in stored.chunks]
    for key, place in [*places, *found.values.items()]:
        if place.file not in sizes:
            file = path.parent / place.file
            sizes[place.file] = file.stat().st_size if file.is_file() else -1
        if place.begin + place.num_bytes > sizes[place.file]:
            state = "is missing" if sizes[place.file] < 0 else f"has {sizes[place.file]} bytes"
            raise DamagedError(
                f"{path.parent / place.file}: {state}, and {key} lies in it up to its end; it is damaged"
            )
    for key, stored in found.tensors.items():
        if stored.dtype not in _DTYPES:
            raise DamagedError(f"{path}: damaged, {key} is of type {stored.dtype!r}, which torch does not have")
        num_elements = torch.Size(stored.shape).numel()
        held = sum(torch.Size(one.sizes).numel() for one in stored.chunks)
        num_bytes = sum(one.place.num_bytes for one in stored.chunks)
        ranks = {
            len(stored.shape),
            *(len(one.offsets) for one in stored.chunks),
            *(len(c.sizes) for c in stored.chunks),
        }
        if held < num_elements or num_bytes < stored.num_bytes or len(ranks) > 1:
            raise DamagedError(f"{path}: damaged, {key} of shape {stored.shape} is not covered by its chunks")


def _fields(found: dict[str, Any], infos: dict[tuple[str, Sequence[int] | None], Any]) -> dict[str, Any]:
    """Return a `Layout`'s fields from metadata in torch's form, or stand-ins of it."""

    def place(key: str, offsets: Sequence[int] | None) -> dict[str, Any]:
        info = infos[key, None if offsets is None else tuple(offsets)]
        if getattr(info, "transform_descriptors", None):
            raise ValueError("it is compressed; save it without extensions")
        return {"file": info.relative_path, "begin": info.offset, "num_bytes": info.length}

    tensors: dict[str, Any] = {}
    values: dict[str, Any] = {}
    for key, one in found.items():
        if not hasattr(one, "chunks"):
            values[key] = place(key, None)
            continue
        chunks = [
            {"offsets": tuple(c.offsets), "sizes": tuple(c.sizes), "place": place(key, c.offsets)} for c in one.chunks
        ]
        dtype = str(one.properties.dtype).removeprefix("torch.")
        tensors[key] = {"dtype": dtype, "shape": tuple(one.size), "chunks": chunks}
    return {"tensors": tensors, "values": values}


class _Plain:
    """Stands in for an object of torch: holds what the pickle says of it, and does nothing."""

    def __init__(self, *_: Any) -> None:
        """What an object is made from is not needed of any."""


class _Properties(_Plain):
    dtype: Any = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.dtype = state[0]


_META, _FILES = "torch.distributed.checkpoint.metadata", "torch.distributed.checkpoint.filesystem"
_NAMES = (
    *((_META, name) for name in ("Metadata", "TensorStorageMetadata", "BytesStorageMetadata", "ChunkStorageMetadata")),
    *((_META, name) for name in ("MetadataIndex", "StorageMeta", "_MEM_FORMAT_ENCODING")),
    (_FILES, "_StorageInfo"),
    *(("pathlib", name) for name in ("PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath")),
)


class _Unpickler(pickle._Unpickler):  # noqa: SLF001 - the one in C can be made to allocate any amount of memory
    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        # New ones each time, so that no file changes what the next one's are.
        self._known: dict[tuple[str, str], Any] = {name: type(name[1], (_Plain,), {}) for name in _NAMES}
        self._known[_META, "TensorProperties"] = type("TensorProperties", (_Properties,), {})
        self._known |= {("torch", name): name for name in _DTYPES}
        self._known |= {("torch", "Size"): tuple, ("torch.serialization", "_get_layout"): str}
        self._known["collections", "OrderedDict"] = dict

    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in for a name; there are no others."""
        if (module, name) not in self._known:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which no checkpoint needs and which may run code")
        return self._known[module, name]


def _unpickled(path: Path) -> dict[str, Any]:
    """Return a `Layout`'s fields from torch's own metadata.

    Raises:
        ValueError: it names what no checkpoint needs, or is damaged.
    """
    try:
        found = _Unpickler(io.BytesIO(path.read_bytes())).load()
        infos = {(index.fqn, getattr(index, "offset", None)): info for index, info in found.storage_data.items()}
        return _fields(found.state_dict_metadata, infos)
    except (
        pickle.UnpicklingError,
        AttributeError,
        EOFError,
        ImportError,
        LookupError,
        MemoryError,
        OverflowError,
        TypeError,
        ValueError,
    ) as error:
        raise DamagedError(
            f"{path}: no metadata of a checkpoint ({integrity.first_line(error) or type(error).__name__}); refused"
        ) from None
