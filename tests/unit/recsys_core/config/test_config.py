"""The whole config: what it refuses across sections, what it shows, and what schema an editor gets."""

from pathlib import Path

import pytest

from recsys_core import config as configs

ROOT = Path(__file__).parents[4]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_what_is_shown_reads_back_as_the_same_config(path: Path, tmp_path: Path) -> None:
    loaded = configs.load(path)
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(configs.show(loaded))
    again = configs.load(resolved)
    assert again == loaded
    assert again.hash == loaded.hash


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_shipped_config_says_how_to_run_it(path: Path) -> None:
    comment = path.read_text().partition("\nname:")[0]
    assert f"dayline run {path.relative_to(ROOT)}" in comment


def test_the_hash_distinguishes_configs_but_not_where_runs_lie() -> None:
    plain = configs.load(CONFIGS[0])
    assert configs.load(CONFIGS[0], ["run_root=/elsewhere"]).hash == plain.hash
    assert configs.load(CONFIGS[0], ["seed=7"]).hash != plain.hash


def test_mistakes_in_components_and_across_sections_are_reported_together() -> None:
    changes = ["features.query[0].tabel=x", "model.kind=two_towers", "name=My Shop", "hitrate.ks=[5, 5]"]
    with pytest.raises(ValueError, match=".") as error:
        configs.load(ROOT / "configs" / "demo.yaml", changes)
    lines = str(error.value).splitlines()
    assert any("features.query[name=clicked].tabel: unknown key; did you mean table?" in line for line in lines)
    assert any("did you mean 'two_tower'?" in line for line in lines)
    assert any(line.startswith("--set name=My Shop: name: ") for line in lines)
    assert any(line.startswith("--set hitrate.ks=[5, 5]: hitrate.ks: ") for line in lines)


@pytest.mark.parametrize("name", ["demo", "dlrm_frappe"])
def test_tables_that_no_feature_has_are_refused(name: str) -> None:
    path = ROOT / "configs" / f"{name}.yaml"
    known = {"demo": "item_id", "dlrm_frappe": "user"}[name]
    good = [f"train.sharding.by_table.{known}=[row_wise]", f"train.sparse_optimizer.by_table.{known}=0.1"]
    configs.load(path, good)
    with pytest.raises(ValueError, match=r"train\.sharding\.by_table: there is no table 'nowhere' \(there are: "):
        configs.load(path, ["train.sharding.by_table.nowhere=[row_wise]"])
    with pytest.raises(ValueError, match=r"train\.sparse_optimizer\.by_table: there is no table 'nowhere'"):
        configs.load(path, ["train.sparse_optimizer.by_table.nowhere=0.1"])
    wide = {"compute_kernels": ["fused_uvm"]}
    message = r"by_table\.x: fused_uvm is for GPUs"
    with pytest.raises(ValueError, match=message):
        configs.load(path, ["train.sharding.device=cpu", f"train.sharding.by_table.x={wide}"])


def test_the_schema_offers_every_kind_of_a_catalogue() -> None:
    schema = configs.schema()
    kinds = {kind["properties"]["kind"]["const"] for kind in schema["properties"]["data"]["oneOf"]}
    assert {"daily", "movielens_100k", "taobao_ad", "synthetic"} <= kinds
    assert "$ref" not in str(schema["properties"])
    assert schema["additionalProperties"] is False


@pytest.mark.parametrize("split", ["{kind: leave_one_out}", "{kind: temporal, share: 0.1}"])
def test_a_split_of_the_whole_log_continues_no_release(split: str) -> None:
    path = ROOT / "configs" / "demo.yaml"
    with pytest.raises(ValueError, match=r"train\.warm_start: true, and holdout\.kind: .* set it to false"):
        configs.load(path, [f"holdout={split}"])
    cold = [f"holdout={split}", "train.warm_start=false"]
    with pytest.raises(ValueError, match=r"publish\.absorb: true, and holdout\.kind: .* set it to false"):
        configs.load(path, [*cold, "publish.absorb=true"])
    assert configs.load(path, [*cold, "publish.absorb=false"]).holdout.kind in split
