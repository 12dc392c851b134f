"""Whom a day is measured against, and that a run has one process."""

import datetime
import json
import multiprocessing
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys_core.artifacts import Holdout, Learned, NextDay, Rows, Tail
from recsys_core.datasets.labelled import _impressions
from recsys_core.progress import silent
from recsys_core.registry import ReleaseInfo
from tasks import start_run

DAY = datetime.date(2024, 3, 5)
CONFIGS = Path(__file__).parents[3] / "configs"


def release(version: int, day: int, run_id: str = "other", **changed: Any) -> ReleaseInfo:
    fields = {
        "name": "shop",
        "version": version,
        "created": datetime.datetime(2024, 3, 1, tzinfo=datetime.UTC),
        "mlflow_run_id": "m",
        "day": datetime.date(2024, 3, day),
        "run_id": run_id,
        "bundle_digest": "b",
        "ground_truth_digest": "g",
        "metrics": {},
        "checkpoint": "c",
        "model": "m",
        "checked": True,
        "live": False,
        "previous": False,
    }
    return ReleaseInfo.model_validate(fields | changed)


def days_to(last: int) -> Learned:
    return Learned(first_day=datetime.date(2024, 3, 1), last_day=datetime.date(2024, 3, last))


@pytest.mark.parametrize(
    ("releases", "expected"),
    [
        ([], None),
        ([release(1, 4)], None),
        ([release(1, 4, live=True)], 1),
        ([release(2, 5, live=True, replaced=1), release(1, 4)], 2),
        # The run's own release, found again by a rerun.
        ([release(2, 5, "mine", live=True, replaced=1), release(1, 4)], 1),
        ([release(1, 5, "mine", live=True, replaced=0)], None),
        # Later days have seen the ground truth.
        ([release(3, 7, live=True, replaced=2), release(2, 6, replaced=1), release(1, 4)], 1),
        ([release(3, 7, live=True, replaced=2), release(2, 4, rolled_back=True, replaced=1), release(1, 3)], 1),
        # What was absorbed counts, not the day of the run.
        ([release(2, 4, live=True, replaced=1, learned=days_to(5)), release(1, 3)], 2),
        ([release(2, 5, live=True, replaced=1, learned=days_to(6)), release(1, 4, learned=days_to(5))], 1),
    ],
)
def test_a_day_is_measured_against_what_was_live_before_it(releases: list[ReleaseInfo], expected: int | None) -> None:
    found = start_run.contender(releases, DAY, "mine")
    assert (found.version if found else None) == expected


def test_a_release_that_is_measured_as_it_is_is_compared_with_what_it_replaced() -> None:
    live = release(2, 4, live=True, replaced=1, learned=days_to(5))
    before = release(1, 3, learned=days_to(4))
    assert start_run.contender([live, before], DAY, "mine", as_it_is=2) == before
    assert start_run.contender([live], DAY, "mine", as_it_is=2) is None


def test_a_release_that_has_absorbed_a_part_of_the_day_is_not_measured_on_it() -> None:
    by_user = Rows(share=0.1, by="user_id")
    withholds = Learned(first_day=DAY, last_day=DAY, withheld=by_user, withheld_since=DAY)
    before = release(1, 4, learned=days_to(4))
    for learned, expected in ((withholds, 2), (days_to(5), 1)):
        live = release(2, 5, live=True, replaced=1, learned=learned)
        found = start_run.contender([live, before], DAY, "mine", held_out=by_user)
        assert found is not None
        assert found.version == expected


def test_a_day_that_is_run_again_with_another_holdout_is_compared_with_what_has_not_learned_its_rows() -> None:
    """First its tail is measured, then the next day, then the tail again."""
    tail = Tail(hours=3)
    withholds = Learned(first_day=DAY, last_day=DAY, withheld=tail, withheld_since=DAY)
    before = release(1, 4, learned=days_to(4))
    by_tail = release(2, 5, "tail", live=True, replaced=1, learned=withholds)
    by_next_day = release(3, 5, "next_day", live=True, replaced=2, learned=days_to(5))

    def compared(run_id: str, held_out: Holdout, *releases: ReleaseInfo) -> int | None:
        found = start_run.contender(releases, DAY, run_id, held_out=held_out)
        return found.version if found else None

    replaced = by_tail.model_copy(update={"live": False})
    assert compared("tail", tail, before) is None  # nothing is live
    assert compared("next_day", NextDay(), by_tail, before) == 2
    # Each of the runs again sees what it saw; a third one of the tail sees what has not learned it.
    assert compared("tail", tail, by_next_day, replaced, before) == 1
    assert compared("next_day", NextDay(), by_next_day, replaced, before) == 2
    assert compared("another", tail, by_next_day, replaced, before) == 2
    # Of a longer tail a part was learned.
    assert compared("another", Tail(hours=4), by_next_day, replaced, before) == 1


