"""What a person sees of two retrained days: on Prefect's page of a day, and where MLflow lists and compares them."""

import json
import urllib.request

from playwright.sync_api import expect

TASKS = (
    *("ingest", "check data", "preprocess", "train", "evaluate", "export", "embed", "embed champion"),
    *("index", "hit rate", "gate", "publish", "report"),
)


def _ask(uri: str, body: dict) -> list[dict]:
    request = urllib.request.Request(uri, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=600) as response:
        answer = json.load(response)
    return answer["runs"] if isinstance(answer, dict) else answer


def test_prefect_shows_the_day_its_stages_and_its_result(team, page):
    result = team.results[1]
    name = f"tiny {result['day']}"
    (run,) = _ask(f"{team.prefect}/api/flow_runs/filter", {"flow_runs": {"name": {"any_": [name]}}})
    page.goto(f"{team.prefect}/runs/flow-run/{run['id']}")
    expect(page.get_by_text(name, exact=True).first).to_be_visible()
    expect(page.get_by_text("Completed").first).to_be_visible()
    expect(page.get_by_text(f"{len(TASKS) + 1} Task runs")).to_be_visible()

    page.get_by_text("Task Runs", exact=True).click()
    for task in TASKS:
        expect(page.get_by_role("link", name=f"{task} {name}", exact=True)).to_be_visible()

    page.get_by_text("Artifacts", exact=True).click()
    expect(page.get_by_text("hit-rate", exact=True)).to_be_visible()
    page.get_by_text("day", exact=True).click()
    expect(page.get_by_role("heading", name=f"{result['day']}: version 2 is live")).to_be_visible()
    for reason in result["gate"]["reasons"]:
        expect(page.get_by_text(reason)).to_be_visible()


def test_mlflow_lists_the_days_with_their_hit_rates(team, page):
    page.goto(f"{team.mlflow}/#/experiments/1/runs?workflowType=machine_learning")
    expect(page.get_by_text("tiny", exact=True).first).to_be_visible()
    for result in team.results:
        expect(page.get_by_role("link", name=f"{result['day']} {result['run_id'][:6]}")).to_be_visible()
    metric = "exact/hit_rate_at_20"
    page.get_by_role("button", name="Columns").click()
    page.get_by_placeholder("Search columns").fill(metric)
    page.get_by_text(metric, exact=True).click()
    page.keyboard.press("Escape")
    for result in team.results:
        # The page shows every digit of the figure; its first ones, cut off and not rounded, begin what it shows.
        cell = page.get_by_role("gridcell", name=str(result["metrics"]["hit_rate"]["20"])[:7])
        expect(cell.first).to_be_visible()


def test_mlflow_compares_two_days(team, page):
    runs = [result["mlflow_run_id"] for result in team.results]
    page.goto(
        f"{team.mlflow}/#/compare-runs?runs={json.dumps(runs)}&experiments=[%221%22]&workflowType=machine_learning"
    )
    expect(page.get_by_text("Comparing 2 Runs from 1 Experiment")).to_be_visible()
    for result in team.results:
        expect(page.get_by_text(f"{result['day']} {result['run_id'][:6]}").first).to_be_visible()
    # Long tables draw only the rows in view; this one is.
    expect(page.get_by_role("link", name="approximate/hit_rate_at_20")).to_be_visible()
    for result in team.results:
        shown = str(round(result["metrics"]["approximate_hit_rate"]["20"], 3))
        expect(page.get_by_role("grid").get_by_text(shown, exact=True).first).to_be_visible()


def test_mlflow_shows_the_pictures_of_a_day(team, page):
    run = team.results[0]["mlflow_run_id"]
    picture = "plots/hit_rate_by_k.png"
    page.goto(f"{team.mlflow}/#/experiments/1/runs/{run}/artifacts/{picture}?workflowType=machine_learning")
    shown = page.locator("img[src^=blob]").first
    expect(shown).to_be_visible()
    assert shown.evaluate("image => image.naturalWidth") > 500
