"""What a release, a run, a training and a folder that was copied elsewhere stand for."""

import datetime
import json
import shutil

import pytest

from recsys_core import artifacts, integrity, tracking
from recsys_core.artifacts import Checkpoint, ExportedModel, KeptState, Release, TrainedModel
from recsys_core.artifacts.release import EXPORTED_MODEL
from recsys_core.registry import named, states

DAY = datetime.date(2024, 3, 1)
SECTION = {"kind": "two_tower", "output_dim": 8}
COMMON = {"config_hash": "c", "code_version": "v"}


class _Inputs(artifacts.Request):
    pass


def _state(folder, step):
    folder.mkdir(parents=True)
    (folder / ".metadata").write_text("{}")
    (folder / "__0_0.distcp").write_bytes(bytes([step]))
    (folder / "position.json").write_text(json.dumps({"step": step}))
    return folder


def _training(output, data):
    """A finished training with two states kept, as `fit` leaves it, but for the weights."""
    request = _Inputs(output=output, **COMMON)
    with artifacts.pending(output) as aside:
        _state(aside.path / "state", 8)
        _state(aside.path / "best" / "step-4", 4)
        shutil.copytree(data.engine, aside.path / "features")
        said = TrainedModel(product="retrieval", model=SECTION)
        integrity.write_text(aside.path / "model.json", integrity.sealed(said.model_dump(mode="json")))
        kept = (
            KeptState(step=8, metric="auc", value=0.8, folder="state"),
            KeptState(step=4, metric="auc", value=0.7, folder="best/step-4"),
        )
        figures = {"num_steps": 8, "loss": 1.0, "examples_per_second": 2.0, "num_ranks": 1}
        return aside.commit(Checkpoint, request, num_rows=5, day=DAY, warm_started_from=None, kept=kept, **figures)


@pytest.fixture(scope="module")
def run(tmp_path_factory, made_day, make_store):
    """The folder of a run whose training an earlier run of the name had done, and who the release is of."""
    root = make_store(tmp_path_factory.mktemp("named") / "runs")
    directory = root / "shop" / str(DAY) / "b"
    made = made_day(directory, DAY, 1)
    shutil.rmtree(directory / "train")
    trained = _training(root / "shop" / str(DAY) / "a" / "train", made["data"])
    (directory / "config.yaml").write_text("name: shop\nmodel: {kind: two_tower, output_dim: 8}\n")
    places = {"train": "2024-03-01/a/train", "export": "2024-03-01/b/export"}
    integrity.write_text(directory / "stages.json", integrity.sealed({"stages": places}))
    client = tracking.connect(tracking.location(tracking.Config(), root))
    client.create_registered_model("shop")
    model = client.create_logged_model("0", name="bundle")
    client.finalize_logged_model(model.model_id, "READY")
    tags = {
        "day": str(DAY),
        "run_id": "b",
        "bundle_digest": "d" * 32,
        "ground_truth_digest": "g",
        "metrics": "{}",
        "checkpoint": str(trained.path.relative_to(root)),
        "model": f"shop/{DAY}/b/export",
        "checked": "true",
    }
    client.create_model_version(
        "shop",
        f"models:/{model.model_id}",
        run_id=client.create_run("0").info.run_id,
        tags={f"dayline.{key}": value for key, value in tags.items()},
    )
    client.set_registered_model_alias("shop", "champion", "1")
    return directory


def test_a_run_has_what_its_stages_left_in_it_or_in_an_earlier_run(run):
    found = named.find(run=run)
    assert isinstance(found.model(), ExportedModel)
    trained = found.trained()
    assert (trained.checkpoint.state.parent.parent.name, trained.checkpoint.folder) == ("a", "state")
    assert (trained.product, trained.model, trained.features.parent.name) == ("retrieval", SECTION, "train")
    assert (found.data().path, found.index().path) == (run / "preprocess", run / "index")
    assert found.embeddings().num_items == 60
    assert found.trained(4).checkpoint.folder == "best/step-4"
    with pytest.raises(ValueError, match=r"has no state of step 5, but of 8 .*, 4 "):
        found.trained(5)


@pytest.mark.parametrize("name", ["shop", "shop@champion", "shop@1", "shop@v1", "champion"])
def test_a_release_is_found_by_its_alias_or_its_version(run, name):
    found = named.find(release=name, run_root=run.parents[2])
    assert found.title == "release shop version 1 of 2024-03-01"
    assert found.model().path == run / "export"
    assert found.trained().checkpoint.path.parent.name == "a"
    assert found.config == run / "config.yaml"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("shop@previous", "shop has no version previous, only champion, 1; name one of these"),
        ("shop@7", "shop has no version 7, only champion, 1"),
        ("shoe", "MLflow has releases of shop; name one of them"),
    ],
)
def test_what_no_release_is_called_is_refused_with_what_there_is(run, name, message, monkeypatch):
    with pytest.raises(ValueError, match=message):
        named.find(release=name, run_root=run.parents[2])
    # MLflow leaves its address in the environment of its process.
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ValueError, match=r"no mlflow\.db in"):
        named.find(release=name, run_root=run)


