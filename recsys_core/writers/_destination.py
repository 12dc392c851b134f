"""Where a command's table goes: a folder, an object store's, or a MaxCompute table; replaced only if it is our own.

A folder of ours holds `_manifest.json` beside the parts, which readers of tables pass over. On an object store nothing
can be renamed: while the parts are copied there, `_partial.json` stands in its place.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import fsspec

from recsys_core import integrity, lookup, uri
from recsys_core.artifacts import move_into_place
from recsys_core.folders import PARTIAL
from recsys_core.odps import path as odps_path
from recsys_core.redaction import redact
from recsys_core.writers import _folder
from recsys_core.writers._folder import MARK

Format = Literal["parquet", "csv", "orc"]


class Destination:
    """A place for a table.

    Attributes:
        path: as it was named.
        is_odps: whether it is a MaxCompute table.
    """

    def __init__(self, path: str) -> None:
        """Look at the name alone.

        Raises:
            ValueError: it names no place, or several.
        """
        self.path, self.is_odps = path, path.startswith(odps_path.SCHEME)
        self._is_remote = uri.is_remote(path) and not self.is_odps
        if self.is_odps:
            odps_path.parse(path)
        elif not path.strip():
            raise ValueError("the output has no name")

    @property
    def folder(self) -> Path:
        """The local folder."""
        return Path(self.path).expanduser().absolute()

    def work(self, cache: Path) -> Path:
        """Return where to work on it: beside a local folder, so that it can be renamed; else in `cache`."""
        if self.is_odps or self._is_remote:
            return cache / integrity.digest_of(self.path)
        return self.folder.with_name(f".{self.folder.name}.work")

    def refuse_others(self) -> None:
        """Look whether what is there may be replaced.

        Raises:
            ValueError: there is something, and no command of ours wrote it. (A MaxCompute table says nothing of that:
                it is replaced if it has the same columns.)
        """
        if self.is_odps:
            return
        if self._is_remote:
            filesystem, folder = _opened(self.path)
            taken = bool(filesystem.find(folder)) and not any(
                filesystem.exists(f"{folder}/{name}") for name in (MARK, PARTIAL)
            )
        else:
            taken = self.folder.exists() and not (self.folder / MARK).is_file()
            taken = taken and not (self.folder.is_dir() and not any(self.folder.iterdir()))
        if taken:
            raise ValueError(
                f"{redact(self.path)}: exists, and no command of Dayline wrote it ({MARK} is missing); name another "
                "place, or remove it"
            )

    def publish(self, folder: Path, names: Sequence[str], manifest: Mapping[str, Any]) -> None:
        """Put the files `names` of `folder` in the place of what is there; the folder is moved, or else left."""
        self.refuse_others()
        text = integrity.sealed(manifest)
        if not self._is_remote:
            for other in folder.iterdir():
                if other.name not in names:
                    integrity.discard(other)
            integrity.write_text(folder / MARK, text)
            move_into_place(folder, self.folder)
            return
        filesystem, target = _opened(self.path)
        filesystem.pipe_file(f"{target}/{PARTIAL}", text.encode())
        for there in filesystem.find(target):
            name = str(there).rpartition("/")[2]
            if name != PARTIAL:
                filesystem.rm_file(there)
        for name in names:
            filesystem.put_file(str(folder / name), f"{target}/{name}")
        filesystem.pipe_file(f"{target}/{MARK}", text.encode())
        filesystem.rm_file(f"{target}/{PARTIAL}")


def part_files(kind: Format, folder: Path) -> _folder.Table:
    """Return what opens and counts part files of a format in a local folder."""
    writer = lookup.component("recsys_core.writers", kind)
    return writer.Table(writer.Config(path=str(folder)))


def _opened(path: str) -> tuple[fsspec.AbstractFileSystem, str]:
    try:
        filesystem, folder = fsspec.core.url_to_fs(path)
    except (ValueError, ImportError) as error:
        raise ValueError(f"{redact(path)}: cannot be opened ({integrity.first_line(error)})") from None
    # What it was asked before may have changed.
    filesystem.invalidate_cache()
    return filesystem, folder.rstrip("/")
