"""Where a command's table goes: what may be replaced, and what an object store that renames nothing shows meanwhile."""

import json

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys_core import readers
from recsys_core.writers import Destination


def _parts(folder, *values):
    folder.mkdir()
    for number, value in enumerate(values):
        pq.write_table(pa.table({"n": [value]}), folder / f"part-{number:05d}.parquet")
    (folder / "_parts.json").write_text("{}")
    return [f"part-{number:05d}.parquet" for number in range(len(values))]


def _numbers(path):
    return readers.read_all(readers.build(readers.infer(path)))["n"].to_pylist()


def test_a_local_folder_is_replaced_whole_if_it_is_ours(tmp_path):
    place = Destination(str(tmp_path / "out"))
    place.refuse_others()
    place.publish(tmp_path / "first", _parts(tmp_path / "first", 1, 2), {"num_rows": 2})
    assert _numbers(str(tmp_path / "out")) == [1, 2]
    place.publish(tmp_path / "second", _parts(tmp_path / "second", 3), {"num_rows": 1})
    assert _numbers(str(tmp_path / "out")) == [3]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"_manifest.json", "part-00000.parquet"}
    assert json.loads((tmp_path / "out" / "_manifest.json").read_text())["num_rows"] == 1
    (tmp_path / "out" / "_manifest.json").unlink()
    with pytest.raises(ValueError, match=r"out: exists, and no command of Dayline wrote it"):
        place.publish(tmp_path / "third", _parts(tmp_path / "third", 4), {})
    assert _numbers(str(tmp_path / "out")) == [3]
    # An empty folder holds nothing that could be lost.
    (tmp_path / "empty").mkdir()
    Destination(str(tmp_path / "empty")).refuse_others()
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="file: exists, and no command"):
        Destination(str(tmp_path / "file")).refuse_others()


def test_a_folder_of_a_bucket_is_marked_until_all_parts_are_there(tmp_path, s3, monkeypatch):
    s3.create_bucket(Bucket="vectors")
    path, store = "s3://vectors/of/items", fsspec.filesystem("s3")
    place = Destination(path)
    place.publish(tmp_path / "first", _parts(tmp_path / "first", 1, 2), {"num_rows": 2})
    assert _numbers(path) == [1, 2]

    def cut(*_, **__):
        raise OSError("the connection was lost")

    names = _parts(tmp_path / "second", 3)
    with monkeypatch.context() as patched:
        patched.setattr(store, "put_file", cut)
        with pytest.raises(OSError, match="was lost"):
            place.publish(tmp_path / "second", names, {"num_rows": 1})
    with pytest.raises(ValueError, match=r"holds _partial\.json, so its writer has not ended, or was killed"):
        readers.infer(path)
    place.publish(tmp_path / "second", names, {"num_rows": 1})
    assert _numbers(path) == [3]
    # Put there by another program, which tells this one nothing.
    s3.put_object(Bucket="vectors", Key="mine/a.parquet", Body=b"")
    with pytest.raises(ValueError, match="exists, and no command of Dayline wrote it"):
        Destination("s3://vectors/mine").refuse_others()


def test_the_work_lies_beside_a_folder_and_else_in_the_cache(tmp_path):
    assert Destination(str(tmp_path / "out")).work(tmp_path / "cache") == tmp_path / ".out.work"
    works = [Destination(path).work(tmp_path / "cache") for path in ("s3://a/b", "s3://a/c", "odps://p/tables/t")]
    assert len({*works}) == 3
    assert {work.parent for work in works} == {tmp_path / "cache"}
    with pytest.raises(ValueError, match="odps://"):
        Destination("odps://project")
    with pytest.raises(ValueError, match="has no name"):
        Destination(" ")
