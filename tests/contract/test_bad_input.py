"""What is bad in a source is an error that names the file or table, the rows, and what to do; nothing is skipped."""

import datetime
import gzip
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import orc

from recsys_core import readers
from recsys_core.datasets import _checks
from recsys_core.datasets.labelled import splits
from recsys_core.features import Config as Features
from recsys_core.features import Engine
from recsys_core.odps.credentials import Keys
from recsys_core.odps.emulator import Emulator, Fault
from recsys_core.progress import silent
from recsys_core.ranking import Config as Ranking
from recsys_core.ranking import prepare
from recsys_core.readers import odps

NOISE = np.random.default_rng(0).bytes(1_000_000)


def _read(path: Path | str) -> None:
    reader = readers.build(readers.infer(str(path)))
    for block in range(len(reader.block_rows)):
        reader.read(block, reader.schema.names)


def _rows(folder: Path, name: str, **columns: object) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns or {"row": range(100_000), "x": np.random.default_rng(1).random(100_000)}), path)
    return path


def _truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _hole(path: Path) -> None:
    """Overwrite the middle, as a bad disk does."""
    whole = path.read_bytes()
    path.write_bytes(whole[:2_000] + NOISE[: len(whole) // 2] + whole[2_000 + len(whole) // 2 :])


def _parquet_truncated(folder: Path) -> None:
    _truncated(_rows(folder, "a.parquet"))


def _parquet_damaged(folder: Path) -> None:
    _hole(_rows(folder, "a.parquet"))


def _orc_truncated(folder: Path) -> None:
    orc.write_table(pa.table({"row": range(100_000)}), folder / "a.orc")
    _truncated(folder / "a.orc")


def _gzip_truncated(folder: Path) -> None:
    (folder / "a.csv.gz").write_bytes(gzip.compress(b"a,b\n" + b"1,2\n" * 9_000_000))
    _truncated(folder / "a.csv.gz")


def _other_magic(name: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / name).write_bytes(NOISE)

    return write


def _mixed(folder: Path) -> None:
    _rows(folder, "a.parquet", row=[1], city=["x"])
    _rows(folder, "b.parquet", row=[1.5], city=["x"])


def _other_type_on_another_day(folder: Path) -> None:
    _rows(folder, "ds=2024-01-01/a.parquet", row=[1])
    _rows(folder, "ds=2024-01-02/a.parquet", row=["1"])


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (_parquet_truncated, r"a\.parquet: not a readable Parquet file .*write it again or remove it"),
        (_parquet_damaged, r"a\.parquet: row group 0 \(rows 0 to 100000\) cannot be read .*write the file again"),
        (_orc_truncated, r"a\.orc: not a readable ORC file .*write it again or remove it"),
        (_gzip_truncated, r"a\.csv\.gz: the gzip file ends in the middle; fetch it again"),
        (_other_magic("a.parquet"), r"a\.parquet: not a readable Parquet file .*write it again or remove it"),
        (_other_magic("a.orc"), r"a\.orc: not a readable ORC file .*write it again or remove it"),
        (
            _other_magic("a.csv.gz"),
            r"a\.csv\.gz: not a gzip file, or a damaged one, from byte 0 of its text on .*fetch it",
        ),
        (
            _mixed,
            r"b\.parquet: its schema differs from that of .*a\.parquet: row is double there and int64 here; write",
        ),
        (
            _other_type_on_another_day,
            r"ds=2024-01-02/a\.parquet: its schema differs from that of .*ds=2024-01-01/a\.parquet: row is string",
        ),
    ],
)
def test_a_bad_file_is_named_with_its_rows_and_a_remedy(
    tmp_path: Path, make: Callable[[Path], None], said: str
) -> None:
    make(tmp_path)
    with pytest.raises(ValueError, match=said):
        _read(tmp_path)


