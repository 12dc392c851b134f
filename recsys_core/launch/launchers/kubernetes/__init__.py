"""Kubernetes: each stage is a TrainJob or a PyTorchJob of Kubeflow; its pods mount the storage of the run directory."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from recsys_core.artifacts import Frozen
from recsys_core.launch.launchers import _remote

_NAME = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"
_QUANTITY = r"^[0-9]+(\.[0-9]+)?(m|[KMGT]i?|k)?$"


class SecretVariable(Frozen):
    """A variable of the stages' processes that a Secret of the namespace holds."""

    name: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    object: str = Field(pattern=_NAME, description="name of the Secret")
    key: str = Field(description="which of its keys holds the value")


class Claim(Frozen):
    """A PersistentVolumeClaim that all pods mount."""

    claim: str = Field(pattern=_NAME, description="name of the PersistentVolumeClaim")
    mount_path: str = Field(pattern="^/", description="where it is mounted, there as here")
    read_only: bool = False


class TrainJob(Frozen):
    """Kubeflow Trainer 2: what is the same for all jobs, volumes too, stands in a runtime of the cluster."""

    kind: Literal["trainjob"] = "trainjob"
    runtime: str = Field(pattern=_NAME, description="name of the runtime")
    runtime_kind: Literal["ClusterTrainingRuntime", "TrainingRuntime"] = "TrainingRuntime"


class PyTorchJob(Frozen):
    """Kubeflow Training Operator 1: the job says all that its pods are."""

    kind: Literal["pytorchjob"] = "pytorchjob"
    claims: tuple[Claim, ...] = Field(min_length=1, description="the storage of the run directory, and of the data")
    service_account: str | None = Field(default=None, pattern=_NAME)
    registry_account: str | None = Field(
        default=None, pattern=_NAME, description="name of the Secret by which the image is pulled"
    )
    node_selector: dict[str, str] = Field(default={}, description="labels of the machines that may be taken")


class Config(_remote.Config):
    """Kubernetes: each stage is a TrainJob or a PyTorchJob of Kubeflow."""

    kind: Literal["kubernetes"] = "kubernetes"
    job: Annotated[TrainJob | PyTorchJob, Field(discriminator="kind", description="which of Kubeflow's jobs")]
    image: str = Field(min_length=1, description="with Dayline installed, of the same version")
    context: str | None = Field(
        default=None, description="of the kubeconfig; null: in a pod its service account, elsewhere the current context"
    )
    namespace: str | None = Field(default=None, pattern=_NAME, description="null: the context's or the pod's own")
    cpus_per_node: int | None = Field(default=None, ge=1)
    memory_per_node: str | None = Field(default=None, pattern=_QUANTITY, description="such as 64Gi")
    gpus_per_node: int | None = Field(default=None, ge=1, description="as nvidia.com/gpu")
    # Not `secrets`: what such a key holds is masked in the configs that are kept, and these are names.
    environment_from: tuple[SecretVariable, ...] = Field(default=(), description="variables that Secrets hold")
    queue: str | None = Field(default=None, pattern=_NAME, description="Kueue's local queue")

    @model_validator(mode="after")
    def _once(self) -> Self:
        names = [one.name for one in self.environment_from]
        twice = next((name for name in names if names.count(name) > 1 or name in self.environment), None)
        if twice is not None:
            raise ValueError(f"environment_from: {twice} is set twice, here or in launch.environment; keep one")
        return self

    @classmethod
    def where_secrets_go(cls) -> str:
        """See `_remote.Config`."""
        return "put it into a Secret of the namespace and name that in launch.environment_from"
