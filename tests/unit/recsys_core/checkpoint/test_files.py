"""Checkpoints as files: what is in one, how two differ, and nothing that a foreign file could run."""

import json
import os
import pickle
import struct
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from flows.cli import app
from recsys_core import checkpoint
from recsys_core.checkpoint import files, fine_tune, safetensors
from recsys_core.sections.checkpoint import FineTune, locate

WEIGHTS = {"tables.city": torch.arange(6.0).view(3, 2), "head.weight": torch.ones(1, 2), "head.bias": torch.zeros(1)}


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A checkpoint as a training's folder holds it, with a moving average of one parameter."""
    state = {"model": WEIGHTS, "average": {"head.weight": torch.full((1, 2), 5.0)}}
    checkpoint.save_alone(tmp_path / "train" / "state", state)
    return tmp_path / "train"


def test_a_checkpoint_is_described_without_reading_it(made: Path) -> None:
    records = files.describe(locate(made))
    assert [(record.key, record.shape, record.dtype, record.num_bytes) for record in records] == [
        ("average.head.weight", (1, 2), "float32", 8),
        ("model.head.bias", (1,), "float32", 4),
        ("model.head.weight", (1, 2), "float32", 8),
        ("model.tables.city", (3, 2), "float32", 24),
    ]
    shown = CliRunner().invoke(app, ["checkpoint", "show", str(made), "--json"])
    assert json.loads(shown.stdout)[3]["shape"] == [3, 2]
    assert "step 0, 4 tensors, 44 bytes" in shown.stderr


def test_no_checkpoint_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no checkpoint there; name a training's folder"):
        locate(tmp_path)


def test_differences_are_shown_with_their_size(made: Path, tmp_path: Path) -> None:
    other = {"head.weight": torch.tensor([[1.0, 3.0]]), "head.bias": torch.zeros(2), "new": torch.zeros(1)}
    checkpoint.save_alone(tmp_path / "other", {"model": {**other, "tables.city": WEIGHTS["tables.city"]}})
    found = {one.key: one for one in files.diff(made / "state", tmp_path / "other")}
    assert found.keys() == {"average.head.weight", "model.head.bias", "model.head.weight", "model.new"}
    assert (found["average.head.weight"].only_in, found["model.new"].only_in) == (1, 2)
    assert found["model.head.bias"].shapes == ((1,), (2,))
    # |1 - 1| = 0 and |1 - 3| = 2: the root of (0 + 4) / 2.
    assert found["model.head.weight"].max_absolute == 2
    assert found["model.head.weight"].root_mean_square == pytest.approx(2**0.5)
    shown = CliRunner().invoke(app, ["checkpoint", "diff", str(made), str(tmp_path / "other")])
    assert shown.exit_code == 1
    assert "model.new" in shown.stdout
    same = CliRunner().invoke(app, ["checkpoint", "diff", str(made), str(made)])
    assert (same.exit_code, same.stderr) == (0, "no difference\n")


@pytest.mark.parametrize("name", ["model.pt", "model.safetensors"])
def test_there_and_back(made: Path, tmp_path: Path, name: str) -> None:
    file, back = tmp_path / name, tmp_path / "back"
    assert CliRunner().invoke(app, ["checkpoint", "convert", str(made), str(file)]).exit_code == 0
    held = files.read_state_dict(file)
    assert torch.equal(held["head.weight"], torch.full((1, 2), 5.0))
    assert torch.equal(held["tables.city"], WEIGHTS["tables.city"])
    assert CliRunner().invoke(app, ["checkpoint", "convert", str(file), str(back)]).exit_code == 0
    assert [record.key for record in files.describe(back)] == [
        "model.head.bias",
        "model.head.weight",
        "model.tables.city",
    ]
    again = CliRunner().invoke(app, ["checkpoint", "convert", str(file), str(back)])
    assert "exists; name a folder that does not" in str(again.exception)


def test_safetensors_keep_types_and_shapes(tmp_path: Path) -> None:
    held = {
        "half": torch.tensor([[1.5, -2.0]], dtype=torch.bfloat16),
        "ids": torch.tensor([2**40]),
        "none": torch.zeros(0, 3),
        "one": torch.tensor(7.0),
        "yes": torch.tensor([True, False]),
        "turned": torch.arange(6.0).view(2, 3).T,
    }
    safetensors.save(tmp_path / "a.safetensors", held)
    for name, tensor in safetensors.load(tmp_path / "a.safetensors").items():
        assert tensor.dtype == held[name].dtype
        assert torch.equal(tensor, held[name])


