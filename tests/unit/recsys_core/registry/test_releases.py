"""Which release is live, which one before it, and what training continues, in a real registry."""

import datetime
import json

import pytest

from recsys_core import registry, tracking
from recsys_core.artifacts import Learned, Tail
from recsys_core.registry import aliases

FIRST = datetime.date(2024, 3, 1)


@pytest.fixture(scope="module")
def uri(tmp_path_factory, make_store):
    return tracking.location(tracking.Config.model_validate({}), make_store(tmp_path_factory.mktemp("runs")))


class Shop:
    """A registered model whose versions are cheap: models without files."""

    def __init__(self, uri: str, name: str) -> None:
        self.uri, self.name = uri, name
        self.client = tracking.connect(uri)
        self.client.create_registered_model(name)

    def register(
        self, day: int, *, checked: bool = True, learned: int | None = None, withheld: Tail | None = None
    ) -> registry.ReleaseInfo:
        model = self.client.create_logged_model("0", name="bundle")
        self.client.finalize_logged_model(model.model_id, "READY")
        run = self.client.create_run("0")
        tags = {
            "day": str(FIRST + datetime.timedelta(days=day - 1)),
            "run_id": f"run-{day}",
            "bundle_digest": "b" * 32,
            "ground_truth_digest": "g" * 32,
            "metrics": json.dumps({"hit_rate_at_50": 0.2}),
            "checkpoint": f"{self.name}/{day}/train",
            "model": f"{self.name}/{day}/export",
        } | ({"checked": "true"} if checked else {})
        if learned is not None:
            last = FIRST + datetime.timedelta(days=learned - 1)
            since = None if withheld is None else last
            days = Learned(first_day=FIRST, last_day=last, withheld=withheld, withheld_since=since)
            tags["learned"] = days.model_dump_json()
        version = self.client.create_model_version(
            self.name,
            f"models:/{model.model_id}",
            run_id=run.info.run_id,
            tags={f"dayline.{key}": value for key, value in tags.items()},
        )
        return next(info for info in registry.releases(self.uri, self.name) if info.version == int(version.version))

    def go_live(self, day: int) -> registry.ReleaseInfo:
        live = registry.champion(self.uri, self.name)
        info = self.register(day)
        registry.tag(self.client, info, replaced=live.version if live else 0)
        assert registry.make_live(self.client, info, live)
        return info

    def marks(self) -> dict[int, str]:
        """By version: L(ive), P(revious), R(olled back)."""
        return {
            info.version: "L" * info.live + "P" * info.previous + "R" * info.rolled_back
            for info in registry.releases(self.uri, self.name)
        }

    def chain(self) -> list[int]:
        """The live version, the one that it replaced, and so on."""
        known = {info.version: info for info in registry.releases(self.uri, self.name)}
        (chain,) = ([info] for info in known.values() if info.live)
        while (before := known.get(chain[-1].replaced or 0)) is not None:
            assert before not in chain
            chain.append(before)
        return [info.version for info in chain]

    def base(self, day: int, *, leaves_rows: bool = False) -> int | None:
        date = FIRST + datetime.timedelta(days=day - 1)
        info = registry.base_release(self.uri, self.name, date, leaves_rows=leaves_rows)
        return info.version if info else None


@pytest.fixture
def shop(uri, request):
    return Shop(uri, request.node.name)


def test_nothing_was_published_yet(uri):
    assert registry.releases(uri, "unknown") == []
    assert registry.champion(uri, "unknown") is None
    assert registry.base_release(uri, "unknown", FIRST) is None
    with pytest.raises(ValueError, match="unknown: nothing is live"):
        registry.rollback(uri, "unknown")


def test_each_day_replaces_the_one_before(shop):
    for day in (1, 2, 3):
        shop.go_live(day)
    assert shop.marks() == {3: "L", 2: "P", 1: ""}
    newest = registry.releases(shop.uri, shop.name)[0]
    assert (newest.day, newest.run_id, newest.metrics) == (datetime.date(2024, 3, 3), "run-3", {"hit_rate_at_50": 0.2})
    assert [shop.base(day) for day in (1, 2, 3, 4, 9)] == [None, 1, 2, 3, 3]


def test_training_continues_what_has_learned_the_most_and_nothing_of_later_days(shop):
    shop.register(1, learned=2)
    shop.register(2, learned=3)
    shop.register(2, learned=2)  # the same day again, not absorbed
    shop.register(3)  # of before it was recorded
    assert [shop.base(day) for day in (1, 2, 3, 4)] == [None, 1, 2, 4]
    assert [shop.base(day, leaves_rows=True) for day in (1, 2, 3, 4)] == [None, None, 3, 4]