def test_a_training_that_was_copied_elsewhere_stands_alone(run, tmp_path):
    shutil.copytree(named.find(run=run).trained().checkpoint.path, tmp_path / "copied")
    for folder in ("copied", "copied/state", "copied/best/step-4"):
        trained = named.find(folder=tmp_path / folder).trained()
        assert (trained.model, trained.features) == (SECTION, tmp_path / "copied" / "features")
        assert trained.checkpoint.state == (tmp_path / "copied" / trained.checkpoint.folder)
    assert named.find(folder=tmp_path / "copied/best/step-4").trained().checkpoint.folder == "best/step-4"
    # Damage is seen where the files are read, a file that is missing here.
    (tmp_path / "copied" / "state" / "__0_0.distcp").unlink()
    with pytest.raises(ValueError, match="is missing where the manifest says 1 bytes"):
        named.find(folder=tmp_path / "copied").trained()


def test_of_a_training_that_has_not_ended_it_is_the_newest_state_or_one_by_choice(run, tmp_path):
    whole = named.find(run=run).trained().checkpoint.path
    shutil.copytree(whole / "features", tmp_path / "partial" / "features")
    shutil.copyfile(whole / "model.json", tmp_path / "partial" / "model.json")
    for step in (9, 20):
        _state(tmp_path / "partial" / "steps" / f"step-{step}", step)
    # A state that is being written is none yet.
    (tmp_path / "partial" / "steps" / ".step-30.partial").mkdir()
    found = named.find(folder=tmp_path / "partial")
    assert found.trained().checkpoint.state.name == "step-20"
    older = found.trained(9)
    assert (older.checkpoint.num_steps, older.features) == (9, tmp_path / "partial" / "features")
    assert older.checkpoint.digest != found.trained(20).checkpoint.digest
    with pytest.raises(ValueError, match="no checkpoint of step 10, only of 9, 20"):
        found.trained(10)


def test_a_folder_of_weights_alone_needs_to_be_said_what_they_are_of(run, tmp_path):
    shutil.copytree(named.find(run=run).trained().checkpoint.state, tmp_path / "weights")
    found = named.find(folder=tmp_path / "weights")
    with pytest.raises(ValueError, match=r"nothing there says which model .* name its config with --config"):
        found.trained()
    said = named.model_of(run / "config.yaml")
    with pytest.raises(ValueError, match=r"the features .* are not at hand; name them with --features"):
        found.trained(model=said)
    trained = found.trained(model=said, features=run / "preprocess" / "features")
    assert (trained.product, trained.model, trained.checkpoint.num_steps) == ("retrieval", SECTION, 8)
    with pytest.raises(ValueError, match="a state of step 8, and not of 4"):
        found.trained(4, model=said, features=tmp_path)


def test_folders_of_artifacts_and_of_bundles_are_what_their_manifests_say(run, tmp_path):
    assert named.find(folder=run / "export").model().path == run / "export"
    assert named.find(folder=run / "embed").embeddings().num_queries == 40
    bundle = tmp_path / "bundle"
    shutil.copytree(run / "export", bundle)
    (bundle / "manifest.json").rename(bundle / EXPORTED_MODEL)
    assert named.find(folder=bundle).model().path == bundle
    with (bundle / "query" / "model.pt").open("r+b") as file:
        file.write(b"x")
    with pytest.raises(ValueError, match=r"model\.pt: damaged"):
        named.find(folder=bundle).model()
    with pytest.raises(ValueError, match="nothing of the stage export is there, but embed"):
        named.find(folder=run / "embed").model()
    with pytest.raises(ValueError, match="neither a run, a checkpoint, an exported model"):
        named.find(folder=tmp_path)
    with pytest.raises(ValueError, match="is not there"):
        named.find(folder=tmp_path / "nothing")


def test_a_state_is_of_the_training_that_it_lies_in(run):
    training = named.find(run=run).trained().checkpoint.path
    assert states.training_of(training / "state") == training
    assert states.training_of(training) == training


def test_what_is_served_is_a_bundle_or_what_a_run_has_published(tmp_path):
    bundle = tmp_path / "saved" / "artifacts"
    bundle.mkdir(parents=True)
    (bundle / EXPORTED_MODEL).write_text("{}")
    (tmp_path / "saved" / "MLmodel").write_text("")
    assert named.find(folder=bundle).bundle() == named.find(folder=tmp_path / "saved").bundle() == bundle
    run = tmp_path / "shop" / "d" / "r"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("name: shop\n")
    with pytest.raises(ValueError, match="nothing of the stage publish is there"):
        named.find(run=run).bundle()
    said = {"day": DAY, "run_id": "r", "reasons": (), "model_name": "shop", "num_rows": 0}
    with artifacts.pending(run / "publish") as aside:
        (aside.path / "x").write_text("x")
        aside.commit(Release, _Inputs(output=run / "publish", **COMMON), decision="rejected", version=None, **said)
    with pytest.raises(ValueError, match="nothing was published, so nothing can be served"):
        named.find(run=run).bundle()
    (run / "publish" / EXPORTED_MODEL).write_text("{}")
    assert named.find(run=run).bundle() == run / "publish"