class _Runs:
    def __reduce__(self):
        return os.system, ("true",)


def _header(fields: object) -> bytes:
    text = json.dumps(fields).encode()
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.bin", b"", r"a state dict is a file \.pt"),
        ("a.pt", b"PK nonsense", "no state dict of torch's|holds more than tensors"),
        ("a.pt", pickle.dumps(_Runs()), "holds more than tensors, and reading that could run its code"),
        ("a.safetensors", b"x", "its header is no JSON"),
        ("a.safetensors", _header([]), "its header is no JSON"),
        ("a.safetensors", _header({"w": {"dtype": "F8"}}), "tensor w has a header that is not understood"),
        (
            "a.safetensors",
            _header({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}),
            "tensor w does not lie at 0…8; the file is damaged",
        ),
    ],
)
def test_a_foreign_file_that_is_no_state_dict_is_refused(
    tmp_path: Path, name: str, content: bytes, expected: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=expected):
        files.read_state_dict(tmp_path / name)


def test_a_nested_checkpoint_of_another_program_is_refused(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "model": {}}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"not tensors by name; save model.state_dict\(\) alone"):
        files.read_state_dict(tmp_path / "a.pt")
    with pytest.raises(ValueError, match="no such file"):
        files.read_state_dict(tmp_path / "b.pt")
    with pytest.raises(ValueError, match=r"write a file \.pt"):
        files.write_state_dict(tmp_path / "a.bin", {})


def test_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    for name in ("step-9", "step-10", "step-20", ".step-30.partial"):
        (tmp_path / name).mkdir()
    files.keep_newest(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-10", "step-20"]


def test_list_says_when_there_is_nothing(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["checkpoint", "list", str(tmp_path)])
    assert done.stderr == f"{tmp_path}: no finished training\n"


def model() -> dict[str, torch.Tensor]:
    return {"tables.town": torch.zeros(3, 2), "tables.city": torch.zeros(3, 2), "head.weight": torch.zeros(1, 2)}


def test_fine_tuning_renames_and_leaves_out(made: Path, tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("tables.town\ttables.city\n\n")
    weights = model()
    config = FineTune(path=made, parameter_map=names, exclude=("head.*",))
    assert [part.name for part in fine_tune.load(config, weights)] == ["tables.town", "tables.city"]
    assert torch.equal(weights["tables.town"], WEIGHTS["tables.city"])
    assert torch.equal(weights["tables.city"], WEIGHTS["tables.city"])
    assert torch.equal(weights["head.weight"], torch.zeros(1, 2))


def test_what_the_checkpoint_lacks_may_start_anew(made: Path) -> None:
    weights = model()
    taken = fine_tune.load(FineTune(path=made, strict=False), weights)
    assert [part.name for part in taken] == ["tables.city", "head.weight"]


@pytest.mark.parametrize(
    ("fields", "names", "expected"),
    [
        ({}, None, "has no tables.town; name them in exclude"),
        ({"include": ["haed.*"]}, None, r"'haed.\*' matches no parameter of the model, which has tables.town"),
        ({"exclude": ["x"]}, None, "'x' matches no parameter"),
        ({}, "a\ttables.city", "names.txt:1: the model has no a; it has tables.town"),
        ({}, "tables.town\tb", "names.txt:1: the checkpoint has no b; it has head.bias"),
        ({}, "tables.town", "names.txt:1: 'tables.town' is not of the form new<TAB>old"),
        ({}, "tables.town tables.city\ntables.town tables.city", "names.txt:2: tables.town is there twice"),
        (
            {},
            "tables.town head.bias\nhead.weight tables.city",
            r"(?s)town: checkpoint \(1,\), model.*head.weight: check",
        ),
    ],
)
def test_what_does_not_fit_is_reported(
    made: Path, tmp_path: Path, fields: dict[str, object], names: str | None, expected: str
) -> None:
    if names is not None:
        (tmp_path / "names.txt").write_text(names)
        fields = fields | {"parameter_map": tmp_path / "names.txt"}
    with pytest.raises(ValueError, match=expected):
        fine_tune.load(FineTune.model_validate({"path": made, **fields}), model())


def test_a_map_that_is_not_there_is_an_error(made: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="parameter_map: no file"):
        fine_tune.load(FineTune(path=made, parameter_map=tmp_path / "x"), model())
