"""What a person reads: tables of ranking runs, bars on a terminal, a profile's notes, and an emulator's refusals."""

import datetime
import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from flows import cli, console, notes, profiles, release_commands
from recsys_core.artifacts import LabelledMetrics
from recsys_core.odps.emulator import Emulator
from recsys_core.progress import Event
from recsys_core.registry import ReleaseInfo
from tasks.absorbed import Absorbed
from tasks.report_ranking import RankingResult
from tasks.report_ranking_day import RankingDay

CONFIGS = Path(__file__).parents[3] / "configs"


def test_a_ranking_run_is_one_row(capsys: pytest.CaptureFixture[str]) -> None:
    fields = dict.fromkeys(LabelledMetrics.model_fields, 0.25) | {"num_rows": 391, "num_positives": 90, "others": {}}
    result = RankingResult(
        run_id="a",
        mlflow_run_id="b",
        day=datetime.date(2024, 1, 2),
        split="test",
        metrics=LabelledMetrics.model_validate(fields),
        num_examples=7_200,
        num_steps=10,
        examples_per_second=1_234.5,
        loss=0.4567,
        predictions=Path("scores"),
        stages={},
        artifacts={},
    )
    console.table([result])
    shown = capsys.readouterr().out
    assert "on the 391 rows of test" in shown
    assert "7,200" in shown
    assert "0.4567" in shown
    console.table([])
    assert capsys.readouterr().out == ""


def test_what_was_absorbed_is_one_sentence() -> None:
    fields = {"day": datetime.date(2024, 1, 3), "num_examples": 7_200, "loss": 0.45, "held_out_loss": 0.4}
    day = _ranked(2, 0.75, 0.74)
    assert notes.absorbed(day) == []
    said = notes.absorbed(day.model_copy(update={"absorbed": Absorbed(**fields)}))
    assert said == ["absorbed 2024-01-03: 7,200 examples, loss 0.4500, on the measured rows afterwards 0.4000"]
    refused = Absorbed(**fields, refused="not absorbed: the loss has risen")
    assert notes.absorbed(day.model_copy(update={"absorbed": refused})) == ["not absorbed: the loss has risen"]


def _ranked(day: int, auc: float | None, champion: float | None) -> RankingDay:
    def measured(value: float | None) -> dict[str, object]:
        figures = dict.fromkeys(LabelledMetrics.model_fields, 0.25)
        return figures | {"num_rows": 391, "num_positives": 9, "auc": value, "others": {}}

    slices = {"new_users": {"num_units": 3, "has_groups": True, "champion": None, "differences": {}}}
    live = champion is not None
    return RankingDay.model_validate(
        {
            "run_id": "a",
            "mlflow_run_id": "b",
            "day": datetime.date(2024, 1, day),
            "release": "7" if live else None,
            "decision": "live" if live else "rejected",
            "gate": {"passed": live, "reasons": ["auc is 0.7500."]},
            "metrics": measured(auc)
            | {
                "champion": measured(champion) if live else None,
                "baselines": {"rate": measured(0.5), "item_rate": measured(0.5625)},
                "differences": {},
                "slices": {"new_users": slices["new_users"] | {"metrics": measured(0.625)}},
                "num_examples": 7_200,
                "num_steps": 10,
                "examples_per_second": 1_234.5,
                "loss": 0.4567,
            },
            "holdout": {"kind": "next_day"},
            "learned": {"first_day": "2024-01-01", "last_day": "2024-01-02"},
            "stages": {},
            "artifacts": {},
        }
    )


def test_a_ranking_model_s_days_are_rows_with_what_they_must_beat(capsys: pytest.CaptureFixture[str]) -> None:
    results = [_ranked(2, 0.75, 0.7421), _ranked(3, None, None)]
    console.table(results)
    header, _, first, second = capsys.readouterr().out.strip().splitlines()[:4]
    assert [*header.split()[3:9]] == ["loss", "AUC", "live", "model", "rate", "item"]
    assert first.split()[4:8] == ["0.7500", "0.7421", "0.5000", "0.5625"]
    assert first.split()[-3:] == ["passed", "v7", "live"]
    assert second.split()[-2:] == ["rejected", "none"]
    rows = {row[""]: row["AUC"] for row in notes.labelled_rows(results[0])}
    assert rows == {"model": 0.75, "live model": 0.7421, "rate": 0.5, "item_rate": 0.5625, "new_users, model": 0.625}
    assert notes.verdict(results[1]) == "rejected by the gate; what was live stays live"


def test_a_terminal_gets_bars(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with console.progress() as sink:
        sink(Event(stage="train", done=5, total=10, message="going"))
        sink(Event(stage="train", done=10, total=10, message="done in 1.0 s"))
    assert "train: 10 rows, done in 1.0 s" in capsys.readouterr().err


@pytest.mark.parametrize(("num_bytes", "expected"), [(0, "0 B"), (1_500, "1.5 kB"), (2.5e9, "2.5 GB"), (3e21, None)])
def test_sizes_have_units(num_bytes: float, expected: str | None) -> None:
    text = profiles._size(num_bytes)
    assert text == expected if expected else text.endswith(profiles._UNITS[-1])


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, ""), (True, "true"), (7, "7"), (0.123456789, "0.12346"), ("text", "text"), ("x" * 500, None)],
)
def test_values_are_short(value: object, expected: str | None) -> None:
    text = profiles._value(value)
    assert text == expected if expected is not None else text == "x" * (profiles._MAX_TEXT - 1) + "…"


