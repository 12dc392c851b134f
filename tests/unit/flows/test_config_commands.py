"""`dayline config`: mistakes before a run, the whole config, and the schema."""

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from flows.cli import app

DEMO = str(Path(__file__).parents[3] / "configs" / "demo.yaml")


def test_check_says_what_is_valid() -> None:
    done = CliRunner().invoke(app, ["config", "check", DEMO, "--set", "seed=3"])
    assert done.exit_code == 0
    assert "demo.yaml: valid, shop, config hash " in done.stdout


def test_check_prints_every_mistake_on_stderr() -> None:
    done = CliRunner().invoke(app, ["config", "check", DEMO, "--set", "trian.x=1", "--set", "seed=many"])
    assert (done.exit_code, done.stdout) == (2, "")
    lines = done.stderr.splitlines()
    assert all(line.startswith("error: --set ") for line in lines)
    assert len(lines) == 2
    assert "trian: unknown key; did you mean train?" in done.stderr


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("features.query[name=dense2].boundaries=[1,0.5]", "boundaries must be rising numbers"),
        ("features.query[name=dense2].table=sparse9", "there is no table 'sparse9'"),
        ("features.query[name=dense2].embedding_dim=4", "features that share it have one embedding_dim"),
        ("features.query[name=sparse4].pooling=none", "pooling: tile goes with tile_length"),
        ("features.query[name=sparse2].pooling=none", "'sparse2': pooling none, and multi_tower reads pooled"),
        ("features.tables[name=sparse4].name=sparse40", "tables: there is no table 'sparse40'"),
        ("model.towers[0].features=[sparse9]", "there is no feature 'sparse9' of that kind"),
        ('train.sparse_optimizer.by_table={"sparse9":0.1}', "there is no table 'sparse9'"),
        (
            '{"features.tables[0].dtype":"bfloat16","train.sharding.device":"cpu"}',
            "'sparse1': kernels for CPUs have",
        ),
    ],
)
def test_check_finds_what_does_not_go_together(setting: str, message: str) -> None:
    config = str(Path(DEMO).with_name("recis_deepctr.yaml"))
    done = CliRunner().invoke(app, ["config", "check", config, "--set", setting])
    assert (done.exit_code, done.stdout) == (2, "")
    assert message in done.stderr


def test_show_fills_in_the_defaults() -> None:
    shown = yaml.safe_load(CliRunner().invoke(app, ["config", "show", DEMO, "--set", "launch.num_ranks=4"]).stdout)
    assert shown["launch"]["num_ranks"] == 4
    assert shown["export"]["parity_rows"] > 0


def test_schema_is_json() -> None:
    schema = json.loads(CliRunner().invoke(app, ["config", "schema"]).stdout)
    assert schema["properties"].keys() >= {"data", "train", "launch"}


@pytest.mark.parametrize(
    "command", [[], ["run"], ["backfill"], ["demo"], ["config"], ["data"], ["release"], ["release", "rollback"]]
)
def test_help_teaches(command: list[str]) -> None:
    done = CliRunner().invoke(app, [*command, "--help"])
    assert done.exit_code == 0
    assert "Usage" in done.stdout


def test_a_backfill_backwards_is_refused() -> None:
    done = CliRunner().invoke(app, ["backfill", DEMO, "--from", "2024-01-05", "--to", "2024-01-04"])
    assert done.exit_code == 2
    assert "is before" in done.stderr


def test_show_and_errors_hold_no_credentials() -> None:
    uri = "tracking.uri=postgresql://u:s3c/r@t@h/x?password=s3cret"
    shown = CliRunner().invoke(app, ["config", "show", DEMO, "--set", uri])
    assert yaml.safe_load(shown.stdout)["tracking"]["uri"] == "postgresql://***@h/x?password=***"
    failed = CliRunner().invoke(
        app, ["config", "check", DEMO, "--set", uri, "--set", "tracking.tries=http://u:s3cret@h"]
    )
    assert failed.exit_code == 2
    assert "s3c" not in failed.output