def test_a_config_of_the_other_pipeline_is_refused_before_anything_is_made() -> None:
    ranking, retrieval = str(CONFIGS / "dlrm_frappe.yaml"), str(CONFIGS / "demo.yaml")
    with pytest.raises(ValueError, match=r"dlrm_frappe\.yaml: a ranking config"):
        start_run.start_run.fn(ranking, None)
    for start in (start_run.start_ranking_run, start_run.start_daily_ranking_run):
        with pytest.raises(ValueError, match=r"demo\.yaml: has no section `ranking`"):
            start.fn(retrieval, None)
    with pytest.raises(
        ValueError, match=r"frappe\.yaml: data\.kind is frappe, .* name a source of data\.kind labelled"
    ):
        start_run.start_daily_ranking_run.fn(ranking, None)
    with pytest.raises(ValueError, match=r"ctr_daily\.yaml: data\.kind is labelled_days, .* run it by day"):
        start_run.start_ranking_run.fn(str(CONFIGS / "ctr_daily.yaml"), None)


def test_a_run_that_is_in_progress_is_not_started_twice(tmp_path: Path) -> None:
    forking = multiprocessing.get_context("fork")
    held = forking.Event()

    def hold() -> None:
        with start_run.locked(tmp_path):
            held.set()
            signal.pause()

    holder = forking.Process(target=hold)
    holder.start()
    assert held.wait(600)
    with (
        pytest.raises(ValueError, match=f"{tmp_path}: process {holder.pid} is at this run; wait for it, or end it"),
        start_run.locked(tmp_path),
    ):
        pass
    holder.kill()
    holder.join()
    with start_run.locked(tmp_path):
        pass


def test_a_run_root_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    config = Path(__file__).parents[3] / "configs" / "demo.yaml"
    with pytest.raises(ValueError, match=r"run_root .*/file/runs: .*/file is no folder; name another place"):
        start_run.start_run.fn(str(config), None, [f"run_root={tmp_path}/file/runs"])


def test_a_table_s_file_that_changes_makes_another_run(tmp_path: Path, make_store: Callable[[Path], Path]) -> None:
    make_store(tmp_path / "runs")
    file = tmp_path / "items.parquet"
    start = {"name": "item_id", "initializer": {"kind": "file", "path": str(file), "id_column": "item_id"}}
    for table in ("interactions", "users", "items"):
        (tmp_path / "shop" / table / f"ds={DAY}").mkdir(parents=True)
    changes = [f"run_root={tmp_path}/runs", f"data.source={tmp_path}/shop", f"features.tables={json.dumps([start])}"]
    runs: list[tuple[str, dict[str, str]]] = []
    for ids in ([1, 2], [1, 2], [1, 2, 3]):
        if not runs or len(ids) == 3:
            pq.write_table(pa.table({"item_id": ids, "embedding": [[0.5] * 32] * len(ids)}), file)
        with start_run.start_run.fn(str(CONFIGS / "demo.yaml"), DAY, changes) as run:
            runs.append((run.run_id, run.pretrained))
    assert runs[0] == runs[1]
    assert runs[2][0] != runs[0][0]
    assert runs[2][1].keys() == runs[0][1].keys() == {"item_id"}
    changes[-1] = changes[-1].replace(', "id_column": "item_id"', "")
    said_so = r"tables\[name=item_id\]\.initializer: .*no column 'id'.*say which in id_column"
    with pytest.raises(ValueError, match=said_so):
        start_run.start_run.fn(str(CONFIGS / "demo.yaml"), DAY, changes)


def test_a_ranking_model_s_first_run_needs_all_days_up_to_the_one_that_it_is_measured_on(
    tmp_path: Path, make_store: Callable[[Path], Path]
) -> None:
    make_store(tmp_path / "runs")
    _impressions.write(_impressions.Config(num_days=4, rows_per_day=20), tmp_path / "ctr", silent)
    changes = [f"run_root={tmp_path}/runs", f"data.source={tmp_path}/ctr", "tracking.system_metrics=false"]
    runs: list[str] = []
    for window in ("null", "2"):
        changed = [*changes, f"prepare.window_days={window}", "contract.reference_days=1"]
        with start_run.start_daily_ranking_run.fn(str(CONFIGS / "ctr_daily.yaml"), None, changed) as run:
            assert (run.day, run.base, run.champion) == (datetime.date(2024, 1, 3), None, None)
            assert run.needed.last_day == datetime.date(2024, 1, 4)
            runs.append(run.run_id)
    assert run.needed.first_day == datetime.date(2024, 1, 1), "two days to learn from, and one to compare them with"
    assert len(set(runs)) == 2
