"""What the pods of every kind on Kubernetes have in common. A manifest is the mapping that its YAML would be."""

from typing import Any

from pipeline.render.description import Kubernetes, Toleration

Manifest = dict[str, Any]
UID = 1000  # of the image's user (infra/Dockerfile)
PROJECT = "/opt/ganpipe"  # in the image
LABELS = {"app.kubernetes.io/name": "ganpipe"}
ACCOUNT = "ganpipe"
DASHBOARD, AGENT = 8265, 52365  # ports that answer a probe without a token: Ray leaves its health checks open

POD_SECURITY: Manifest = {
    "runAsNonRoot": True,
    "runAsUser": UID,
    "runAsGroup": UID,
    "fsGroup": UID,
    "fsGroupChangePolicy": "OnRootMismatch",  # not every file of the workspace at every start
    "seccompProfile": {"type": "RuntimeDefault"},
}
CONTAINER_SECURITY: Manifest = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def resources(cpus: int, memory: str) -> Manifest:
    """Requests are the limits: what Ray counts is what there is. GPUs are an overlay's."""
    amount = {"cpu": str(cpus), "memory": memory}
    return {"requests": dict(amount), "limits": dict(amount)}


def environment(target: Kubernetes) -> list[Manifest]:
    return [{"name": "GANPIPE_WORKSPACE", "value": target.storage.path}]


def credentials(target: Kubernetes) -> list[Manifest]:
    """By reference: no manifest holds one."""
    return [{"secretRef": {"name": target.secret}}]


def mounts(target: Kubernetes) -> list[Manifest]:
    return [{"name": "workspace", "mountPath": target.storage.path}, {"name": "shm", "mountPath": "/dev/shm"}]


def volumes(target: Kubernetes) -> list[Manifest]:
    return [
        {"name": "workspace", "persistentVolumeClaim": {"claimName": target.storage.claim}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": target.resources.shm}},
    ]


def tolerations(values: list[Toleration]) -> list[Manifest]:
    return [
        {"key": one.key, "effect": one.effect}
        | ({"operator": "Exists"} if one.value is None else {"operator": "Equal", "value": one.value})
        for one in values
    ]


def probe(path: str, port: int, *, failures: int) -> Manifest:
    """By HTTP: an image needs neither wget nor curl for it."""
    return {
        "httpGet": {"path": path, "port": port},
        "initialDelaySeconds": 10,
        "periodSeconds": 10,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }


def pod(target: Kubernetes, container: Manifest, *, is_worker: bool) -> Manifest:
    """A pod's template around its one container."""
    spec: Manifest = {
        "serviceAccountName": ACCOUNT,
        "automountServiceAccountToken": False,  # nothing in it talks to Kubernetes
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": target.grace_seconds,
        "securityContext": POD_SECURITY,
        "nodeSelector": {},
        "tolerations": [],
        "containers": [container],
        "volumes": volumes(target),
    }
    if target.priority and not target.queue:  # a queue has its own priorities
        spec["priorityClassName"] = target.priority.name
    if is_worker:
        spec["topologySpreadConstraints"] = [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": {**LABELS, "app.kubernetes.io/component": "worker"}},
            }
        ]
    return {"metadata": {"labels": {**LABELS, "app.kubernetes.io/component": "worker" if is_worker else "head"}}, "spec": spec}
