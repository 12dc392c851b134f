"""What Kubeflow's published schemas say of the fields that we write: TrainJob v1alpha1 and PyTorchJob v1.

A field that is not here is one that we do not write. The API server would drop it and say nothing, so it is an error.
"""

from typing import Any

TEXT: dict[str, Any] = {"type": "string"}
TEXTS: dict[str, Any] = {"type": "array", "items": TEXT}
NUMBER: dict[str, Any] = {"type": "integer", "minimum": 0}
MAPPING: dict[str, Any] = {"type": "object", "additionalProperties": TEXT}


def fields(*required: str, **properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": [*required], "additionalProperties": False}


def many(of: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": of}


QUANTITIES = {
    "type": "object",
    "additionalProperties": {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(m|k|[KMGTPE]i?)?$"},
}
RESOURCES = fields(requests=QUANTITIES, limits=QUANTITIES)
SECRET_KEY = fields("key", name=TEXT, key=TEXT)
VARIABLE = fields("name", name=TEXT, value=TEXT, valueFrom=fields(secretKeyRef=SECRET_KEY))
CONTAINER = fields(
    "name",
    name={"const": "pytorch"},  # the operator looks for it
    image=TEXT,
    command=TEXTS,
    env=many(VARIABLE),
    resources=RESOURCES,
    volumeMounts=many(fields("name", "mountPath", name=TEXT, mountPath=TEXT, readOnly={"type": "boolean"})),
)
CLAIM = fields("claimName", claimName=TEXT, readOnly={"type": "boolean"})
POD = fields(
    "containers",
    containers=many(CONTAINER),
    volumes=many(fields("name", name=TEXT, persistentVolumeClaim=CLAIM, emptyDir=fields(medium=TEXT))),
    terminationGracePeriodSeconds=NUMBER,
    serviceAccountName=TEXT,
    imagePullSecrets=many(fields(name=TEXT)),
    nodeSelector=MAPPING,
)
REPLICA = fields(
    replicas=NUMBER,
    restartPolicy={"enum": ["Always", "OnFailure", "Never", "ExitCode"]},
    template=fields(spec=POD),
)
METADATA = fields(
    "name", name={"type": "string", "pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$", "maxLength": 63}, labels=MAPPING
)


def manifest(version: str, kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    named = {"apiVersion": {"const": version}, "kind": {"const": kind}}
    return fields("apiVersion", "kind", "metadata", "spec", **named, metadata=METADATA, spec=spec)


SCHEMAS = {
    "trainjobs": manifest(
        "trainer.kubeflow.org/v1alpha1",
        "TrainJob",
        fields(
            "runtimeRef",
            runtimeRef=fields("name", apiGroup=TEXT, kind=TEXT, name=TEXT),
            trainer=fields(
                image=TEXT, command=TEXTS, env=many(VARIABLE), numNodes=NUMBER, resourcesPerNode=RESOURCES
            ),
        ),
    ),
    "pytorchjobs": manifest(
        "kubeflow.org/v1",
        "PyTorchJob",
        fields(
            "pytorchReplicaSpecs",
            runPolicy=fields(
                cleanPodPolicy={"enum": ["All", "Running", "None"]},
                backoffLimit=NUMBER,
                ttlSecondsAfterFinished=NUMBER,
            ),
            pytorchReplicaSpecs=fields("Master", Master=REPLICA, Worker=REPLICA),
        ),
    ),
}  # fmt: skip