def test_what_withheld_a_tail_has_learned_less_than_what_was_measured_on_the_next_day(shop):
    shop.register(1, learned=1, withheld=Tail(hours=3))
    assert shop.base(2) == 1
    shop.register(1, learned=1)  # the same day again, with holdout: next_day
    shop.register(1, learned=1, withheld=Tail(hours=6))  # and back
    assert [shop.base(day) for day in (1, 2, 3)] == [None, 2, 2]
    shop.register(2, learned=2, withheld=Tail(hours=3))
    assert shop.base(3) == 4


def test_rolling_back_goes_back_step_by_step_until_the_first(shop):
    for day in (1, 2, 3):
        shop.go_live(day)
    assert registry.rollback(shop.uri, shop.name).version == 2
    assert shop.marks() == {3: "R", 2: "L", 1: "P"}
    assert shop.base(4) == 2
    assert registry.rollback(shop.uri, shop.name).version == 1
    assert shop.marks() == {3: "R", 2: "R", 1: "L"}
    with pytest.raises(ValueError, match="version 1 of 2024-03-01 is live and there is no release before it"):
        registry.rollback(shop.uri, shop.name)
    assert shop.marks() == {3: "R", 2: "R", 1: "L"}


def test_rolling_back_further_marks_all_that_is_left_behind(shop):
    for day in (1, 2, 3, 4):
        shop.go_live(day)
    registry.rollback(shop.uri, shop.name, 2)
    assert shop.marks() == {4: "R", 3: "R", 2: "L", 1: "P"}
    shop.go_live(5)
    assert shop.marks() == {5: "L", 4: "R", 3: "R", 2: "P", 1: ""}
    assert registry.rollback(shop.uri, shop.name).version == 2


def test_a_rollback_can_be_taken_back(shop):
    for day in (1, 2, 3):
        shop.go_live(day)
    registry.rollback(shop.uri, shop.name)
    assert registry.rollback(shop.uri, shop.name, 3).version == 3
    assert shop.marks() == {3: "L", 2: "P", 1: ""}


def test_a_release_that_never_was_live_can_be_chosen(shop):
    shop.go_live(2)
    shop.go_live(3)
    shop.register(1)
    registry.rollback(shop.uri, shop.name, 3)
    assert shop.marks() == {3: "L", 2: "P", 1: ""}
    assert registry.rollback(shop.uri, shop.name).version == 2
    older = shop.register(1)
    shop.go_live(4)
    registry.rollback(shop.uri, shop.name, older.version)
    assert shop.marks() == {5: "R", 4: "L", 3: "R", 2: "P", 1: ""}


def test_a_first_release_that_replaces_none(shop):
    shop.register(1)
    shop.go_live(2)
    assert registry.rollback(shop.uri, shop.name, 1).version == 1
    assert shop.marks() == {2: "R", 1: "L"}


def test_what_another_tool_made_live_is_gone_back_to_as_the_first(shop):
    first = shop.register(1)
    shop.client.set_registered_model_alias(shop.name, registry.CHAMPION, "1")
    shop.go_live(2)
    assert registry.rollback(shop.uri, shop.name).version == 1
    assert shop.marks() == {2: "R", 1: "L"}
    assert shop.chain() == [1]
    third = shop.register(3)
    assert registry.promote(shop.client, third) is None
    assert shop.chain() == [3, 1]
    assert registry.rollback(shop.uri, shop.name).version == first.version
    # What was rolled back to once, and stands at the end of the history again.
    registry.rollback(shop.uri, shop.name, 2)
    shop.client.delete_model_version_tag(shop.name, "1", "dayline.replaced")
    registry.tag(shop.client, first, rolled_back=True)
    shop.go_live(4)
    assert registry.rollback(shop.uri, shop.name, 1).version == 1
    assert shop.chain() == [1]


def test_tags_that_go_round_in_a_circle_end_the_history(shop):
    for day in (1, 2, 3):
        shop.go_live(day)
    known = {info.version: info for info in registry.releases(shop.uri, shop.name)}
    registry.tag(shop.client, known[1], replaced=3)
    known = {info.version: info for info in registry.releases(shop.uri, shop.name)}
    assert [info.version for info in registry.history(known[2], known)] == [2, 1, 3]
    assert registry.rollback(shop.uri, shop.name).version == 2
    fourth = shop.register(4)
    assert registry.promote(shop.client, fourth) is None
    assert shop.marks() == {4: "L", 3: "R", 2: "P", 1: ""}


def test_what_cannot_be_chosen_is_said(shop):
    shop.go_live(1)
    shop.go_live(2)
    unchecked = shop.register(3, checked=False)
    with pytest.raises(ValueError, match="no version 9"):
        registry.rollback(shop.uri, shop.name, 9)
    with pytest.raises(ValueError, match="version 2 is live already"):
        registry.rollback(shop.uri, shop.name, 2)
    with pytest.raises(ValueError, match=f"version {unchecked.version} was never loaded back"):
        registry.rollback(shop.uri, shop.name, unchecked.version)
    assert shop.base(9) == 2
    assert shop.marks() == {3: "", 2: "L", 1: "P"}


