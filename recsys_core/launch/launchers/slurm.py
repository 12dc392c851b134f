"""Slurm: each stage is a job, which submitit submits; its nodes see the run directory, and the same Python, as here.

submitit hands over which function to call as a pickle, in a folder beside the stage's request: as the stages' code, it
is the user's own, and nobody else may write there.
"""

import logging
import math
import time
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from recsys_core.launch import node, processes
from recsys_core.launch.launchers import _remote
from recsys_core.launch.launchers._remote import Status
from recsys_core.launch.launchers.base import Stage
from recsys_core.launch.meeting import Meeting

if TYPE_CHECKING:
    import submitit

_QUEUED = ("PENDING", "CONFIGURING", "REQUEUED", "SUSPENDED", "RESIZING")
_RUNNING = ("RUNNING", "COMPLETING", "STOPPED", "SIGNALING", "STAGE_OUT")
_ENDED = ("COMPLETED", "FINISHED")
_LAST_CHARACTERS = 4_000


class Config(_remote.Config):
    """Slurm: each stage is a job, whose nodes see the run directory, and the same Python, as here."""

    kind: Literal["slurm"] = "slurm"
    cluster: Literal["slurm", "local"] = Field(
        default="slurm", description="local: processes of this machine instead of a job, to try a config"
    )
    partition: str | None = Field(default=None, description="null: Slurm's own default")
    account: str | None = None
    qos: str | None = None
    gpus_per_node: int | None = Field(default=None, ge=1)
    cpus_per_node: int | None = Field(default=None, ge=1)
    memory_gb: float | None = Field(default=None, gt=0, description="of each node")
    time_limit_minutes: int = Field(default=1440, ge=1, description="after which Slurm ends a stage's job")
    options: dict[str, str] = Field(default={}, description="of sbatch, by their long names: {reservation: nightly}")

    @classmethod
    def where_secrets_go(cls) -> str:
        """See `_remote.Config`."""
        return "set it where dayline is started: Slurm hands the environment on"


class Launcher(_remote.Launcher[Config]):
    """Submits a job with one task on each node."""

    @property
    def rank_variable(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """See `_remote.Launcher`."""
        return "SLURM_PROCID" if self.config.cluster == "slurm" else "SUBMITIT_LOCAL_GLOBALID"

    def submit(self, stage: Stage, meeting: Meeting) -> "SlurmJob":
        """See `_remote.Launcher.submit`."""
        import submitit

        logging.getLogger("submitit").setLevel(logging.ERROR)
        config = self.config
        parameters: dict[str, Any] = {
            "name": f"dayline-{stage.name}",
            "timeout_min": config.time_limit_minutes,
            "gpus_per_node": config.gpus_per_node,
            "cpus_per_task": config.cpus_per_node,
            "mem_gb": config.memory_gb,
            "stderr_to_stdout": True,
        }
        if config.cluster == "local":
            parameters |= {"tasks_per_node": config.num_nodes}
        else:
            parameters |= {
                "nodes": config.num_nodes,
                "tasks_per_node": 1,
                "slurm_partition": config.partition,
                "slurm_account": config.account,
                "slurm_qos": config.qos,
                "slurm_signal_delay_s": math.ceil(config.stop_grace_seconds) + 10,
                "slurm_additional_parameters": config.options or None,
            }
        try:
            executor = submitit.AutoExecutor(meeting.folder / "submitit", cluster=config.cluster)
            executor.update_parameters(**{name: value for name, value in parameters.items() if value is not None})
            job = executor.submit(_run, str(meeting.folder))
        except RuntimeError as error:
            first = next(iter(str(error).splitlines()), type(error).__name__)
            raise ValueError(
                f"{stage.name}: Slurm does not take the job: {first}; run where sbatch and srun work, look at "
                "launch.partition, account, qos and options, or set launch.cluster: local to try it here"
            ) from error
        return SlurmJob(job, stage, config, meeting)


def _run(folder: str) -> None:
    """Run a node; what fails there fails in Slurm's eyes too."""
    from pathlib import Path

    if exit_code := node.run(Meeting(Path(folder))):
        raise SystemExit(exit_code)


class SlurmJob(_remote.Job):
    """A job of Slurm, or processes of this machine that stand for it."""

    def __init__(self, job: "submitit.Job[Any]", stage: Stage, config: Config, meeting: Meeting) -> None:
        """`job` was submitted."""
        super().__init__(f"{config.cluster.capitalize()} job {job.job_id}", stage, config, meeting)
        self._config: Config = config
        self._job = job

    def look(self) -> Status:
        """See `_remote.Job.look`."""
        found = self._job.get_info(mode="force")
        words = found.get("State") or found.get("jobState") or "UNKNOWN"
        state = words.partition(" ")[0]
        if state == "UNKNOWN":
            # Accounting does not know it yet, or is not kept at all.
            return Status("unknown", "submitted")
        if state in _QUEUED:
            return Status("queued", words)
        if state in _RUNNING:
            return Status("running", words)
        return Status("ended" if state in _ENDED else "failed", words)

    def output(self) -> str:
        """See `_remote.Job.output`."""
        return (self._job.stdout() or "")[-_LAST_CHARACTERS:]

    def cancel(self) -> None:
        """See `_remote.Job.cancel`."""
        self._job.cancel(check=False)
        self.finish()

    def finish(self) -> None:
        """Wait for processes of this machine; Slurm sees to its own."""
        if self._config.cluster == "local":
            until = time.monotonic() + processes.GRACE_SECONDS
            while not self._job.done() and time.monotonic() < until:
                time.sleep(processes.POLL_SECONDS)
