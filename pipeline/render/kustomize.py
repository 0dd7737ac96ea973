"""Overlays: JSON patches (RFC 6902, `add` alone) of a base, as kustomize applies them. `applied` does the same, so a dry run needs no kustomize."""

import copy
from dataclasses import dataclass
from typing import Any

from pipeline.render.description import Kubernetes, RayCluster, RayJob, TrainJob
from pipeline.render.pods import Manifest, tolerations

OVERLAYS = ("cpu", "gpu", "spot", "kueue")


@dataclass(frozen=True, kw_only=True)
class Add:
    """A value put at a place: /a/b/0, /list/- for its end, ~1 for a slash in a key."""

    path: str
    value: Any

    def operation(self) -> Manifest:
        return {"op": "add", "path": self.path, "value": self.value}


def _workers(target: Kubernetes) -> tuple[str, str]:
    """Where the workers' pod and their container's resources are."""
    if isinstance(target, TrainJob):
        patched = "/spec/runtimePatches/0/trainingRuntimeSpec/template/spec/replicatedJobs/0/template/spec/template/spec"
        return patched, "/spec/trainer/resourcesPerNode"
    spec = "/spec/rayClusterSpec" if isinstance(target, RayJob) else "/spec"
    pod = f"{spec}/workerGroupSpecs/0/template/spec"
    return pod, f"{pod}/containers/0/resources"


def overlay(name: str, target: Kubernetes) -> list[Add]:
    """What an overlay adds to the base. Raises ValueError where the description has not what it needs."""
    pod, resources = _workers(target)
    if name == "gpu":
        gpus = str(max(1, target.resources.gpus))
        found = [Add(path=f"{resources}/{part}/nvidia.com~1gpu", value=gpus) for part in ("requests", "limits")]
        return found + [Add(path=f"{pod}/tolerations/-", value=one) for one in tolerations(target.gpu_tolerations)]
    if name == "spot" and target.spot:
        found = [Add(path=f"{pod}/nodeSelector/{key.replace('/', '~1')}", value=value) for key, value in target.spot.node_selector.items()]
        return found + [Add(path=f"{pod}/tolerations/-", value=one) for one in tolerations(target.spot.tolerations)]
    if name == "kueue" and target.queue:
        labels = {"queue-name": target.queue.name} | ({"priority-class": target.priority.name} if target.priority else {})
        found = [Add(path=f"/metadata/labels/kueue.x-k8s.io~1{key}", value=value) for key, value in labels.items()]
        return [*found, Add(path="/spec/suspend", value=True)]  # Kueue starts it when its group fits
    return []


def chosen(target: Kubernetes) -> list[str]:
    """The overlays that a description asks for; none is `cpu`, the base as it is."""
    wanted = {"gpu": target.resources.gpus > 0, "spot": target.spot is not None, "kueue": target.queue is not None}
    return [name for name, is_wanted in wanted.items() if is_wanted]


def applied(base: Manifest, patch: list[Add]) -> Manifest:
    """A patched copy. Raises KeyError or IndexError where a place is not there."""
    result = copy.deepcopy(base)
    for add in patch:
        *way, last = [part.replace("~1", "/").replace("~0", "~") for part in add.path.split("/")[1:]]
        place: Any = result
        for part in way:
            place = place[int(part)] if isinstance(place, list) else place[part]
        if isinstance(place, list):
            place.insert(len(place) if last == "-" else int(last), add.value)
        else:
            place[last] = add.value
    return result


def resolved(base: Manifest, target: Kubernetes) -> Manifest:
    """What is sent: the base with every overlay of the description."""
    return applied(base, [add for name in chosen(target) for add in overlay(name, target)])


def tree(base: Manifest, target: RayJob | RayCluster | TrainJob) -> dict[str, Manifest | list[Manifest]]:
    """Path -> content: base, a component for each overlay that can be made, an overlay of each alone, and the description's own choice on top."""
    config, kind = "kustomize.config.k8s.io/v1", base["kind"]
    files: dict[str, Manifest | list[Manifest]] = {
        "base/run.yaml": base,
        "base/kustomization.yaml": {"apiVersion": f"{config}beta1", "kind": "Kustomization", "resources": ["run.yaml"]},
        "kustomization.yaml": {
            "apiVersion": f"{config}beta1",
            "kind": "Kustomization",
            "resources": ["base"],
            "components": [f"components/{name}" for name in chosen(target)],
        },
    }
    for name in OVERLAYS:
        patch = overlay(name, target)
        if patch:
            files[f"components/{name}/patch.yaml"] = [add.operation() for add in patch]
            files[f"components/{name}/kustomization.yaml"] = {
                "apiVersion": f"{config}alpha1",
                "kind": "Component",
                "patches": [{"path": "patch.yaml", "target": {"kind": kind}}],
            }
        if patch or name == "cpu":
            files[f"overlays/{name}/kustomization.yaml"] = {
                "apiVersion": f"{config}beta1",
                "kind": "Kustomization",
                "resources": ["../../base"],
                "components": [f"../../components/{name}"] if patch else [],
            }
    return files
