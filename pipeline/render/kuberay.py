"""KubeRay's RayJob and RayCluster (ray.io/v1) before any overlay, and where overlays reach into them."""

from pipeline.render.description import Kubernetes, RayCluster, RayJob
from pipeline.render.pods import (
    AGENT,
    CONTAINER_SECURITY,
    DASHBOARD,
    LABELS,
    PROJECT,
    Manifest,
    credentials,
    environment,
    mounts,
    pod,
    probe,
    resources,
    volumes,
)


def _container(target: Kubernetes, name: str, image: str, **more: object) -> Manifest:
    return {
        "name": name,
        "image": image,
        "env": environment(target),
        "envFrom": credentials(target),
        "securityContext": CONTAINER_SECURITY,
        "volumeMounts": mounts(target),
        **more,
    }


def cluster_spec(target: RayJob | RayCluster, *, image: str, ray_version: str, fewest: int, drain_seconds: int) -> Manifest:
    """`spec` of a RayCluster.

    Args:
        fewest: worker pods that a training may go on with, where it is elastic.
        drain_seconds: a training in the head that is to end gets so long for its last checkpoint.
    """
    head = _container(
        target,
        "ray-head",
        image,
        ports=[
            {"containerPort": 6379, "name": "gcs-server"},
            {"containerPort": DASHBOARD, "name": "dashboard"},
            {"containerPort": 10001, "name": "client"},
        ],
        resources=resources(target.head.cpus, target.head.memory),
        readinessProbe=probe("/api/gcs_healthz", DASHBOARD, failures=6),
        livenessProbe=probe("/api/gcs_healthz", DASHBOARD, failures=60),
        lifecycle={"preStop": {"exec": {"command": ["sh", f"{PROJECT}/infra/drain.sh", str(drain_seconds)]}}},
    )
    worker = _container(
        target,
        "ray-worker",
        image,
        resources=resources(target.resources.cpus, target.resources.memory),
        readinessProbe=probe("/api/local_raylet_healthz", AGENT, failures=6),
        livenessProbe=probe("/api/local_raylet_healthz", AGENT, failures=60),
    )
    return {
        "rayVersion": ray_version,
        "authOptions": {"mode": "token"},  # the operator makes the Secret and hands it to the pods and to who submits
        "headGroupSpec": {
            "serviceType": "ClusterIP",  # the dashboard is not open: kubectl port-forward, with the token
            "rayStartParams": {"dashboard-host": "0.0.0.0", "num-cpus": "0"},  # the other stages run here, outside Ray's count
            "template": pod(target, head, is_worker=False),
        },
        "workerGroupSpecs": [
            {
                "groupName": "train",
                "replicas": target.resources.workers,
                "minReplicas": fewest,
                "maxReplicas": target.resources.workers,
                "rayStartParams": {},
                "template": pod(target, worker, is_worker=True),
            }
        ],
    }


def ray_cluster(target: RayCluster, name: str, spec: Manifest) -> Manifest:
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "metadata": {"name": name, "namespace": target.namespace, "labels": dict(LABELS)},
        "spec": spec,
    }


def ray_job(target: RayJob, name: str, image: str, spec: Manifest) -> Manifest:
    submitter = pod(target, _container(target, "ray-job-submitter", image, resources=resources(1, "1Gi")), is_worker=False)
    submitter["metadata"]["labels"]["app.kubernetes.io/component"] = "submitter"
    submitter["spec"] |= {"restartPolicy": "Never", "volumes": volumes(target)}
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": name, "namespace": target.namespace, "labels": dict(LABELS)},
        "spec": {
            "entrypoint": f"sh {PROJECT}/infra/job.sh",
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": target.keep_seconds,
            "activeDeadlineSeconds": 3600 * target.hours,
            "backoffLimit": target.retries,
            "submitterPodTemplate": submitter,
            "rayClusterSpec": spec,
        },
    }
