"""A released ranking model scores rows as its day was measured, in this process and over HTTP."""

import datetime
import json
from typing import Any

import mlflow.pyfunc
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from recsys_core import serving
from recsys_core.artifacts.release import EXAMPLES, SCORES, SETTINGS
from recsys_core.ranking import opened, publish
from recsys_core.serving import Scorer, __main__

DAY = datetime.date(2024, 3, 1)
ROW = {"user": "u1", "age": 0.5, "tags": ["a", None], "item": 3, "shelf": 3}


@pytest.fixture(scope="module")
def made(made_ranking_day, tmp_path_factory):
    return made_ranking_day(tmp_path_factory.mktemp("run"), DAY, 6)


@pytest.fixture(scope="module")
def bundle(made):
    rows, scores = publish.examples(made["model"], made["data"], "test", made["predictions"], 12)
    return publish.Bundle(made["model"], rows, scores)


@pytest.fixture
def directory(bundle, tmp_path):
    bundle.fill(tmp_path / "bundle")
    return tmp_path / "bundle"


@pytest.fixture(scope="module")
def saved(bundle, tmp_path_factory):
    """The bundle as MLflow stores it."""
    root = tmp_path_factory.mktemp("saved")
    bundle.fill(root / "bundle")
    bundle.save((root / "bundle").iterdir(), root / "mlflow", Model())
    return root / "mlflow"


@pytest.fixture(scope="module")
def server(saved, serve):
    return serve(saved)


def _measured(made) -> tuple[pa.Table, np.ndarray]:
    """The rows of the measured split, with the columns of the features, and their probabilities."""
    rows = pq.read_table(made["data"].folders("test")[0]).drop_columns(["label", "bought", "position"])
    return rows, pq.read_table(made["predictions"].rows)["probability"].to_numpy()


def test_rows_are_scored_as_the_day_was_measured(made, directory):
    loaded = serving.load(directory)
    assert isinstance(loaded, Scorer)
    rows, measured = _measured(made)
    found = loaded.answer(rows.to_pydict(), {})
    assert found.column_names == ["probability", "score", "out_of_range"]
    np.testing.assert_allclose(found["probability"].to_numpy(), measured, rtol=1e-6)
    np.testing.assert_allclose(found["probability"].to_numpy(), 1 / (1 + np.exp(-found["score"].to_numpy())), rtol=1e-6)
    cells = [1 if item >= 6 else 0 for item in rows["item"].to_pylist()]
    assert [row["cell"] for row in found["out_of_range"].to_pylist()] == cells
    assert "50 rows scored" in loaded.check(rows, pq.read_table(made["predictions"].rows).select(["probability"]))


def test_mlflow_gives_what_was_measured_for_a_frame_of_rows(made, saved):
    rows, measured = _measured(made)
    loaded = mlflow.pyfunc.load_model(str(saved))
    # As a client's: what is unknown among numbers and texts is null.
    frame = pd.DataFrame(rows.to_pylist(), dtype=object)
    whole = frame[[None not in tags for tags in frame["tags"]]]
    found = loaded.predict(whole)
    np.testing.assert_allclose(found["probability"], measured[whole.index], rtol=1e-6)
    with pytest.raises(MlflowException, match="column 'shelf': id 10 is not in 0..9"):
        loaded.predict(whole.assign(shelf=10))
    signature = loaded.metadata.signature
    assert [column.name for column in signature.outputs] == ["probability", "score", "out_of_range"]
    assert [column.name for column in signature.inputs] == ["user", "age", "tags", "item", "shelf"]
    example = json.loads((saved / loaded.metadata.saved_input_example_info["artifact_path"]).read_text())
    assert example["columns"] == ["user", "age", "tags", "item", "shelf"]
    assert len(example["data"]) == 2
    needed = (saved / "requirements.txt").read_text()
    assert "torch==" in needed
    assert "faiss" not in needed
    assert not list(saved.rglob("*.pkl"))


def _body(*rows: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"dataframe_records": [*rows] or [ROW], **more}).encode()


