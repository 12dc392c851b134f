"""What Prefect is given, keeps and shows holds no credentials; the run has them all the same."""

from collections.abc import Callable

import pytest

from recsys_core.progress import Event
from tasks import hidden
from tasks.perform import Run, stage_task

PLAIN = "train.batch_size=512"


def test_an_override_is_hidden_and_found_again() -> None:
    given = [PLAIN, "tracking.uri=postgresql://u:s3cret@h/x", '{"data.source": "https://h/a.zip?token=s3cret"}']
    shown = hidden.hide(given)
    assert shown == [PLAIN, "tracking.uri=postgresql://***@h/x", '{"data.source": "https://h/a.zip?token=***"}']
    assert hidden.reveal(shown) == given
    assert hidden.reveal([PLAIN, "of=another process"]) == [PLAIN, "of=another process"]
    assert hidden.hide(given) == shown


def test_two_that_look_alike_are_distinguished() -> None:
    given = ["data.source=http://u:one@h", "data.source=http://u:two@h", "data.source=http://u:three@h"]
    shown = hidden.hide(given)
    assert len(set(shown)) == 3
    assert hidden.reveal(shown) == given


def test_the_error_of_a_task_holds_no_credentials() -> None:
    @stage_task("fail")
    def fail(uri: str) -> None:
        try:
            raise OSError(2, "No such file", uri)
        except OSError as error:
            raise ValueError(f"{uri}: cannot be read") from error

    assert fail.name == "fail"
    with pytest.raises(ValueError, match=r"^s3://\*\*\*@bucket/a: cannot be read$") as raised:
        fail.fn("s3://key:s3cret@bucket/a")
    assert "s3cret" not in str(raised.value.__cause__)


def test_what_is_logged_of_a_run_holds_no_credentials(open_run: Callable[..., Run]) -> None:
    with open_run() as run:
        run.tracker.log_params(
            {"data": {"source": "http://u:s3cret@h/a?sig=s3cret", "password": "s3cret", "n": [1, "?token=s3cret"]}}
        )
        run.tracker.log_tags({"reason": "password=s3cret"})
        found = run.tracker.client.get_run(run.tracker.mlflow_run_id).data
    assert "s3cret" not in str(found.params) + str(found.tags)
    assert found.params["data.source"] == "http://***@h/a?sig=***"
    event = Event(stage="a", message="http://u:s3cret@h", error="token=s3cret", stopped="Bearer s3cret-s3cret")
    assert "s3cret" not in event.model_dump_json()
