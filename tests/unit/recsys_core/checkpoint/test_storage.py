"""A checkpoint's metadata is JSON; a pickle of torch's is read without what it might run; damage is seen."""

import collections
import io
import os
import pickle
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.state_dict_saver import save as save_state
from typer.testing import CliRunner

from flows.cli import app
from recsys_core import checkpoint, integrity
from recsys_core.checkpoint import files, fine_tune, storage
from recsys_core.sections.checkpoint import FineTune

STATE: dict[str, Any] = {
    "model": {"table": torch.arange(600.0).view(200, 3), "bias": torch.tensor(2.5), "empty": torch.zeros(0, 3)},
    "training": {"num_batches": torch.tensor(7), "gradients": {"bias": None}, "names": ["a", "b"]},
}


def empty() -> dict[str, Any]:
    return {
        "model": {name: torch.full_like(value, -1) for name, value in STATE["model"].items()},
        "training": {"num_batches": torch.tensor(0), "gradients": {"bias": None}, "names": ["", ""]},
    }


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    checkpoint.save_alone(tmp_path / "ours", STATE)
    return tmp_path / "ours"


@pytest.fixture
def torchs(tmp_path: Path) -> Path:
    """A checkpoint as torch writes it, and as this project did."""
    save_state(STATE, checkpoint_id=tmp_path / "torchs", no_dist=True)
    (tmp_path / "torchs" / "position.json").write_text('{"step": 3}')
    return tmp_path / "torchs"


def assert_loads(directory: Path) -> None:
    loaded = empty()
    storage.load(directory, loaded, alone=True)
    for name, value in STATE["model"].items():
        assert torch.equal(loaded["model"][name], value)
    assert int(loaded["training"]["num_batches"]) == 7
    assert loaded["training"]["names"] == ["a", "b"]
    assert loaded["training"]["gradients"]["bias"] is None


def test_both_forms_hold_the_same(ours: Path, torchs: Path) -> None:
    assert_loads(ours)
    assert_loads(torchs)
    one, two = storage.layout(ours), storage.layout(torchs)
    assert one.tensors == two.tensors
    assert one.values == two.values
    assert one.values.keys() == {"training.gradients.bias", "training.names"}
    assert one.files["__0_0.distcp"].digest == integrity.digest_of_file(ours / "__0_0.distcp")
    assert two.files == {}
    assert checkpoint.position(torchs).step == 3
    assert not list(files.diff(ours, torchs))


def test_the_metadata_is_json_and_of_no_pickle(ours: Path) -> None:
    assert integrity.read_json(ours / ".metadata")["tensors"]["model.bias"]["shape"] == []
    assert sorted(path.name for path in ours.iterdir()) == [".metadata", "__0_0.distcp", "position.json"]