def test_a_profile_of_many_values_says_how_exact_it_is(tmp_path: Path) -> None:
    for day in ("2024-01-01", "2024-01-02"):
        (tmp_path / f"ds={day}").mkdir()
        rows = pa.table({"id": pa.array(range(150_000)).cast(pa.string()), "x": [i / 7 for i in range(150_000)]})
        pq.write_table(rows, tmp_path / f"ds={day}" / "a.parquet")
    done = CliRunner().invoke(cli.app, ["data", "profile", str(tmp_path)], catch_exceptions=False)
    assert "ds: 2 partitions, 2024-01-01 to 2024-01-02, 150,000 to 150,000 rows each" in done.stdout
    assert "~: estimated, standard error" in done.stdout
    assert "quantiles: within" in done.stdout
    assert "counts of frequent values: at most" in done.stdout


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--project", "a/b"], "--project 'a/b': a project's name is letters, digits, _ and -, a letter first"),
        (["--project", ".."], "--project '..': a project's name"),
        (["--project", ""], "--project '': a project's name"),
        (["--fault", "["], "--fault [: not a JSON object such as"),
        (["--fault", "{"], "--fault {: not JSON: "),
        (["--fault", '{"kind": "slow"}'], "kind: input should be 'status', "),
    ],
)
def test_an_emulator_that_cannot_be_as_asked_makes_nothing(tmp_path: Path, options: list[str], expected: str) -> None:
    with pytest.raises(ValueError, match=re.escape(expected)):
        CliRunner().invoke(cli.app, ["odps-emulator", str(tmp_path / "odps"), *options], catch_exceptions=False)
    assert not (tmp_path / "odps").exists()


def test_an_emulators_address_is_one_of_this_machine(tmp_path: Path) -> None:
    command = ["odps-emulator", str(tmp_path), "--port", "0", "--host", "192.0.2.1"]
    with pytest.raises(ValueError, match=r"--host 192\.0\.2\.1 --port 0: cannot be listened on \("):
        CliRunner().invoke(cli.app, command, catch_exceptions=False)


def test_an_emulators_folder_is_none_of_its_files(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="file: a file; name a folder of projects"):
        CliRunner().invoke(cli.app, ["odps-emulator", str(tmp_path / "file")], catch_exceptions=False)


def test_an_emulator_prints_what_opens_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        Emulator, "serve", lambda self: None
    )  # it has printed all by then, and would go on until Ctrl-C
    fault = json.dumps({"kind": "lost", "operation": "commit"})
    command = ["odps-emulator", str(tmp_path), "--port", "0", "--project", "shop", "--fault", fault]
    done = CliRunner().invoke(cli.app, command)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "shop").is_dir()
    printed = dict(line.removeprefix("export ").split("=", 1) for line in done.stdout.splitlines())
    wanted = {"ODPS_ENDPOINT", "NO_PROXY", "ODPS_ACCESS_ID", "ODPS_ACCESS_KEY", "ODPS_EMULATOR_TOKEN"}
    assert set(printed) == wanted
    assert all(printed.values())
    done = CliRunner().invoke(cli.app, [*command, "--host", "0.0.0.0"], env={"ODPS_EMULATOR_STS_TOKEN": "temporary"})
    assert "0.0.0.0 is not this machine alone" in done.output
    assert "export ODPS_STS_TOKEN=temporary" in done.output
    assert "ODPS_ACCESS_ID" not in done.output


def test_a_model_that_was_never_published_has_no_releases(tmp_path: Path) -> None:
    place = ["--set", f"run_root={tmp_path}"]
    done = CliRunner().invoke(cli.app, ["release", "list", str(CONFIGS / "demo.yaml"), *place])
    assert "shop: nothing was published yet" in done.output
    done = CliRunner().invoke(cli.app, ["release", "list", str(CONFIGS / "demo.yaml"), *place, "--json"])
    assert json.loads(done.stdout) == []


def test_releases_are_a_table_of_what_each_of_them_is(capsys: pytest.CaptureFixture[str]) -> None:
    fields = dict.fromkeys(("bundle_digest", "ground_truth_digest", "checkpoint", "model"), "x")
    one = ReleaseInfo(
        **fields,
        name="tiny",
        version=1,
        created=datetime.datetime(2024, 1, 3, tzinfo=datetime.UTC),
        mlflow_run_id="m1",
        day=datetime.date(2024, 1, 2),
        run_id="r1",
        metrics={"hit_rate@50": 0.25},
        checked=True,
        live=False,
        previous=True,
    )
    two = one.model_copy(update={"version": 2, "live": True, "previous": False, "checked": False, "metrics": {}})
    release_commands._table([two, one])
    shown = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert shown[0] == ["version", "day", "state", "metrics", "run", "MLflow", "run"]
    assert ["2", "2024-01-02", "live,", "not", "checked", "r1", "m1"] in shown
    assert ["1", "2024-01-02", "previous", "hit_rate@50", "0.250", "r1", "m1"] in shown


def test_a_backfill_to_a_day_before_its_first_is_refused() -> None:
    days = ["--from", "2024-01-05", "--to", "2024-01-04"]
    done = CliRunner().invoke(cli.app, ["backfill", str(CONFIGS / "demo.yaml"), *days])
    assert done.exit_code == 2
    assert "--to 2024-01-04 is before --from 2024-01-05" in done.output
