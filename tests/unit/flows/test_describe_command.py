"""`dayline describe`: its three forms, and what it refuses."""

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from flows.cli import app

SECTIONS = {
    "name": "m",
    "data": {"kind": "splits", "source": "d", "day": "2024-01-01"},
    "ranking": {},
    "features": {
        "embedding_dim": 4,
        "query": [{"kind": "id", "name": "user", "num_embeddings": 10}],
        "item": [{"kind": "id", "name": "item", "num_embeddings": 20}],
    },
    "model": {"kind": "multi_tower", "towers": [{"hidden": [8]}], "hidden": [4]},
}


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "m.yaml"
    path.write_text(yaml.safe_dump(SECTIONS))
    return str(path)


def _described(*arguments: str) -> str:
    found = CliRunner().invoke(app, ["describe", *arguments], env={"COLUMNS": "160"})
    assert found.exit_code == 0, found.output
    return found.stdout


def test_tables_json_and_a_diagram(config: str) -> None:
    shown = _described(config)
    for words in ("embedding tables", "user", "head.deep", "FLOPs per example", "with tables"):
        assert words in shown
    found = json.loads(_described(config, "--json"))
    assert found["num_parameters"] == 120 + 8 * 8 + 8 + 8 * 4 + 4 + 5
    assert found["flops"] == 2 * (8 * 8 + 8 * 4 + 4)
    assert _described(config, "--mermaid").startswith("flowchart LR\n")


def test_a_change_of_the_config_is_described(config: str) -> None:
    found = json.loads(_described(config, "--json", "--set", "features.embedding_dim=8"))
    assert found["tables"][0]["embedding_dim"] == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--mermaid", "--json"), "print one of them"),
        (("--set", "model.kind=fm"), "model.hidden: unknown key"),
        (("--set", "model={kind: wide_and_deep, wide_only: [town]}"), "there is no feature 'town'"),
    ],
)
def test_what_cannot_be_described_is_refused(config: str, arguments: tuple[str, ...], message: str) -> None:
    found = CliRunner().invoke(app, ["describe", config, *arguments], env={"COLUMNS": "300"})
    assert found.exit_code == 2
    assert message in found.output
