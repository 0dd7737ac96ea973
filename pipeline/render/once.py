"""What an administrator makes once for a target on Kubernetes: rights, network, volume, priorities, queue. No run makes these itself."""

from pipeline.render.description import Kubernetes, RayCluster, RayJob
from pipeline.render.pods import ACCOUNT, DASHBOARD, LABELS, Manifest

KUEUE = "kueue.x-k8s.io/v1beta2"


def _named(api: str, kind: str, name: str, namespace: str | None, **fields: object) -> Manifest:
    metadata = {"name": name, **({"namespace": namespace} if namespace else {}), "labels": dict(LABELS)}
    return {"apiVersion": api, "kind": kind, "metadata": metadata, **fields}


def rights(target: Kubernetes) -> list[Manifest]:
    """Pods run as an account that may do nothing. Who submits is bound to the second, which cannot read a Secret or open a shell."""
    group, plural = (
        ("ray.io", ["rayjobs", "rayclusters"]) if isinstance(target, RayJob | RayCluster) else ("trainer.kubeflow.org", ["trainjobs"])
    )
    return [
        _named("v1", "ServiceAccount", ACCOUNT, target.namespace, automountServiceAccountToken=False),
        _named(
            "rbac.authorization.k8s.io/v1",
            "Role",
            "ganpipe-submitter",
            target.namespace,
            rules=[
                {"apiGroups": [group], "resources": plural, "verbs": ["create", "get", "list", "watch", "patch", "delete"]},
                {"apiGroups": [""], "resources": ["pods", "pods/log", "events"], "verbs": ["get", "list", "watch"]},
            ],
        ),
    ]


def network(target: Kubernetes) -> Manifest:
    """Pods of the project reach each other, DNS and the named ports; nobody reaches them but the operator, which asks the dashboard."""
    dns = [{"port": 53, "protocol": protocol} for protocol in ("UDP", "TCP")]
    peers = [{"podSelector": {"matchLabels": LABELS}}]
    operator = {
        "from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": target.operator_namespace}}}],
        "ports": [{"port": DASHBOARD, "protocol": "TCP"}],
    }
    spec = {
        "podSelector": {"matchLabels": LABELS},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": peers}, *([operator] if isinstance(target, RayJob | RayCluster) else [])],
        "egress": [
            {"to": peers},
            {"to": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}}], "ports": dns},
            *([{"ports": [{"port": port, "protocol": "TCP"} for port in target.egress_ports]}] if target.egress_ports else []),
        ],
    }
    return _named("networking.k8s.io/v1", "NetworkPolicy", "ganpipe", target.namespace, spec=spec)


def volume(target: Kubernetes) -> Manifest:
    storage = target.storage
    spec = {
        "accessModes": ["ReadWriteMany"],
        "storageClassName": storage.storage_class,
        "resources": {"requests": {"storage": storage.size}},
    }
    return _named("v1", "PersistentVolumeClaim", storage.claim, target.namespace, spec=spec)


def priorities(target: Kubernetes) -> list[Manifest]:
    if target.priority is None:
        return []
    api, kind = (KUEUE, "WorkloadPriorityClass") if target.queue else ("scheduling.k8s.io/v1", "PriorityClass")
    return [_named(api, kind, target.priority.name, None, value=target.priority.value, description="GAN trainings")]


def queues(target: Kubernetes) -> list[Manifest]:
    """Kueue's objects: a flavor of nodes, a queue of the cluster with its quota, and the namespace's way into it."""
    queue = target.queue
    if queue is None:
        return []
    quota = {"cpu": queue.cpus, "memory": queue.memory, **({"nvidia.com/gpu": queue.gpus} if queue.gpus else {})}
    spec = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": target.namespace}},
        "preemption": {"withinClusterQueue": "LowerPriority"},
        "resourceGroups": [
            {
                "coveredResources": list(quota),
                "flavors": [
                    {"name": queue.flavor, "resources": [{"name": name, "nominalQuota": amount} for name, amount in quota.items()]}
                ],
            }
        ],
    }
    return [
        _named(KUEUE, "ResourceFlavor", queue.flavor, None, spec={"nodeLabels": target.spot.node_selector} if target.spot else {}),
        _named(KUEUE, "ClusterQueue", queue.cluster_queue, None, spec=spec),
        _named(KUEUE, "LocalQueue", queue.name, target.namespace, spec={"clusterQueue": queue.cluster_queue}),
    ]


def once(target: Kubernetes) -> list[Manifest]:
    """In the order in which they are made."""
    levels = {"pod-security.kubernetes.io/enforce": "restricted", "kubernetes.io/metadata.name": target.namespace}
    namespace = _named("v1", "Namespace", target.namespace, None)
    namespace["metadata"]["labels"] |= levels
    return [namespace, *priorities(target), *queues(target), *rights(target), network(target), volume(target)]