def test_the_service_answers_each_row_and_names_what_does_not_fit(server, directory):
    status, answer = server.ask(_body(ROW, ROW | {"user": None, "item": 7}))
    expected = serving.load(directory).answer(
        {name: [v, {"user": None, "item": 7}.get(name, v)] for name, v in ROW.items()}, {}
    )
    assert (status, answer["predictions"]) == (200, expected.to_pylist())
    assert answer["predictions"][1]["out_of_range"] == {"cell": 1}
    without = {name: value for name, value in ROW.items() if name != "item"}
    for body, message in [
        (_body(without), "column 'item' is missing (found user, age, tags, shelf); give null where it is unknown"),
        (_body(ROW | {"label": 1}), "column 'label' is none of the model's, which takes user, age, tags, item, shelf"),
        (_body(ROW | {"item": 2**63}), "column 'item' takes int64: "),
        (_body(ROW | {"item": 1.5}), "column 'item' takes int64: "),
        (_body(ROW | {"item": True}), "column 'item' takes int64: true and false are no integers"),
        (_body(ROW | {"shelf": 10}), "feature 'shelf', column 'shelf': id 10 is not in 0..9"),
        (_body(ROW, ROW | {"tags": "a"}), "column 'tags' takes list<string>: a text, and no list"),
        (_body(ROW | {"age": -1e300}), "column 'age' takes float64: a number is beyond"),
        (_body(params={"k": 3}), "params has 'k', and this model takes none; leave params out"),
        (_body(params=[]), "params is a list; give an empty object"),
        (b'{"dataframe_records": []}', "no rows; send one at least"),
        (_body(*[ROW] * 10_001), "10,001 rows in one request; send at most 10,000"),
    ]:
        status, answer = server.ask(body)
        assert (status, message in answer.get("message", "")) == (400, True), (message, answer)
        assert "\n" not in answer["message"]


def test_a_row_whose_score_is_no_number_is_refused(directory):
    loaded = Scorer.load(directory)
    loaded._ranker = lambda inputs: torch.tensor([1.0, float("inf")])
    with pytest.raises(ValueError, match="row 1: numbers too large for the model, which makes no score of them"):
        loaded.answer({name: [value] * 2 for name, value in ROW.items()}, {})


def test_the_command_checks_what_the_bundle_keeps(directory, bundle, tmp_path, capsys):
    assert __main__.main([str(directory)]) == 0
    assert "12 rows scored; their probabilities differ from the measured ones by at most" in capsys.readouterr().out
    scores = pq.read_table(directory / SCORES)
    rows = pq.read_table(directory / EXAMPLES)
    for name in ("probability", "score"):
        other = scores.set_column(scores.column_names.index(name), name, pa.array(scores[name].to_numpy() + 0.01))
        with pytest.raises(ValueError, match=f"gives another {name} than where the day was measured .by 0.01"):
            Scorer.load(directory).check(rows, other)
    content = bytearray((directory / "model.pt").read_bytes())
    content[len(content) // 2] ^= 4
    (directory / "model.pt").write_bytes(content)
    assert __main__.main([str(directory)]) == 1
    assert "model.pt: damaged, its content is not what was written" in capsys.readouterr().err
    (directory / "model.pt").unlink()
    with pytest.raises(ValueError, match="model.pt: missing, so .* is no whole bundle; download the release again"):
        serving.load(directory)
    (directory / SETTINGS).write_text('{"product": "search"}')
    with pytest.raises(ValueError, match="serving.json: damaged, no _Settings: product: .*download the release again"):
        serving.load(directory)


def test_the_kept_rows_are_the_first_that_were_measured(made):
    rows, scores = publish.examples(made["model"], made["data"], "test", made["predictions"], 12)
    expected = opened(made["data"], "test")
    assert rows.column_names == ["user", "age", "tags", "item", "shelf"]
    assert rows.num_rows == scores.num_rows == 12 < expected.num_rows
    assert rows["user"].to_pylist() == pq.read_table(made["data"].folders("test")[0])["user"].to_pylist()[:12]


def test_several_tasks_have_a_probability_each(made_ranking_day, tmp_path):
    made = made_ranking_day(tmp_path / "run", DAY, 3, several=True)
    rows, scores = publish.examples(made["model"], made["data"], "test", made["predictions"], 12)
    bundle = publish.Bundle(made["model"], rows, scores)
    bundle.fill(tmp_path / "bundle")
    names = ["probability_click", "score_click", "probability_conversion", "score_conversion"]
    loaded = serving.load(tmp_path / "bundle")
    assert "12 rows scored" in loaded.check_kept(tmp_path / "bundle")
    found = loaded.answer({name: [value] * 2 for name, value in ROW.items()}, {})
    assert found.column_names == [*names, "out_of_range"]
    rows = pq.read_table(made["data"].folders("test")[0]).drop_columns(["label", "bought", "position"])
    measured = pq.read_table(made["predictions"].rows)
    answered = loaded.answer(rows.to_pydict(), {})
    for name in names:
        np.testing.assert_allclose(answered[name].to_numpy(), measured[name].to_numpy(), rtol=1e-5, atol=1e-6)
    assert [column.name for column in bundle.signature().outputs] == [*names, "out_of_range"]
    fields = {"config": publish.Config(), "name": "ctr", "run_id": "r", "day": DAY, "passed": True, "reasons": ()}
    request = publish.Request(output=tmp_path, config_hash="h", code_version="v", run_root=tmp_path, **fields, **made)
    tasks = made["evaluation"].tasks
    assert request.metrics["click_auc"] == tasks["click"].auc
    assert request.metrics["conversion_logloss"] == tasks["conversion"].logloss
