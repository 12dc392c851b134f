"""The two jobs as Kubeflow's published schemas have them: as much of them as is written here, and no more."""

import hashlib
import re
from typing import NotRequired, TypedDict

from recsys_core.launch.launchers.kubernetes import Config, PyTorchJob, TrainJob

# The names that the schemas and the controllers ask for.
_PYTORCH_CONTAINER = "pytorch"
_QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
_LABEL = "app.kubernetes.io/managed-by"
_LONGEST = 40  # of a name, to which controllers add the pod's
_KEPT_SECONDS = 3600
_MEMORY = "memory"


class SecretKey(TypedDict):
    """Which key of which Secret."""

    name: str
    key: str


class ValueFrom(TypedDict):
    """Where the value of a variable comes from."""

    secretKeyRef: SecretKey


class Variable(TypedDict):
    """A variable of a container."""

    name: str
    valueFrom: NotRequired[ValueFrom]


class Resources(TypedDict, total=False):
    """What a container asks for, and may take."""

    requests: dict[str, str]
    limits: dict[str, str]


class RuntimeRef(TypedDict):
    """Which runtime a TrainJob is of."""

    apiGroup: str
    kind: str
    name: str


class Trainer(TypedDict):
    """What a TrainJob runs on each of its nodes."""

    image: str
    command: list[str]
    env: list[Variable]
    numNodes: int
    resourcesPerNode: Resources


class TrainJobSpec(TypedDict):
    """Of a TrainJob."""

    runtimeRef: RuntimeRef
    trainer: Trainer


class Mount(TypedDict):
    """Where a container has a volume."""

    name: str
    mountPath: str
    readOnly: bool


class Container(TypedDict):
    """What a pod of a PyTorchJob runs."""

    name: str
    image: str
    command: list[str]
    env: list[Variable]
    resources: Resources
    volumeMounts: list[Mount]


class ClaimSource(TypedDict):
    """The claim of a volume."""

    claimName: str
    readOnly: bool


class Memory(TypedDict):
    """A volume in memory."""

    medium: str


class Volume(TypedDict):
    """A volume of a pod."""

    name: str
    persistentVolumeClaim: NotRequired[ClaimSource]
    emptyDir: NotRequired[Memory]


class Reference(TypedDict):
    """Something by its name."""

    name: str


class PodSpec(TypedDict):
    """A pod of a PyTorchJob."""

    containers: list[Container]
    volumes: list[Volume]
    terminationGracePeriodSeconds: int
    serviceAccountName: NotRequired[str]
    imagePullSecrets: NotRequired[list[Reference]]
    nodeSelector: NotRequired[dict[str, str]]


class PodTemplate(TypedDict):
    """What all pods of a replica are made of."""

    spec: PodSpec


class Replica(TypedDict):
    """Pods of one role."""

    replicas: int
    restartPolicy: str
    template: PodTemplate


class RunPolicy(TypedDict):
    """What becomes of a job, and of its pods after it."""

    cleanPodPolicy: str
    backoffLimit: int
    ttlSecondsAfterFinished: int


class PyTorchJobSpec(TypedDict):
    """Of a PyTorchJob."""

    runPolicy: RunPolicy
    pytorchReplicaSpecs: dict[str, Replica]


class Metadata(TypedDict):
    """What a job is called."""

    name: str
    labels: dict[str, str]


class Manifest(TypedDict):
    """A job, as it is created."""

    apiVersion: str
    kind: str
    metadata: Metadata
    spec: TrainJobSpec | PyTorchJobSpec


def manifest(config: Config, stage: str, token: str, command: list[str]) -> Manifest:
    """Return the job of a stage, which runs `command` on each node; `token` is what no other launch has."""
    labels = {_LABEL: "dayline"} | ({_QUEUE_LABEL: config.queue} if config.queue else {})
    meta = Metadata(name=job_name(stage, token), labels=labels)
    if isinstance(config.job, TrainJob):
        return Manifest(
            apiVersion="trainer.kubeflow.org/v1alpha1",
            kind="TrainJob",
            metadata=meta,
            spec=_train_job(config, config.job, command),
        )
    return Manifest(
        apiVersion="kubeflow.org/v1",
        kind="PyTorchJob",
        metadata=meta,
        spec=_pytorch_job(config, config.job, command),
    )


