"""How tensors go to a checkpoint and come back: in chunks, so that no copy of a whole table is ever in memory.

shard of a table   rows 0 ... 999,999 | 1,000,000 ... 1,999,999 | ...
in the file        a piece            | a piece                 | ...
"""

import dataclasses
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.distributed._shard.sharded_tensor.api import ShardedTensor
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, Metadata, MetadataIndex, TensorStorageMetadata
from torch.distributed.checkpoint.planner import LoadPlan, SavePlan, WriteItem, WriteItemType
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list

from recsys_core.checkpoint import storage

_CHUNK_BYTES = 1 << 26


class Save(DefaultSavePlanner):
    """Cuts shards into chunks.

    A writer copies what it writes where that is a part of a larger memory, as shards are; a reader reads a whole piece
    before it copies it to its place.
    """

    def create_local_plan(self) -> SavePlan:
        """Plan this rank's chunks."""
        whole = super().create_local_plan()
        self.plan = dataclasses.replace(whole, items=[piece for item in whole.items for piece in _cut(item)])
        return self.plan

    def lookup_object(self, index: MetadataIndex) -> Any:
        """Return what an item of the plan writes; `resolve_data` narrows it to the item's rows."""
        held = self.state_dict.get(index.fqn)
        if not isinstance(held, ShardedTensor):
            return super().lookup_object(index)
        assert index.offset is not None
        row, *rest = index.offset
        for shard in held.local_shards():
            first, *others = shard.metadata.shard_offsets
            if others == rest and first <= row < first + max(len(shard.tensor), 1):
                return shard.tensor[row - first :]
        raise AssertionError(f"no shard of {index.fqn} holds {index.offset}")

    def transform_object(self, write_item: WriteItem, object: Any) -> Any:  # noqa: A002 - the base class's name
        """Return the rows of the item."""
        made = super().transform_object(write_item, object)
        if write_item.type != WriteItemType.SHARD:
            return made
        assert write_item.tensor_data is not None
        return made[: write_item.tensor_data.chunk.sizes[0]]


class Load(storage.Planner):
    """Reads what there is of tensors that have grown since they were saved."""

    def __init__(self, grown: Collection[str]) -> None:
        """`grown` are the keys that may have more rows than were saved."""
        super().__init__()
        self._grown = grown

    def set_up_planner(
        self, state_dict: dict[str, Any], metadata: Metadata | None = None, is_coordinator: bool = False
    ) -> None:
        """Give the planner the present sizes; which rows were saved is in the metadata's chunks."""
        assert metadata is not None
        sizes = {key: value.size() for key, value in flat(state_dict).items() if key in self._grown}
        stored = {
            key: dataclasses.replace(meta, size=sizes[key])
            if key in sizes and isinstance(meta, TensorStorageMetadata)
            else meta
            for key, meta in metadata.state_dict_metadata.items()
        }
        super().set_up_planner(state_dict, dataclasses.replace(metadata, state_dict_metadata=stored), is_coordinator)


def flat(state: Any, prefix: str = "") -> dict[str, Any]:
    """Return the tensors of nested sections by key, as a checkpoint names them: `model.query.layers.0.weight`."""
    if not isinstance(state, dict):
        return {prefix: state}
    found: dict[str, Any] = {}
    for key, value in state.items():
        found |= flat(value, f"{prefix}.{key}" if prefix else str(key))
    return found


def _cut(item: WriteItem) -> Iterator[WriteItem]:
    data = item.tensor_data
    if item.type != WriteItemType.SHARD or data is None or not data.chunk.sizes.numel():
        yield item
        return
    num_rows, *widths = data.chunk.sizes
    first, *others = data.chunk.offsets
    row_bytes = torch.Size(widths).numel() * data.properties.dtype.itemsize
    step = max(_CHUNK_BYTES // row_bytes, 1)
    for start in range(0, num_rows, step):
        offsets = torch.Size([first + start, *others])
        sizes = torch.Size([min(step, num_rows - start), *widths])
        yield dataclasses.replace(
            item,
            index=MetadataIndex(item.index.fqn, offsets),
            tensor_data=dataclasses.replace(data, chunk=ChunkStorageMetadata(offsets, sizes)),
        )


class Stored:
    """The tensors of a checkpoint, read a piece at a time without other ranks, whatever shards wrote them.

    Attributes:
        sizes: of each tensor, by key.
    """

    def __init__(self, directory: Path) -> None:
        """Read the metadata of the checkpoint in `directory`.

        Raises:
            ValueError: there is none, or it is damaged.
        """
        self._directory, self._reader = directory, storage.Reader(directory)
        metadata = self._reader.read_metadata()
        self._reader.set_up_storage_reader(metadata, is_coordinator=True)
        held = metadata.state_dict_metadata.items()
        self._tensors = {key: meta for key, meta in held if isinstance(meta, TensorStorageMetadata)}
        self.sizes = {key: meta.size for key, meta in self._tensors.items()}

    def chunks(self, key: str) -> list[ChunkStorageMetadata]:
        """Return where the chunks of a tensor lie in it."""
        return self._tensors[key].chunks

    def read(self, key: str, piece: ChunkStorageMetadata | None = None) -> torch.Tensor:
        """Return a piece of a tensor, or all of it.

        Raises:
            ValueError: a file of the checkpoint is damaged; names it.
        """
        meta = self._tensors[key]
        piece = piece or ChunkStorageMetadata(torch.Size([0] * len(meta.size)), meta.size)
        made = torch.empty(piece.sizes, dtype=meta.properties.dtype)
        plan = LoadPlan(create_read_items_for_chunk_list(key, meta, [piece]))
        self._reader.read_data(plan, _Into(made)).wait()
        return made


class _Into(storage.Planner):
    """Reads one piece of one tensor into memory."""

    def __init__(self, made: torch.Tensor) -> None:
        super().__init__()
        self._made = made

    def lookup_tensor(self, index: MetadataIndex) -> torch.Tensor:  # noqa: ARG002 - there is one only
        return self._made
