"""Publishing a real bundle into a real registry, disturbed and undisturbed."""

import datetime
import shutil

import pytest

from recsys_core import artifacts, integrity, launch, registry, tracking
from recsys_core.artifacts import ExportedModel, Learned, Release
from recsys_core.registry.publish import _relative
from recsys_core.retrieval import publish
from recsys_core.serving.service import Registered
from recsys_core.serving.service.watch import Watched, Watcher, fetched, found

pytestmark = pytest.mark.usefixtures("kept_ranks")
FIRST = datetime.date(2024, 3, 1)
CONFIG = tracking.Config.model_validate({"system_metrics": False})


class Shop:
    """A pipeline of one config: publishes made-up days below a run_root of its own name."""

    def __init__(self, run_root, name, made_day) -> None:
        self.run_root, self.name, self._made_day = run_root, name, made_day
        self.uri = tracking.location(CONFIG, run_root)
        self._made = {}

    def request(self, day, *, run_id=None, config=None, **fields) -> publish.Request:
        run_id = run_id or f"{self.name[:20]}-{day}"
        date = FIRST + datetime.timedelta(days=day - 1)
        folder = self.run_root / self.name / str(date) / run_id
        if run_id not in self._made:
            self._made[run_id] = self._made_day(folder, date, day)
        made = {name: artifact for name, artifact in self._made[run_id].items() if name != "held_out"}
        given = {
            "day": date,
            "passed": True,
            "mask_seen": True,
            "reasons": ("hit rate is well over the floor",),
            "config": config or publish.Config(),
        }
        return publish.Request(
            output=folder / "publish",
            config_hash="h",
            code_version="v",
            name=self.name,
            run_id=run_id,
            run_root=self.run_root,
            **(given | made | fields),
        )

    def publish(self, request: publish.Request, wrap=lambda client: client) -> Release:
        identity = tracking.Identity(
            name=self.name, day=request.day, run_id=request.run_id, config_hash="h", code_version="v"
        )
        with tracking.open_run(CONFIG, self.run_root, identity, {}) as tracker:
            client = tracker.client
            tracker.client = wrap(client)
            try:
                return publish.run(request, tracker, launch.Local())
            finally:
                tracker.client = client

    def marks(self) -> dict[int, str]:
        """By version: C(hecked), L(ive), P(revious), R(olled back)."""
        return {
            info.version: "C" * info.checked + "L" * info.live + "P" * info.previous + "R" * info.rolled_back
            for info in registry.releases(self.uri, self.name)
        }

    def aliases(self) -> set[str]:
        return set(tracking.connect(self.uri).get_registered_model(self.name).aliases)


@pytest.fixture(scope="module")
def run_root(tmp_path_factory):
    # Neither MLflow nor SQLAlchemy may take a path for a URI, or a pattern.
    root = tmp_path_factory.mktemp("publish") / "r,u n#%20?*[x]=é"
    root.mkdir()
    return root


@pytest.fixture
def shop(run_root, made_day, request):
    return Shop(run_root, request.node.name.replace("[", "-").replace("]", ""), made_day)


def test_a_day_goes_live_once_and_the_next_replaces_it(shop):
    request = shop.request(1)
    first = shop.publish(request)
    assert (first.decision, first.version, first.reasons) == ("live", "1", ("hit rate is well over the floor",))
    assert first.num_rows == 60
    assert (first.path / "query" / "model.pt").is_file()
    assert (first.path / "index" / "index.faiss").is_file()
    assert shop.publish(request) == first
    info = registry.champion(shop.uri, shop.name)
    assert info is not None
    assert (info.day, info.run_id, info.bundle_digest) == (FIRST, request.run_id, request.bundle_digest)
    assert request.bundle_digest == artifacts.digest_of([request.model.digest, request.index.digest])
    assert request.model_copy(update={"mask_seen": False}).bundle_digest != request.bundle_digest
    assert info.metrics["hit_rate_at_50"] == pytest.approx(request.evaluation.exact.hit_rate["50"])
    assert registry.load_checkpoint(info, shop.run_root) == request.checkpoint
    assert registry.load_model(info, shop.uri, shop.run_root, ExportedModel) == request.model
    assert shop.publish(shop.request(2)).version == "2"
    assert shop.marks() == {2: "CL", 1: "CP"}
    assert shop.aliases() == {"champion", "previous"}


