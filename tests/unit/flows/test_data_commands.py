"""`dayline data`: what it says, what it writes, and what it refuses."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from flows.data_commands import app

SMALL = ["--days", "2", "--users", "50", "--items", "30", "--interactions", "90"]


def test_generate_makes_a_log_and_says_how_to_use_it(tmp_path: Path):
    out = tmp_path / "shop"
    arguments = ["generate", "--out", str(out), *SMALL, "--first-day", "2023-12-31", "--set", "new_users_per_day=3"]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert result.stdout.startswith(f"{out}: ")
    assert "on 2 days from 2023-12-31 to 2024-01-01, 53 rows of users, 70 of items" in result.stdout
    assert f"--set data.kind=daily --set data.source={out}" in result.stderr
    assert sorted(path.name for path in out.iterdir() if path.name != ".rows.json") == [
        "interactions",
        "items",
        "users",
    ]


def test_generate_ctr_makes_labelled_rows_in_orc(tmp_path: Path):
    out = tmp_path / "ctr"
    arguments = ["generate-ctr", "--out", str(out), "--files", "1", "--rows", "7", "--max-length", "3"]
    result = CliRunner().invoke(app, [*arguments, "--set", "num_test_files=2"], catch_exceptions=False)
    assert result.stdout == f"{out}: 7 rows of train, 14 rows of test\n"
    assert len(list((out / "test").glob("*.orc"))) == 2
    refused = CliRunner().invoke(app, arguments)
    assert isinstance(refused.exception, ValueError)
    assert "exists; name another folder" in str(refused.exception)


def test_generate_ctr_makes_days_of_impressions_and_says_what_can_be_attained(tmp_path: Path):
    arguments = ["generate-ctr", "--out", str(tmp_path / "ctr"), "--days", "2", "--rows-per-day", "600"]
    shown = CliRunner().invoke(app, arguments, catch_exceptions=False)
    first, second = shown.stdout.splitlines()
    assert first.startswith("2024-01-01: 600 rows, ")
    assert "clicks, best attainable AUC 0." in second
    assert f"--set data.kind=labelled_days --set data.source={tmp_path / 'ctr'}" in shown.stderr
    assert len(list((tmp_path / "ctr").glob("ds=2024-01-0?/*.parquet"))) == 2
    again = CliRunner().invoke(app, [*arguments, "--overwrite", "--json"], catch_exceptions=False)
    made = json.loads(again.stdout)
    assert [day["day"] for day in made] == ["2024-01-01", "2024-01-02"]
    assert f"AUC {made[1]['auc']:.4f}" in second
    mixed = CliRunner().invoke(app, [*arguments, "--files", "1"])
    assert "are of splits; with --days say" in _unwrapped(mixed.output)
    alone = CliRunner().invoke(app, ["generate-ctr", "--out", str(tmp_path / "x"), "--rows-per-day", "5"])
    assert "goes with --days" in _unwrapped(alone.output)


def test_criteo_s_shape_is_made_and_imported(tmp_path: Path):
    raw = ["generate", "--shape", "criteo", "--out", str(tmp_path / "raw"), "--rows", "700"]
    shown = CliRunner().invoke(app, raw, catch_exceptions=False)
    assert shown.stdout.startswith(f"{tmp_path / 'raw'}: 700 rows, ")
    made = json.loads(CliRunner().invoke(app, [*raw, "--overwrite", "--json"], catch_exceptions=False).stdout)
    assert f"{made['num_clicks']} clicks, best attainable AUC {made['auc']:.4f}" in shown.stdout
    arguments = ["import", "criteo", str(tmp_path / "raw")]
    splits = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "splits")], catch_exceptions=False)
    assert splits.stdout == f"{tmp_path / 'splits'}: 600 rows of train, 50 rows of valid, 50 rows of test\n"
    assert f"--set data.kind=splits --set data.source={tmp_path / 'splits'}" in splits.stderr
    by_day = ["--by-day", "--set", "ids=hash", "--set", "num_embeddings=99", "--out", str(tmp_path / "days")]
    days = CliRunner().invoke(app, [*arguments, *by_day], catch_exceptions=False)
    assert "100 rows of ds=2014-06-24, " in days.stdout
    assert "data.kind=labelled_days" in days.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "--shape", "criteo", "--users", "5"], "are of a shop"),
        (["generate", "--rows", "5"], "--rows and --json are of --shape criteo"),
        (["import", "criteo", "raw", "--day", "2024-01-01"], "are of other kinds than criteo"),
        (["import", "interactions", "raw", "--by-day"], "--by-day is of criteo"),
    ],
)
def test_options_of_another_shape_are_refused(tmp_path: Path, arguments: list[str], message: str):
    refused = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "out")])
    assert refused.exit_code == 2
    assert message in _unwrapped(refused.output)


def test_import_takes_plain_text_and_leaves_nothing_of_a_bad_file(tmp_path: Path):
    source, out = tmp_path / "lines.txt", tmp_path / "log"
    source.write_text("1 5 946684800\n2 x 946684801\n")
    arguments = ["import", "interactions", str(source), "--out", str(out)]
    made = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert f"{out}: 2 interactions on 1 days from 2000-01-01 to 2000-01-01, 2 rows of users, 2 of items" in made.stdout
    again = CliRunner().invoke(app, arguments)
    assert "exists; name another folder" in str(again.exception)
    source.write_text("1 5 946684800\n2 x\n")
    refused = CliRunner().invoke(app, [*arguments, "--overwrite"])
    assert "lines.txt: line 2: 2 values where there are 3 columns" in str(refused.exception)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lines.txt", "log"]
    assert pq.ParquetFile(out / "items" / "ds=2000-01-01" / "part-00000.parquet").read()["item_id"].to_pylist() == [
        "5",
        "x",
    ]


def _unwrapped(message: str) -> str:
    return " ".join(message.replace("│", " ").split())


def test_import_takes_the_published_names_of_data_sets(tmp_path: Path):
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "u.data").write_text("1\t1\t3\t874724710\n1\t2\t5\t874724720\n")
    (raw / "u.user").write_text("1|24|M|writer|85711\n")
    (raw / "u.genre").write_text("unknown|0\nDrama|1\n")
    (raw / "u.item").write_text("1|A (1990)|||x|0|1\n2|B|||x|1|0\n")
    arguments = ["import", "movielens-100k", str(raw), "--out", str(tmp_path / "log"), "--set", "min_rating=4"]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert "log: 1 interactions on 1 days from 1997-09-20 to 1997-09-20, 1 rows of users, 2 of items" in result.stdout
    again = CliRunner().invoke(app, [*arguments, "--overwrite"], catch_exceptions=False)
    assert again.exit_code == 0


def test_one_day_of_tables_goes_into_a_log(tmp_path: Path):
    tables = {"interactions": {"user_id": [1], "item_id": [7]}, "users": {"user_id": [1]}, "items": {"item_id": [7]}}
    for day in (1, 2):
        for name, rows in tables.items():
            place = tmp_path / name / f"ds=2024-01-0{day}"
            place.mkdir(parents=True)
            at = {"timestamp": [1_704_067_200 + 86_400 * (day - 1)]} if name == "interactions" else {}
            pq.write_table(pa.table(rows | at), place / "a.parquet")
    source = "{" + ", ".join(f"{name}: {tmp_path / name}" for name in tables) + "}"
    arguments = ["import", "tables", source, "--out", str(tmp_path / "log"), "--day", "2024-01-02"]
    for _ in range(2):
        result = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert "1 interactions on 1 days from 2024-01-02 to 2024-01-02, 1 rows of users, 1 of items" in result.stdout
    assert [path.name for path in (tmp_path / "log" / "users").iterdir()] == ["ds=2024-01-02"]
    arguments[2] = "{interactions: [}"
    with pytest.raises(ValueError, match=r"\{interactions: \[\} is no mapping .*: not YAML"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["import", "movielens-10k", "raw"], r"unknown kind 'movielens_10k' .*did you mean 'movielens_100k'"),
        (["import", "movielens-1m", "{0}/none.zip"], r"none.zip: no such file or directory"),
        (["import", "taobao-ad", "https://127.0.0.1:1/a.zip"], "needs a pinned checksum"),
        (
            ["import", "taobao-ad", "raw", "--set", "clicks=false"],
            "clicks=false: clicks: unknown key; did you mean clicks_o",
        ),
        (["import", "movielens-1m", "{0}", "--checksum", "md5:1"], "checksum 'md5:1': write sha256"),
        (
            ["generate", "--days", "0"],
            "dayline data generate: num_days: input should be greater than or equal to 2, found 0",
        ),
        (["generate", "--first-day", "9999-12-30"], "num_days: 2 days are left from 9999-12-30 to 9999-12-31; ask for"),
        (
            ["generate", "--days", "99999"],
            "dayline data generate: num_days: 99,999 is beyond 36,525 .*a hundred",
        ),
        (["generate", "--interactions", "9999999999"], "interactions_per_day: 9,999,999,999 is beyond"),
        (["generate-ctr", "--max-length", "9999999999"], "generate-ctr: max_length: 9,999,999,999 is beyond"),
        (["import", "tables", "{{a: 1, a: 2}}"], "no mapping .*: key 'a' is in line 1 too"),
        (["import", "tables", "{{a: !!timestamp x}}"], "no mapping .*: not YAML: x: "),
        (["import", "tables", "{{" * 5_000], "no mapping .*: nested too deeply"),
        (["generate", "--set", "drift=much"], "--set drift=much: drift: input should be a valid number"),
    ],
)
def test_a_mistake_is_named_and_nothing_is_written(tmp_path: Path, arguments: list[str], message: str):
    given = [argument.format(tmp_path) for argument in arguments]
    with pytest.raises(ValueError, match=message):
        CliRunner().invoke(app, [*given, "--out", str(tmp_path / "log")], catch_exceptions=False)
    assert list(tmp_path.iterdir()) == []


def test_the_help_teaches():
    for command in ("generate", "import"):
        assert f"dayline data {command}" in " ".join(CliRunner().invoke(app, [command, "--help"]).stdout.split())


def test_profile_prints_a_table_or_json_and_writes_picture_and_schema(tmp_path: Path):
    rows = {"user_id": [1, 2, None], "label": [0, 1, 1], "score": [0.5, float("nan"), 2.0], "tags": [["a"], [], ["b"]]}
    folder = tmp_path / "clicks" / "ds=2024-01-01"
    folder.mkdir(parents=True)
    pq.write_table(pa.table(rows), folder / "part.parquet")
    arguments = ["profile", str(tmp_path / "clicks")]
    written = ["--schema", str(tmp_path / "c.yaml"), "--plot", str(tmp_path / "p.png")]
    result = CliRunner().invoke(app, [*arguments, "--json", *written], catch_exceptions=False)
    found = json.loads(result.stdout)
    assert found["rows"] == 3
    assert found["columns"]["user_id"] | {"type": "int64", "nulls": 1, "distinct": 2} == found["columns"]["user_id"]
    assert found["columns"]["label"]["tags"] == ["label"]
    assert "clicks:\n    user_id: {type: int64, tags: [user, id]}  # 'user' is in" in (tmp_path / "c.yaml").read_text()
    assert (tmp_path / "p.png").stat().st_size > 1_000
    shown = CliRunner().invoke(app, [*arguments, "--columns", "score, user_id"], catch_exceptions=False)
    assert "3 rows" in shown.stdout
    assert "33.3%" in shown.stdout
    assert "1 NaN" in shown.stdout
    assert "ds: 1 partitions, 2024-01-01 to 2024-01-01" in shown.stdout
    assert "label" not in shown.stdout
    with pytest.raises(ValueError, match="is written as"):
        CliRunner().invoke(app, [*arguments, "--plot", "p.pdf"], catch_exceptions=False)