class Runs:
    """Makes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


class Twin:
    """Hides what runs inside of what is allowed."""

    def __init__(self, kind: Any, target: Path) -> None:
        self.kind, self.target = kind, target

    def __reduce__(self):
        return self.kind, ((Runs(self.target),),)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("hidden", [False, True])
def test_code_in_metadata_is_not_run(torchs: Path, tmp_path: Path, protocol: int, *, hidden: bool) -> None:
    target = tmp_path / "made"
    made = Twin(torch.Size, target) if hidden else Runs(target)
    (torchs / ".metadata").write_bytes(pickle.dumps(made, protocol))
    for command in (["show", torchs], ["diff", torchs, torchs], ["convert", torchs, tmp_path / "a.safetensors"]):
        done = CliRunner().invoke(app, ["checkpoint", *map(str, command)])
        assert "system, which no checkpoint needs and which may run code" in str(done.exception)
        assert "\n" not in str(done.exception)
    with pytest.raises(ValueError, match="may run code"):
        fine_tune.load(FineTune(path=torchs), {"table": torch.zeros(200, 3)})
    assert not target.exists()


@pytest.mark.parametrize(
    "name", [b"builtins\ngetattr", b"builtins\neval", b"torch\nload", b"torch.hub\nload", b"recsys_core.launch\nrun"]
)
def test_no_other_name_is_admitted(torchs: Path, name: bytes) -> None:
    (torchs / ".metadata").write_bytes(b"c" + name + b"\n.")
    with pytest.raises(ValueError, match="which no checkpoint needs and which may run code"):
        storage.layout(torchs)


def test_a_pickle_cannot_change_what_the_next_one_is_read_with(torchs: Path, ours: Path) -> None:
    # BUILD upon a class sets its attributes: here those of the stand-in for TensorStorageMetadata.
    whole = (torchs / ".metadata").read_bytes()
    (torchs / ".metadata").write_bytes(
        b"ctorch.distributed.checkpoint.metadata\nTensorStorageMetadata\n(N(dVsize\nI1\nstb."
    )
    with pytest.raises(ValueError, match=r"\.metadata: no metadata of a checkpoint"):
        storage.layout(torchs)
    (torchs / ".metadata").write_bytes(whole)
    assert_loads(torchs)
    assert_loads(ours)


def test_values_that_are_no_tensors_run_nothing(tmp_path: Path) -> None:
    save_state({"training": {"names": Runs(tmp_path / "made")}}, checkpoint_id=tmp_path / "evil", no_dist=True)
    with pytest.raises(ValueError, match=r"evil: damaged, it cannot be read \(Weights only load failed"):
        storage.load(tmp_path / "evil", {"training": {"names": None}}, alone=True)
    assert not (tmp_path / "made").exists()


def test_a_tensor_file_that_holds_code_runs_nothing(torchs: Path, tmp_path: Path) -> None:
    content = io.BytesIO()
    torch.save({"a": Runs(tmp_path / "made")}, content)
    whole = (torchs / "__0_0.distcp").stat().st_size
    (torchs / "__0_0.distcp").write_bytes(content.getvalue().ljust(whole, b"\0"))
    with pytest.raises(ValueError, match="torchs: damaged"):
        storage.load(torchs, empty(), alone=True)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("place", [0.1, 0.4, 0.9])
def test_a_flipped_bit_is_seen_by_who_reads(ours: Path, place: float) -> None:
    path = ours / "__0_0.distcp"
    content = bytearray(path.read_bytes())
    content[int(len(content) * place)] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"__0_0.distcp: damaged, its content is not what was written"):
        storage.load(ours, empty(), alone=True)
    message = rf"__0_0.distcp: damaged.*; delete {ours}, and training goes on from the checkpoint before it"
    with pytest.raises(ValueError, match=message), checkpoint.resuming(ours):
        checkpoint.load(ours, empty(), alone=True)
    assert "__0_0.distcp: damaged" in str(
        CliRunner().invoke(app, ["checkpoint", "diff", str(ours), str(ours)]).exception
    )


@pytest.mark.parametrize("kind", ["ours", "torchs"])
def test_metadata_in_any_state_is_read_or_refused_in_one_line(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    directory: Path = request.getfixturevalue(kind)
    path, generator = directory / ".metadata", random.Random(3)
    whole = path.read_bytes()
    rubbish = [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"{",
        b"\x80",
        b"\x80\x04N.",
        b"}.",
        b"(" * 9_000,
        b"r\xff\xff\xff\xffN.",
        b".",
    ]
    for _ in range(20):
        rubbish.append(whole[: generator.randrange(len(whole))])
        flipped = bytearray(whole)
        flipped[generator.randrange(len(whole))] ^= 1 << generator.randrange(8)
        rubbish.append(bytes(flipped))
    messages = []
    for content in rubbish:
        path.write_bytes(content)
        try:
            storage.layout(directory)
        except ValueError as error:
            messages.append(str(error))
    assert len(messages) >= 31
    assert [text for text in messages if not text.startswith(str(directory)) or "\n" in text] == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"shape": [2**40, 3]}, "model.table of shape .* is not covered by its chunks"),
        ({"shape": [200]}, "not covered by its chunks"),
        ({"dtype": "float99"}, "of type 'float99', which torch does not have"),
        ({"dtype": "float64"}, "not covered by its chunks"),
        ({"place": {"file": "../../etc/passwd"}}, "place.file: String should match"),
        ({"place": {"file": "other"}}, "other: is missing, and model.table lies in it"),
        ({"place": {"begin": 2**50}}, "__0_0.distcp: has .* bytes, and model.table lies in it up to its end"),
    ],
)
def test_metadata_that_the_files_do_not_bear_out_is_refused(ours: Path, change: Any, expected: str) -> None:
    fields = integrity.read_json(ours / ".metadata")
    table = fields["tensors"]["model.table"]
    table["chunks"][0]["place"].update(change.pop("place", {}))
    table.update(change)
    (ours / ".metadata").write_text(integrity.sealed(fields))
    with pytest.raises(ValueError, match=expected):
        storage.layout(ours)


def test_a_position_in_any_state_is_named(ours: Path) -> None:
    path = ours / "position.json"
    for content in (
        b"",
        b"null",
        b"[]",
        b'{"step": "x"}',
        b"\x80\x04",
        path.read_bytes().replace(b'"step": 0', b'"step": 9'),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"position.json: damaged") as raised:
            checkpoint.position(ours)
        assert "\n" not in str(raised.value)


def test_ordered_dicts_of_older_metadata_are_read(torchs: Path) -> None:
    metadata = pickle.loads((torchs / ".metadata").read_bytes())
    metadata.state_dict_metadata = collections.OrderedDict(metadata.state_dict_metadata)
    (torchs / ".metadata").write_bytes(pickle.dumps(metadata))
    assert_loads(torchs)