def test_a_rejected_day_leaves_no_trace_in_the_registry(shop):
    release = shop.publish(shop.request(1, passed=False, reasons=("hit_rate@50 is below the floor",)))
    assert (release.decision, release.version, release.num_rows) == ("rejected", None, 0)
    assert release.reasons == ("hit_rate@50 is below the floor",)
    assert [path.name for path in release.path.iterdir()] == [artifacts.MANIFEST]
    assert registry.releases(shop.uri, shop.name) == []


def test_a_day_before_the_live_one_is_kept_but_not_live(shop):
    shop.publish(shop.request(5))
    late = shop.publish(shop.request(2))
    assert late.decision == "registered"
    assert "version 1 of the later day 2024-03-05 stays live" in late.reasons[0]
    assert shop.marks() == {2: "C", 1: "CL"}
    assert shop.aliases() == {"champion"}
    base = registry.base_release(shop.uri, shop.name, FIRST + datetime.timedelta(days=2))
    assert base is not None
    assert base.version == 2


def test_a_release_that_has_learned_from_more_stays_live(shop):
    """Version 1 of the 2nd has absorbed the 3rd: another one of the 2nd would be a day older, one of the 3rd is not."""
    absorbed = Learned(first_day=FIRST, last_day=FIRST + datetime.timedelta(days=2))
    request = shop.request(2)
    request = request.model_copy(update={"checkpoint": request.checkpoint.model_copy(update={"learned": absorbed})})
    assert shop.publish(request).decision == "live"
    info = registry.champion(shop.uri, shop.name)
    assert (info.day, info.learned, info.last_learned) == (request.day, absorbed, absorbed.last_day)
    client = tracking.connect(shop.uri)
    version = client.get_model_version(shop.name, "1")
    assert version.tags["dayline.learned"] == absorbed.model_dump_json()
    assert version.description.startswith("2024-03-02, with 2024-03-03 absorbed after it was measured: ")
    other = shop.publish(shop.request(2, run_id="other"))
    assert other.decision == "registered"
    assert other.reasons == ("not live: version 1 of 2024-03-02 has learned from 2024-03-03 too and stays live",)
    assert shop.publish(shop.request(3)).decision == "live"


def test_a_rerun_does_not_undo_a_rollback(shop):
    for day in (1, 2):
        shop.publish(shop.request(day))
    registry.rollback(shop.uri, shop.name)
    again = shop.publish(shop.request(2))
    assert (again.decision, again.version) == ("registered", "2")
    assert "rolled back" in again.reasons[0]
    assert shop.marks() == {2: "CR", 1: "CL"}


def test_towers_come_from_mlflow_when_the_run_is_gone(shop):
    request = shop.request(1)
    shop.publish(request)
    info = registry.champion(shop.uri, shop.name)
    assert info is not None
    shutil.rmtree(request.model.path)
    fetched = registry.load_model(info, shop.uri, shop.run_root, ExportedModel)
    assert fetched.path != request.model.path
    assert fetched.model_copy(update={"path": request.model.path}) == request.model
    assert registry.load_model(info, shop.uri, shop.run_root, ExportedModel) == fetched
    assert ExportedModel.load(fetched.path).query.is_dir()


def test_paths_outside_of_run_root_are_kept_whole(tmp_path):
    assert _relative(tmp_path / "runs" / "shop" / "train", tmp_path / "runs") == "shop/train"
    assert _relative(tmp_path / "other", tmp_path / "runs") == str(tmp_path / "other")


def test_a_bundle_that_does_not_serve_does_not_go_live(shop):
    shop.publish(shop.request(1))
    request = shop.request(2)
    request.index.faiss.write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"index\.faiss: damaged, its content is not what was written"):
        shop.publish(request)
    assert shop.marks() == {1: "CL"}
    # As if the index had been written so.
    files = [
        file.model_copy(update={"digest": integrity.digest_of_file(request.index.path / file.path)})
        for file in request.index.files
    ]
    request = request.model_copy(update={"index": request.index.model_copy(update={"files": tuple(files)})})
    with pytest.raises(ValueError, match=r"version 2.*not made live: .*index\.faiss: damaged"):
        shop.publish(request)
    assert not request.output.exists()
    assert shop.marks() == {2: "", 1: "CL"}
    base = registry.base_release(shop.uri, shop.name, FIRST + datetime.timedelta(days=9))
    assert base is not None
    assert base.version == 1


def test_a_bundle_that_takes_too_long_does_not_go_live(shop):
    with pytest.raises(ValueError, match=r"publish\.check_seconds=0\.01"):
        shop.publish(shop.request(1, config=publish.Config(check_seconds=0.01)))
    assert shop.marks() == {1: ""}
    assert shop.publish(shop.request(1)).decision == "live"
    assert shop.marks() == {1: "CL"}


