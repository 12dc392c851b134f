"""Flow runs whose process died: Prefect shows them as running until a later command says what became of them.

Each flow run that begins is held by a file (see `recsys_core.liveness`) in `run_root`, which containers share, and in
Prefect's home, which the configs of one machine share. A flow that begins ends those whose file no process holds.
"""

import atexit
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, TaskRunFilter
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.exceptions import ObjectNotFound
from prefect.flows import Flow
from prefect.settings import get_current_settings
from prefect.states import Cancelled, Crashed

from recsys_core import config as configs
from recsys_core import liveness
from tasks.hidden import reveal

_MESSAGE = "The process of this run was killed; a later run of Dayline found it dead."
_holding = contextlib.ExitStack()
atexit.register(_holding.close)


def begin(flow: Flow[Any, Any], flow_run: FlowRun, state: State[Any]) -> None:  # noqa: ARG001 - Prefect's names
    """Hold the flow run, and end those that no process holds any more; a hook of Prefect's for `on_running`."""
    asked = flow_run.parameters
    try:
        loaded = configs.load(Path(asked["config"]), reveal(asked.get("overrides") or ()))
    except ValueError:
        return  # `start_run` says so in a moment
    places = [loaded.run_root / ".flows", get_current_settings().home / "dayline"]
    for place in places:
        with contextlib.suppress(BlockingIOError):  # the same run, tried again
            _holding.enter_context(_held(place / str(flow_run.id)))
    with get_client(sync_client=True) as client:
        for place in places:
            end_dead(client, place)


def end_dead(client: SyncPrefectClient, place: Path) -> None:
    """Set the state of the flow runs, and of their tasks, that a process held in `place` and left running."""
    for file in sorted(place.iterdir()):
        if file.name.startswith(".") or not liveness.is_dead(file):
            continue
        try:
            state = client.read_flow_run(UUID(file.name)).state
        except ObjectNotFound:
            continue  # another server's
        if state is not None and state.type in (StateType.RUNNING, StateType.CANCELLING):
            _end(client, UUID(file.name), state.type)
        file.unlink(missing_ok=True)


def _end(client: SyncPrefectClient, flow_run_id: UUID, state: StateType) -> None:
    running = {"state": {"type": {"any_": [StateType.RUNNING, StateType.PENDING]}}}
    tasks = client.read_task_runs(
        flow_run_filter=FlowRunFilter.model_validate({"id": {"any_": [flow_run_id]}}),
        task_run_filter=TaskRunFilter.model_validate(running),
    )
    for task in tasks:
        client.set_task_run_state(task.id, Crashed(message=_MESSAGE), force=True)
    ended = Cancelled(message=_MESSAGE) if state == StateType.CANCELLING else Crashed(message=_MESSAGE)
    client.set_flow_run_state(flow_run_id, ended, force=True)


@contextlib.contextmanager
def _held(file: Path) -> Iterator[None]:
    with liveness.held(file):
        yield
        file.unlink(missing_ok=True)