def _log(folder: Path) -> None:
    midnight = 1_704_067_200
    clicks = {"user_id": [1] * 9, "item_id": [7] * 9, "timestamp": [midnight] * 9}
    for day in (1, 2):
        at = pa.array([midnight + 86_400 * (day - 1)] * 9)
        _rows(folder, f"interactions/ds=2024-01-0{day}/a.parquet", **clicks | {"timestamp": at})
    _rows(folder, "users/ds=2024-01-01/a.parquet", user_id=[1], age=[30])
    _rows(folder, "items/ds=2024-01-01/a.parquet", item_id=[7], price=[1.0])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda log: _rows(log, "users/ds=2024-01-02/a.parquet", user_id=[2], age=["31"]),
            r"users/ds=2024-01-02/a\.parquet: column 'age' is string here and int64 in .*ds=2024-01-01.*; write all",
        ),
        (
            lambda log: _rows(log, "items/ds=2024-01-02/a.parquet", item_id=[1, None, 2], price=[1.0] * 3),
            r"items/ds=2024-01-02/a\.parquet: column 'item_id' is null in 1 rows of 0 to 3; leave those rows out",
        ),
        (
            lambda log: _rows(
                log,
                "interactions/ds=2024-01-02/b.parquet",
                user_id=[1] * 2,
                item_id=[7] * 2,
                timestamp=[1_704_153_600, 5],
            ),
            r"interactions/ds=2024-01-02/b\.parquet: 1 timestamps of rows 0 to 2 are not on 2024-01-02 in UTC, such",
        ),
    ],
)
def test_a_bad_day_is_named_with_its_rows_and_a_remedy(
    tmp_path: Path, change: Callable[[Path], object], said: str
) -> None:
    _log(tmp_path)
    _checks.check(tmp_path, datetime.date(2024, 1, 2), silent)
    change(tmp_path)
    with pytest.raises(ValueError, match=said):
        _checks.check(tmp_path, datetime.date(2024, 1, 2), silent)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        (
            {"label": [0.0, 1.0, float("nan")]},
            r"train/a.parquet: column 'label' holds nan in row 2 of rows 0 to 3; a label is 0 or 1",
        ),
        (
            {"label": [0, 1, None]},
            r"train/a.parquet: column 'label' holds None in row 2 of rows 0 to 3; a label is 0 or 1",
        ),
        (
            {"weight": [1.0, float("nan"), 1.0]},
            r"train/a.parquet: column 'weight' holds nan in row 1 of rows 0 to 3; a weight is a",
        ),
        (
            {"weight": [1.0, 1.0, float("inf")]},
            r"train/a.parquet: column 'weight' holds inf in row 2 of rows 0 to 3; a weight is a",
        ),
        (
            {"weight": [-1.0, 1.0, 1.0]},
            r"train/a.parquet: column 'weight' holds -1\.0 in row 0 of rows 0 to 3; a weight is a",
        ),
    ],
)
def test_labels_and_weights_that_are_none_are_named_with_their_row(
    tmp_path: Path, columns: dict[str, list], said: str
) -> None:
    good = {"label": [0, 1, 1], "weight": [1.0, 2.0, 3.0], "user": ["a", "b", "c"]}
    _rows(tmp_path, "train/a.parquet", **good | columns)
    request = prepare.Request(
        output=tmp_path / "out",
        config=Ranking(sample_weight="weight"),
        data=splits.Config(source=str(tmp_path), day=datetime.date(2024, 1, 1)),
        features=Features.model_validate(
            {"embedding_dim": 4, "query": [{"kind": "id", "name": "user", "num_embeddings": 4}], "item": []}
        ),
        import_root=tmp_path,
        fingerprint="f",
        config_hash="c",
        code_version="v",
    )
    with pytest.raises(ValueError, match=said):
        prepare.run(request, silent)


def test_an_id_that_no_table_holds_is_named_with_its_feature(tmp_path: Path) -> None:
    feature = {"kind": "id", "name": "user", "encoding": "identity", "num_embeddings": 4}
    engine = Engine.build(Features.model_validate({"embedding_dim": 4, "query": [feature], "item": []}))
    engine.fit([pa.table({"user": [1]})], [])
    with pytest.raises(ValueError, match=r"feature 'user', column 'user': .*4.*(raise num_embeddings|out_of_range)"):
        engine.transform(pa.table({"user": [1, 4]}), "query")


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """An emulator with a table `t` of 1,000 rows."""
    _rows(tmp_path, "odps/shop/t/a.parquet", row=range(1_000))
    _rows(tmp_path, "odps/shop/empty/ds=1/a.parquet", row=pa.array([], pa.int64()))
    with Emulator(tmp_path / "odps", [Keys("ak", "a secret")]) as running:
        for name, value in {"ACCESS_ID": "ak", "ACCESS_KEY": "a secret", "ENDPOINT": running.endpoint}.items():
            monkeypatch.setenv(f"ODPS_{name}", value)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield running


def _opened(interface: str, path: str = "odps://shop/tables/t") -> odps.Reader:
    waits = {"attempts": 3, "first_wait_seconds": 0, "most_wait_seconds": 0}
    fields = {"path": path, "rows_per_block": 400, "max_batch_rows": 100, "interface": interface, "retry": waits}
    return odps.Reader(odps.Config.model_validate(fields))


@pytest.mark.parametrize("interface", ["storage", "tunnel"])
@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        ("dropped", r"read rows 400 to 800, of which 0 came: the table, .*, is not there any more .*write it again"),
        ("expired", r"read rows 400 to 800: MaxCompute does not accept the keys .*not withdrawn or expired"),
        ("forbidden", r"read rows 400 to 800: MaxCompute does not permit it .*ask the project's owner for the right"),
        (
            "short",
            r"read rows 400 to 800: given up after 3 attempts .*(ended after row 400|null or length 0).*run it again",
        ),
        ("session", r"read rows 400 to 800.*has ended the session .*run the stage from its start"),
    ],
)
def test_what_happens_in_the_middle_of_a_table_names_it_its_rows_and_a_remedy(
    service: Emulator, tmp_path: Path, interface: str, trouble: str, said: str
) -> None:
    table = _opened(interface)
    assert table.read(0, ["row"]).num_rows == 400
    operation = "tunnel_read" if interface == "tunnel" else "read"
    if trouble == "dropped":
        shutil.rmtree(tmp_path / "odps" / "shop" / "t")
    elif trouble == "expired":
        service.keyring.replace([Keys("another", "secret")])
    elif trouble == "session":
        service.storage.forget()
        service.tunnel.forget()
    else:
        kind = "status" if trouble == "forbidden" else "short"
        service.faults.add(Fault.model_validate({"kind": kind, "operation": operation, "status": 403, "times": 99}))
    with pytest.raises(ValueError, match=f"odps://shop/tables/t: {said}") as refused:
        table.read(1, ["row"])
    assert "a secret" not in re.sub(r"as the test asked for", "", str(refused.value))


def test_a_partition_without_rows_is_a_table_without_rows(service: Emulator) -> None:
    assert _opened("auto", "odps://shop/tables/empty/ds=1").num_rows == 0
    with pytest.raises(ValueError, match="no partition 'ds=2'; it has 1, from ds=1 to ds=1"):
        _opened("auto", "odps://shop/tables/empty/ds=2")