def test_versions_that_others_registered_are_none_of_ours(shop):
    shop.go_live(1)
    model = shop.client.create_logged_model("0", name="by hand")
    shop.client.finalize_logged_model(model.model_id, "READY")
    shop.client.create_model_version(shop.name, f"models:/{model.model_id}")
    assert shop.marks() == {1: "L"}


def test_more_versions_than_a_page(shop, monkeypatch):
    for day in (1, 2, 3):
        shop.go_live(day)
    search = type(shop.client).search_model_versions
    monkeypatch.setattr(
        type(shop.client),
        "search_model_versions",
        lambda self, text, **fields: search(self, text, max_results=1, **fields),
    )
    assert len(registry.releases(shop.uri, shop.name)) == 3


def test_a_checkpoint_that_is_gone_leaves_a_way_out(shop, tmp_path):
    with pytest.raises(ValueError, match=r"version 1 of 2024-03-01 cannot be continued: .*train\.warm_start=false"):
        registry.load_checkpoint(shop.go_live(1), tmp_path)


def test_a_version_that_was_replaced_does_not_come_back_by_a_rerun(shop):
    """Two runs of one day: the later one stays live, and no version replaces one that replaced it."""
    first, second = shop.go_live(1), shop.go_live(1)
    assert registry.promote(shop.client, first) == "not live: version 2 of 2024-03-01 has replaced it"
    assert registry.promote(shop.client, second) is None
    assert shop.marks() == {2: "L", 1: "P"}
    assert shop.chain() == [2, 1]


def test_what_another_tool_makes_live_meanwhile_is_what_is_replaced(shop, monkeypatch):
    """Between the look and the move another process, without the lock, moves the alias."""
    first = shop.go_live(1)
    other, mine = shop.register(2), shop.register(3)
    tag, moves = registry.tag, []

    def tagging(client, info, **tags):
        tag(client, info, **tags)
        if not moves:
            moves.append(tags)
            tag(client, other, replaced=first.version)
            client.set_registered_model_alias(shop.name, registry.CHAMPION, str(other.version))

    monkeypatch.setattr(aliases, "tag", tagging)
    assert registry.promote(shop.client, mine) is None
    assert shop.marks() == {3: "L", 2: "P", 1: ""}
    assert shop.chain() == [3, 2, 1]
    # One that does so again and again is no reason to go on for ever.
    newest = shop.register(4)
    monkeypatch.setattr(aliases, "make_live", lambda *arguments: False)
    with pytest.raises(RuntimeError, match="other processes keep moving its aliases without the lock"):
        registry.promote(shop.client, newest)
    assert shop.chain() == [3, 2, 1]


def test_what_is_overtaken_in_the_moment_it_goes_live_says_so(shop, monkeypatch):
    first = shop.go_live(1)
    other, mine = shop.register(3), shop.register(2)
    move = aliases.make_live

    def moving(client, info, replaced):
        assert move(client, info, replaced)
        registry.tag(client, other, replaced=first.version)
        client.set_registered_model_alias(shop.name, registry.CHAMPION, str(other.version))
        return True

    monkeypatch.setattr(aliases, "make_live", moving)
    assert registry.promote(shop.client, mine) == "not live: version 2 is, by a process that did not wait for the lock"
    assert shop.chain() == [2, 1]
    # One that names it is simply the next.
    registry.tag(shop.client, other, replaced=mine.version)
    monkeypatch.undo()
    assert shop.chain() == [2, 3, 1]


def test_a_rollback_that_is_crossed_by_another_tool_says_so(shop, monkeypatch):
    for day in (1, 2):
        shop.go_live(day)
    other = shop.register(3)
    tag = registry.tag

    def tagging(client, info, **tags):
        tag(client, info, **tags)
        client.set_registered_model_alias(shop.name, registry.CHAMPION, str(other.version))

    monkeypatch.setattr(aliases, "tag", tagging)
    with pytest.raises(ValueError, match="another process moved the aliases meanwhile, and version 3 of 2024-03-03 is"):
        registry.rollback(shop.uri, shop.name)
    assert shop.marks()[3] == "L"


def test_what_a_release_has_learned_from_is_on_record(shop):
    info = shop.register(1)
    learned = Learned(first_day=FIRST, last_day=FIRST)
    registry.tag(shop.client, info, learned=learned.model_dump(mode="json"))
    assert registry.releases(shop.uri, shop.name)[0].learned == learned
    shop.client.set_model_version_tag(shop.name, str(info.version), "dayline.learned", "{")
    with pytest.raises(ValueError, match="damaged, learned is not JSON; mend the tag, or delete the version"):
        registry.releases(shop.uri, shop.name)