class _Killed(BaseException):
    """Stands for the end of the process: nothing after it happens."""


class _Client:
    """A client whose process dies after its first `num_calls` calls that change something."""

    def __init__(self, client, num_calls) -> None:
        self._client, self._left = client, num_calls

    def __getattr__(self, name):
        found = getattr(self._client, name)
        if not name.startswith(("create_", "delete_", "finalize_", "log_", "set_")):
            return found

        def call(*args, **fields):
            if not self._left:
                raise _Killed(name)
            self._left -= 1
            return found(*args, **fields)

        return call


@pytest.fixture(scope="module")
def disturbed(run_root, made_day, kept_ranks):
    shop = Shop(run_root, "disturbed", made_day)
    shop.publish(shop.request(1))
    return shop


# The calls: model registered, created, uploaded, linked, finished; version, alias; checked, replaced; three aliases.
@pytest.mark.parametrize("num_calls", [1, 2, 4, 6, 8, 9, 10, 11])
def test_killed_anywhere_a_rerun_ends_the_same(disturbed, num_calls):
    live = registry.champion(disturbed.uri, disturbed.name)
    assert live is not None
    request = disturbed.request(num_calls + 2)
    with pytest.raises(_Killed):
        disturbed.publish(request, lambda client: _Client(client, num_calls))
    assert not request.output.exists()
    release = disturbed.publish(request)
    assert (release.decision, release.version) == ("live", str(live.version + 1))
    marks = {version: mark for version, mark in disturbed.marks().items() if mark != "C"}
    assert marks == {live.version + 1: "CL", live.version: "CP"}
    assert disturbed.aliases() == {"champion", "previous"}
    client = tracking.connect(disturbed.uri)
    models = client.search_logged_models(
        [client.get_experiment_by_name(disturbed.name).experiment_id],
        f"tags.`dayline.bundle_digest` = '{request.bundle_digest}'",
    )
    assert [str(model.status) for model in models] == ["READY"]
    run = client.get_run(models[0].source_run_id)
    assert [output.model_id for output in run.outputs.model_outputs] == [models[0].model_id]
    assert list(request.output.parent.glob(".*")) == []


def test_every_call_was_a_place_to_die(disturbed):
    client = _Client(None, 0)
    disturbed.publish(disturbed.request(20), lambda real: client.__init__(real, 12) or client)
    assert client._left == 0


def test_what_is_live_is_followed_and_fetched_whole(shop, tmp_path):
    for day in (1, 2):
        assert shop.publish(shop.request(day)).decision == "live"
    places = {"release": Registered(shop.name, "champion"), "rank_release": Registered(shop.name, "7")}
    watcher = Watcher(Watched(places=places, uri=shop.uri, cache=tmp_path / "cache", poll_seconds=0.1))
    lines = watcher.lines(lambda code: None)
    first, missing = next(lines), next(lines)
    assert (first.place, first.release.tag, first.error) == ("release", f"{shop.name}/2", None)
    assert integrity.verify_sealed(first.release.folder)
    assert (missing.release, missing.error) == (
        None,
        f"{shop.name} has no version 7; there are: 2, 1",
    )
    registry.rollback(shop.uri, shop.name)
    back = next(lines)
    assert (back.place, back.release.tag) == ("release", f"{shop.name}/1")
    assert integrity.verify_sealed(back.release.folder)
    # One that was killed is started again, and says what it finds.
    watcher._process.kill()
    assert next(lines).release == back.release
    watcher.close()
    assert list(lines) == []
    assert sorted(one.name[:2] for one in back.release.folder.parent.iterdir()) == [".l", "1-", "2-"]
    # What was damaged on the way is no release, and leaves nothing.
    shutil.rmtree(back.release.folder)
    digest = integrity.digest_of_file(shop.request(1).model.query / "model.pt")
    stored = (path for path in shop.run_root.rglob("model.pt") if not path.is_relative_to(shop.run_root / shop.name))
    # Of the tests that share the store, some have the same.
    models = [path for path in stored if integrity.digest_of_file(path) == digest]
    content = models[0].read_bytes()
    for model in models:
        model.write_bytes(content[:-1])
    info = found(Registered(shop.name, "1"), shop.uri)
    with pytest.raises(ValueError, match="query/model.pt: damaged"):
        fetched(info, shop.uri, tmp_path / "cache")
    assert not back.release.folder.exists()
    for model in models:
        model.write_bytes(content)
    assert fetched(info, shop.uri, tmp_path / "cache").folder.is_dir()