def job_name(stage: str, token: str) -> str:
    """Return a name that Kubernetes takes: letters, digits and dashes, not too long."""
    name = re.sub(r"[^a-z0-9]+", "-", f"dayline-{stage}-".lower())
    return f"{name[: _LONGEST - len(token)]}{token}"


def _train_job(config: Config, job: TrainJob, command: list[str]) -> TrainJobSpec:
    return TrainJobSpec(
        runtimeRef=RuntimeRef(apiGroup="trainer.kubeflow.org", kind=job.runtime_kind, name=job.runtime),
        trainer=Trainer(
            image=config.image,
            command=command,
            env=_variables(config),
            numNodes=config.num_nodes,
            resourcesPerNode=_resources(config),
        ),
    )


def _pytorch_job(config: Config, job: PyTorchJob, command: list[str]) -> PyTorchJobSpec:
    names = {claim.claim: f"v{hashlib.sha256(claim.claim.encode()).hexdigest()[:12]}" for claim in job.claims}
    pod = PodSpec(
        containers=[
            Container(
                name=_PYTORCH_CONTAINER,
                image=config.image,
                command=command,
                env=_variables(config),
                resources=_resources(config),
                volumeMounts=[
                    Mount(name=names[claim.claim], mountPath=claim.mount_path, readOnly=claim.read_only)
                    for claim in job.claims
                ]
                # Ranks of one machine, and NCCL, exchange through it; by default it has 64 MB.
                + [Mount(name=_MEMORY, mountPath="/dev/shm", readOnly=False)],  # noqa: S108 - the kernel's own
            )
        ],
        volumes=[
            Volume(name=name, persistentVolumeClaim=ClaimSource(claimName=claim, readOnly=False))
            for claim, name in names.items()
        ]
        + [Volume(name=_MEMORY, emptyDir=Memory(medium="Memory"))],
        terminationGracePeriodSeconds=round(config.stop_grace_seconds) + 10,
    )
    if job.service_account:
        pod["serviceAccountName"] = job.service_account
    if job.registry_account:
        pod["imagePullSecrets"] = [Reference(name=job.registry_account)]
    if job.node_selector:
        pod["nodeSelector"] = job.node_selector
    replicas = {"Master": 1} | ({"Worker": config.num_nodes - 1} if config.num_nodes > 1 else {})
    return PyTorchJobSpec(
        # A lost pod ends the job: its stage is launched again, and goes on from its last checkpoint.
        runPolicy=RunPolicy(cleanPodPolicy="Running", backoffLimit=0, ttlSecondsAfterFinished=_KEPT_SECONDS),
        pytorchReplicaSpecs={
            role: Replica(replicas=number, restartPolicy="Never", template=PodTemplate(spec=pod))
            for role, number in replicas.items()
        },
    )


def _variables(config: Config) -> list[Variable]:
    """Return those that Secrets hold; the others are in the order that the nodes read."""
    return [
        Variable(name=one.name, valueFrom=ValueFrom(secretKeyRef=SecretKey(name=one.object, key=one.key)))
        for one in config.environment_from
    ]


def _resources(config: Config) -> Resources:
    asked = {
        "cpu": config.cpus_per_node and str(config.cpus_per_node),
        "memory": config.memory_per_node,
        "nvidia.com/gpu": config.gpus_per_node and str(config.gpus_per_node),
    }
    given = {name: value for name, value in asked.items() if value}
    # A node that may use idle cores besides its own is no harm to others; memory and GPUs are never more than asked.
    limits = {name: value for name, value in given.items() if name != "cpu"}
    return Resources(requests=given, limits=limits) if given else Resources()
