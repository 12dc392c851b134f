"""Creates the job of a stage through the Kubernetes API, and looks after its pods."""

from typing import Any

from recsys_core.launch.launchers import _remote
from recsys_core.launch.launchers._remote import AwayError, Status
from recsys_core.launch.launchers.base import Stage
from recsys_core.launch.launchers.kubernetes import Config, TrainJob
from recsys_core.launch.launchers.kubernetes.api import Api
from recsys_core.launch.launchers.kubernetes.connection import connection
from recsys_core.launch.launchers.kubernetes.manifest import Manifest, manifest
from recsys_core.launch.meeting import Meeting

# What a pod waits for that does not come by itself.
_HOPELESS = {
    "ImagePullBackOff": "set launch.image to one that the cluster can pull, and name its registry's Secret",
    "InvalidImageName": "set launch.image to the name of an image",
    "ErrImageNeverPull": "set launch.image to one that is on the machines, or may be pulled",
    "CreateContainerConfigError": "look at launch.environment_from: does each Secret exist, with that key?",
    "CreateContainerError": "look at the image and the volumes",
    "RunContainerError": "is Dayline installed in launch.image?",
}
_ENDED = {"Complete": "ended", "Succeeded": "ended", "Failed": "failed"}
_LOG_LINES = 40


class Launcher(_remote.Launcher[Config]):
    """Creates a TrainJob or a PyTorchJob."""

    @property
    def rank_variable(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """See `_remote.Launcher`."""
        return "PET_NODE_RANK" if isinstance(self.config.job, TrainJob) else "RANK"

    @property
    def threads_per_rank(self) -> int | None:
        """See `_remote.Launcher`; a container sees all cores of its machine, whatever it asked for."""
        asked = self.config.cpus_per_node
        return self.config.threads_per_rank or (asked and max(1, asked // self.config.num_ranks))

    def submit(self, stage: Stage, meeting: Meeting) -> "KubernetesJob":
        """See `_remote.Launcher.submit`."""
        command = ["python", "-m", "recsys_core.launch.node", str(meeting.folder)]
        job = manifest(self.config, stage.name, meeting.name, command)
        found = connection(self.config.context)
        plural = f"{job['kind'].lower()}s"
        api = Api(found, self.config.namespace or found.namespace, job["apiVersion"], plural)
        try:
            api.create(job)
        except (AwayError, ValueError) as error:
            api.close()
            raise ValueError(f"{stage.name}: {error}") from error
        return KubernetesJob(api, job, stage, self.config, meeting)


class KubernetesJob(_remote.Job):
    """A TrainJob or a PyTorchJob that was created."""

    def __init__(self, api: Api, job: Manifest, stage: Stage, config: Config, meeting: Meeting) -> None:
        """`job` is what was created."""
        self._job_name = job["metadata"]["name"]
        super().__init__(f"{job['kind']} {self._job_name}", stage, config, meeting)
        self._api = api
        label = "jobset.sigs.k8s.io/jobset-name" if job["kind"] == "TrainJob" else "training.kubeflow.org/job-name"
        self._selector = f"{label}={self._job_name}"
        self._pods: list[dict[str, Any]] = []

    def look(self) -> Status:
        """See `_remote.Job.look`."""
        job = self._api.job(self._job_name)
        if job is None:
            return Status("failed", "it was deleted")
        self._pods = self._api.pods(self._selector) or self._pods
        waits = [_waits_for(self._stage.name, self.name, pod) for pod in self._pods]
        for condition in (job.get("status") or {}).get("conditions") or ():
            if condition.get("status") == "True" and condition.get("type") in _ENDED:
                said = condition.get("message") or condition.get("reason") or condition["type"]
                return Status(_ENDED[condition["type"]], "; ".join([*filter(None, map(_ended, self._pods)), said]))  # pyright: ignore[reportArgumentType]
            if condition.get("status") == "True" and condition.get("type") == "Suspended":
                return Status("queued", f"suspended, as by a queue: {condition.get('message') or 'no reason given'}")
        reason = next(filter(None, waits), None)
        if reason is not None or len(self._pods) < self._config.num_nodes:
            return Status("queued", reason or f"{len(self._pods)} of {self._config.num_nodes} pods are there")
        return Status("running", "its pods begin")

    def output(self) -> str:
        """See `_remote.Job.output`."""
        try:
            return "".join(self._api.log(pod["metadata"]["name"], _LOG_LINES) for pod in self._pods)
        except AwayError:
            return ""

    def cancel(self) -> None:
        """See `_remote.Job.cancel`."""
        try:
            self._api.delete(self._job_name)
        finally:
            self._api.close()

    def finish(self) -> None:
        """Delete the job: all that it wrote is in the run directory."""
        self.cancel()


def _waits_for(stage: str, job: str, pod: dict[str, Any]) -> str | None:
    """Return what a pod waits for, in the cluster's words; None of one that runs, or is done.

    Raises:
        ValueError: it waits for what does not come.
    """
    status = pod.get("status") or {}
    for container in status.get("containerStatuses") or ():
        waiting = (container.get("state") or {}).get("waiting") or {}
        reason = waiting.get("reason")
        if reason in _HOPELESS:
            said = f"{reason}: {waiting['message']}" if waiting.get("message") else reason
            raise ValueError(
                f"{stage}: {job} cannot begin: {said} (image {container.get('image')}); {_HOPELESS[reason]}"
            )
        if reason:
            return f"{pod['metadata']['name']}: {reason}"
    for condition in status.get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return f"{condition.get('reason')}: {condition.get('message') or 'no reason given'}"
    return None


def _ended(pod: dict[str, Any]) -> str | None:
    """Return how a pod that failed has ended."""
    status, name = pod.get("status") or {}, pod["metadata"]["name"]
    if status.get("phase") == "Failed" and status.get("reason"):
        return f"{name}: {status['reason']}"
    for container in status.get("containerStatuses") or ():
        ended = (container.get("state") or {}).get("terminated") or {}
        if ended.get("exitCode"):
            return f"{name}: {ended.get('reason') or 'Error'}, exit code {ended['exitCode']}"
    return None
