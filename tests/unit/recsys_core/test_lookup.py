"""The catalogue: the folder is the list, and a wrong name is answered with the nearest."""

import sys
from typing import Annotated

import pytest
from pydantic import ValidationError

from recsys_core import lookup
from recsys_core.artifacts import ComponentConfig, Frozen
from recsys_core.lookup import OneOf


class Run(Frozen):
    sampler: Annotated[ComponentConfig, OneOf("recsys_core.samplers", default="weighted")]
    feature: Annotated[Frozen, OneOf("recsys_core.features")] | None = None


def test_kinds_are_the_files_but_the_contract():
    known = lookup.kinds("recsys_core.features")
    assert list(known) == sorted(known)
    assert {"id", "raw", "sequence"} <= set(known)
    assert "base" not in known


def test_a_wrong_kind_is_answered_with_the_nearest():
    with pytest.raises(
        ValueError,
        match=r"features: unknown kind 'sequense' \(known: .*, id, .*\); did you mean 'seq",
    ):
        lookup.component("recsys_core.features", "sequense")


def test_a_users_own_module_is_a_kind(tmp_path, monkeypatch):
    package = tmp_path / "mypackage"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "mysampler.py").write_text(
        "from typing import Literal\nfrom recsys_core.artifacts import Frozen\n"
        "class Config(Frozen):\n    kind: Literal['mypackage.mysampler']\n    depth: int = 3\n"
        "class Sampler:\n    pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    run = Run.model_validate({"sampler": {"kind": "mypackage.mysampler", "depth": 4}})
    assert Run.model_validate_json(run.model_dump_json()) == run
    for missing in ("mypackage.other", "nopackage.other"):
        with pytest.raises(ValueError, match="no such module; is its package installed"):
            lookup.component("recsys_core.samplers", missing)


def test_the_class_of_a_folder_is_imported_when_it_is_wanted(tmp_path, monkeypatch):
    for name, content in (("whole", "class Sampler:\n    pass\n"), ("broken", "1 / 0\n"), ("empty", None)):
        folder = tmp_path / "parted" / name
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text(
            "from recsys_core.artifacts import Frozen\nclass Config(Frozen):\n    pass\n"
        )
        if content is not None:
            (folder / "sampler.py").write_text(content)
    monkeypatch.syspath_prepend(str(tmp_path))
    lookup.component("recsys_core.samplers", "parted.whole")
    assert "parted.whole.sampler" not in sys.modules
    assert lookup.content("recsys_core.samplers", "parted.whole").__name__ == "Sampler"
    lookup.component("recsys_core.samplers", "parted.broken")
    with pytest.raises(ValueError, match=r"importing .*broken/sampler.py failed: ZeroDivisionError"):
        lookup.content("recsys_core.samplers", "parted.broken")
    with pytest.raises(ValueError, match="'parted.empty': has no Sampler"):
        lookup.component("recsys_core.samplers", "parted.empty")


def test_our_models_are_folders_beside_what_is_no_kind():
    known = lookup.kinds("recsys_core.models")
    assert {"dlrm", "two_tower"} <= set(known)
    assert not {"base", "blocks"} & set(known)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("json.decoder", "a module of Python itself"),
        ("idlelib.idle", "a module of Python itself"),
        (".x", "no such module"),
        ("x.", "no such module"),
        ("..", "no such module"),
        ("os.path\0", "no such module"),
        ("pyarrow.parquet", "defines no Config"),
        ("recsys_core.ops.linear", "defines no Config"),
        ("recsys_core.gate", "has no Sampler; a component of samplers has a Config and Sampler"),
        ("mypackage.writes", "defines no Config"),
        ("mypackage.fails", r"importing .*fails.py failed: ZeroDivisionError: division by zero"),
        ("mypackage.ends", r"importing .*ends.py failed: SystemExit: 3"),
        ("mypackage.broken", r"broken.py: not Python: "),
        ("mypackage.another", "its Config is no pydantic model"),
    ],
)
def test_a_module_that_is_no_component_is_refused_and_not_run(tmp_path, monkeypatch, kind, expected):
    package = tmp_path / "mypackage"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "writes.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    (package / "fails.py").write_text("from json import decoder as Config\n1 / 0\n")
    (package / "ends.py").write_text("Config = None\nraise SystemExit(3)\n")
    (package / "broken.py").write_text("class Config(:\n")
    (package / "another.py").write_text("class Config:\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.startswith("mypackage")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ValueError, match=expected):
        lookup.component("recsys_core.samplers", kind)
    assert not (tmp_path / "ran").exists()


def test_a_section_round_trips_and_a_default_kind_may_be_left_out():
    run = Run.model_validate({"sampler": {"num_negatives": 5}})
    assert run.model_dump(mode="json")["sampler"] == {"kind": "weighted", "num_negatives": 5, "weights": None}
    assert Run.model_validate_json(run.model_dump_json()) == run


def test_bad_sections_name_the_key():
    with pytest.raises(ValidationError, match=r"sampler\.num_negativs"):
        Run.model_validate({"sampler": {"num_negativs": 5}})
    with pytest.raises(ValidationError, match="kind: missing; say which of .*, id, .*, raw, sequence"):
        Run.model_validate({"sampler": {}, "feature": {"name": "x"}})


def test_the_json_schema_lists_the_kinds():
    properties = Run.model_json_schema()["properties"]
    assert [entry["properties"]["kind"]["const"] for entry in properties["sampler"]["oneOf"]] == [
        "impressions",
        "weighted",
    ]
