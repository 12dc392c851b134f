"""What a training leaves beside its artifact for other programs to show: TensorBoard's events, a profiler's trace."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from recsys_core.distributed import World
from recsys_core.progress import Event, Sink
from recsys_core.training.config import Profile


@contextlib.contextmanager
def tensorboard(directory: Path, sink: Sink, *, step: int) -> Iterator[Sink]:
    """Inside, events of the yielded sink go to TensorBoard's files in `directory` as well as to `sink`.

    Points after `step`, from which training goes on, are taken back.
    """
    # It takes a second to import.
    from torch.utils.tensorboard.writer import SummaryWriter

    with SummaryWriter(str(directory), purge_step=step + 1 if step else None) as writer:

        def both(event: Event) -> None:
            for name, value in event.metrics.items():
                writer.add_scalar(f"{event.stage}/{name}", value, event.step)
            sink(event)

        yield both


@contextlib.contextmanager
def profiled(config: Profile | None, directory: Path, world: World, *, step: int) -> Iterator[Callable[[], None]]:
    """Inside, record the steps that `config` says; call what is yielded after each one.

    Each rank writes `rank-<n>.json.gz` to `directory`, which chrome://tracing and https://ui.perfetto.dev open. A
    training that goes on from beyond them records nothing.
    """
    if config is None or step >= config.start:
        yield lambda: None
        return
    activities = [torch.profiler.ProfilerActivity.CPU]
    if world.device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)

    def write(profile: torch.profiler.profile) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        profile.export_chrome_trace(str(directory / f"rank-{world.rank}.json.gz"))

    # The profiler's own start-up falls into the step before the first that counts.
    schedule = torch.profiler.schedule(wait=config.start - step - 1, warmup=1, active=config.steps, repeat=1)
    with torch.profiler.profile(
        activities=activities, schedule=schedule, on_trace_ready=write, record_shapes=True
    ) as profile:
        yield profile.step
