"""Kubeflow Trainer's TrainJob: as many nodes as train, each of which runs infra/node.sh; the first of them drives."""

from pipeline.render.description import TrainJob
from pipeline.render.pods import (
    ACCOUNT,
    CONTAINER_SECURITY,
    LABELS,
    POD_SECURITY,
    PROJECT,
    Manifest,
    environment,
    mounts,
    resources,
    volumes,
)

RAY_PORT = 6379
TOKEN = "RAY_AUTH_TOKEN"  # one for all nodes, which no operator makes here: the run does not start without it
SECRETS = (
    "MLFLOW_TRACKING_URI",
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_S3_ENDPOINT_URL",
    "AWS_ENDPOINT_URL",
    "AWS_REGION",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
)
# The runtime tells a node its rank and where the first is, for torchrun (PET_*); a Ray starts with the same words. DNS has no name before a pod runs.
COMMAND = (
    'until getent hosts "$PET_MASTER_ADDR" >/dev/null; do sleep 1; done; '
    f'exec sh {PROJECT}/infra/node.sh "$PET_NODE_RANK" "$PET_MASTER_ADDR:{RAY_PORT}" "$PET_NNODES" '
)


def train_job(target: TrainJob, name: str, image: str) -> Manifest:
    """Variables of a Secret go in one by one here: a runtime's patch has no envFrom."""
    node = {"name": "node", "securityContext": CONTAINER_SECURITY, "volumeMounts": mounts(target)}
    secret = [
        {"name": one, "valueFrom": {"secretKeyRef": {"name": target.secret, "key": one, "optional": one != TOKEN}}}
        for one in (TOKEN, *SECRETS)
    ]
    pod = {
        "serviceAccountName": ACCOUNT,
        "terminationGracePeriodSeconds": target.grace_seconds,
        "securityContext": POD_SECURITY,
        "nodeSelector": {},
        "tolerations": [],
        "containers": [node],
        "volumes": volumes(target),
    }
    job = {"name": "node", "template": {"spec": {"template": {"metadata": {"labels": dict(LABELS)}, "spec": pod}}}}
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": {"name": name, "namespace": target.namespace, "labels": dict(LABELS)},
        "spec": {
            "runtimeRef": {"name": target.runtime},
            "activeDeadlineSeconds": 3600 * target.hours,
            "trainer": {
                "image": image,
                "command": ["sh", "-c", COMMAND + str(target.resources.cpus)],
                "env": [*environment(target), {"name": "RAY_AUTH_MODE", "value": "token"}, *secret],
                "numNodes": target.resources.workers,
                "resourcesPerNode": resources(target.resources.cpus, target.resources.memory),
            },
            "runtimePatches": [{"manager": "ganpipe.io/render", "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": [job]}}}}],
        },
    }
